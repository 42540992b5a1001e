"""Kubeconfig files: what they say of the cluster and its user, whose token may change meanwhile."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import client, config

log = logging.getLogger(__name__)

UNUSABLE_CONFIGURATION = (
    config.ConfigException,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    yaml.YAMLError,
)
"""What the client raises for a kubeconfig that is missing, no YAML, incomplete, or of another
form."""

LOOK_SECONDS = 60.0
"""Between two looks for a newer token, as within a Pod. A command that said when its token ends is
asked for another in the last five minutes alone."""
PATIENCE_SECONDS = 5.0
"""So long a request waits for such a look; then it goes with the token that is there."""


@dataclass(frozen=True)
class Kubeconfig:
    """``files``: those that say anything, as KUBECONFIG lists them. ``context``: that to go by."""

    files: str
    context: str
    namespace: str


def read_kubeconfig(files: str) -> Kubeconfig | None:
    """As kubectl reads several files: the first current context holds, where the client takes the
    last. None where there is none. Raises one of UNUSABLE_CONFIGURATION."""
    said: dict[str, dict[str, Any]] = {}
    for each in files.split(os.pathsep):
        path = Path(each).expanduser()
        document = yaml.safe_load(path.read_text()) if each and path.exists() else None
        if isinstance(document, dict):
            said[each] = document
        elif document is not None:
            raise config.ConfigException(f"{each} is no kubeconfig")
    currents = (document.get("current-context") for document in said.values())
    current = next((each for each in currents if each), None)
    if current is None:
        return None
    contexts = [each for document in said.values() for each in document.get("contexts") or ()]
    namespaces = (each["context"].get("namespace") for each in contexts if each["name"] == current)
    return Kubeconfig(os.pathsep.join(said), current, next(namespaces, None) or "default")


async def load(files: str, settings: client.Configuration) -> None:
    """Raises one of UNUSABLE_CONFIGURATION."""
    found = read_kubeconfig(files)
    if found is None:
        raise config.ConfigException(f"{files} has no current-context")
    loader = await config.load_kube_config(
        found.files, found.context, client_configuration=settings
    )
    _refuse_a_silent_command(loader)
    if hasattr(loader, "token"):
        # It is said to be None.
        settings.refresh_api_key_hook = _Renewal(loader)  # type: ignore[assignment]


def _refuse_a_silent_command(loader: Any) -> None:
    """The client only logs that a command failed, and goes on as nobody, whom a new look for a
    token would not come to."""
    user = loader._user
    known = getattr(loader, "token", None) or getattr(loader, "cert_file", None)
    if user and "exec" in user and not known:
        raise config.ConfigException(
            f"its user's command {user['exec']['command']} gave neither a token nor a certificate: "
            "see why by running it"
        )


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
