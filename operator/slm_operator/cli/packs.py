"""Which packs a service has, for commands that look into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slm_operator.cli import lookup
from slm_operator.cluster.kube import Kube, Object
from slm_operator.cluster.pods import read_pack
from slm_operator.decide.snapshot import Pack
from slm_operator.render.children import INSTANCE_LABEL, MANAGED_BY, MANAGED_BY_LABEL


@dataclass(frozen=True)
class ServicePack:
    """One pack, and the service that it belongs to."""

    service: str
    simulated: bool
    pack: Pack

    @property
    def name(self) -> str:
        return self.pack.name

    @property
    def answers(self) -> bool:
        """Whether its agent can be asked."""
        return bool(self.pack.address)


async def of_services(kube: Kube, namespace: str, name: str | None) -> list[ServicePack]:
    """The packs of the service ``name``, or of all of the namespace, by service and ordinal.
    Raises KubeError, and LookupFailedError when there is none."""
    if name is not None:
        services: Sequence[Object] = [await lookup.service(kube, namespace, name)]
    else:
        services = await lookup.services(kube, namespace)
    labels = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
    if name is not None:
        labels += f",{INSTANCE_LABEL}={name}"
    kinds = {s["metadata"]["name"]: _gpu_kind(s) for s in services}
    found = []
    for pod in await kube.list("v1", "Pod", namespace, labels=labels):
        owner = pod["metadata"].get("labels", {}).get(INSTANCE_LABEL, "")
        if owner in kinds:
            found.append(ServicePack(owner, kinds[owner] == "Simulated", read_pack(pod)))
    if not found:
        who = f"SLMService {name} has" if name else f"the SLMServices of namespace {namespace} have"
        ask = f"`slmctl get {name}`" if name else "`slmctl get`"
        raise lookup.LookupFailedError(f"{who} no pack yet: {ask} tells why")
    return sorted(found, key=lambda p: (p.service, p.pack.ordinal))


def _gpu_kind(service: Object) -> Any:
    return (service["spec"].get("gpu") or {}).get("kind")
