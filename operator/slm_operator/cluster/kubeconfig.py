"""Kubeconfig files: what they say of the cluster and its user, whose token may change meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import client, config

log = logging.getLogger(__name__)

UNUSABLE_CONFIGURATION = (config.ConfigException, OSError, TypeError, ValueError, yaml.YAMLError)
"""What the client raises for a kubeconfig that is missing, empty, no YAML, or incomplete."""

LOOK_SECONDS = 60.0
"""Between two looks for a newer token, as within a Pod. A command that said when its token ends is
asked for another in the last five minutes alone."""
PATIENCE_SECONDS = 5.0
"""So long a request waits for such a look; then it goes with the token that is there."""


async def load(files: str, settings: client.Configuration) -> None:
    loader = await config.load_kube_config(files, client_configuration=settings)
    if hasattr(loader, "token"):
        # It is said to be None.
        settings.refresh_api_key_hook = _Renewal(loader)  # type: ignore[assignment]


class _Renewal:
    """Asked before each request, of which many are under way at a time. A command that hangs keeps
    others from being started, and not the requests from being sent."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._looked = asyncio.get_running_loop().time()
        self._look: asyncio.Task[None] | None = None

    async def __call__(self, used: client.Configuration) -> None:
        now = asyncio.get_running_loop().time()
        idle = self._look is None or self._look.done()
        if idle and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look = asyncio.create_task(self._load_anew(used))
        if self._look is not None:
            rest = self._looked + PATIENCE_SECONDS - now
            await asyncio.wait({self._look}, timeout=max(rest, 0.0))

    async def _load_anew(self, used: client.Configuration) -> None:
        tell = asyncio.get_running_loop().call_later(
            PATIENCE_SECONDS,
            log.warning,
            "the kubeconfig's user has no answer for a newer token yet: the last one is used",
        )
        try:
            await self._loader.load_and_set(used)
        except (*UNUSABLE_CONFIGURATION, aiohttp.ClientError) as error:
            log.warning("no newer token of the kubeconfig's user: %s", error)
        finally:
            tell.cancel()
