"""Learned profiles in the cluster: one ConfigMap in each namespace, one entry a configuration.

The namespace is the service's own, so that nobody is told figures that another tenant made up. The
name is fixed, so the operator needs no right to any other ConfigMap. Each entry belongs to a field
manager of its own: services that write at the same time take nothing from each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from slm_operator.api.models import GROUP
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Object, get_or_none
from slm_operator.decide.profile_record import Profile, encode, merged, oldest, same_findings
from slm_operator.decide.snapshot import StoredProfile
from slm_operator.render.children import MANAGED_BY, MANAGED_BY_LABEL

CONFIG_MAP = "slm-profiles"
PROFILES_LABEL = f"{GROUP}/profiles"
LABELS = {MANAGED_BY_LABEL: MANAGED_BY, PROFILES_LABEL: "v1"}


class Profiles:
    """Reads and writes. An outage raises KubeError; a refusal is a part of the answer, since no
    service has to wait for a profile."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def read(self, namespace: str, key: str) -> StoredProfile:
        try:
            return StoredProfile(key, (await entries(self._kube, namespace)).get(key))
        except KubeError as error:
            if not error.is_refusal:
                raise
            return StoredProfile(key, None, str(error))

    async def keep(self, namespace: str, profile: Profile, now: str) -> None:
        """Writes ``profile`` with what is stored beyond it, if that tells anything new. Where there
        are too many the oldest go. Raises KubeError, too, when it is refused."""
        stored = await entries(self._kube, namespace)
        whole = merged(stored.get(profile.key), profile, now)
        if same_findings(stored.get(profile.key), whole, now):
            return
        for key in oldest(stored, profile.key, now):
            await self._kube.apply(_config_map(namespace, {}), force=True, manager=_manager(key))
        data = {profile.key: encode(whole)}
        manager = _manager(profile.key)
        await self._kube.apply(_config_map(namespace, data), force=True, manager=manager)


async def entries(kube: Kube, namespace: str) -> dict[str, str]:
    """Each entry's text by its key; empty where no service has written one. Raises KubeError."""
    found = await get_or_none(kube, "v1", "ConfigMap", CONFIG_MAP, namespace) or {}
    return dict(found.get("data") or {})


def _config_map(namespace: str, data: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": LABELS},
        "data": dict(data),
    }


def _manager(key: str) -> str:
    """Kubernetes allows 128 characters."""
    return f"slm-profile-{key}"[:128]
