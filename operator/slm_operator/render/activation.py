"""Builder of the EndpointSlices that lead clients of a service without packs to the activator.

Kubernetes keeps slices of its own for the Service's ready packs; kube-proxy takes all slices of a
Service together.
"""

from __future__ import annotations

from ipaddress import ip_address

from slm_operator.api.models import SLMService
from slm_operator.render.children import MANAGED_BY, Object, child_metadata

API_VERSION = "discovery.k8s.io/v1"
KIND = "EndpointSlice"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
"""Of slices: whose they are, which Kubernetes' own controller leaves alone."""


def slice_name(service: str, ip_version: int = 4) -> str:
    return f"{service}-activator" + ("-ipv6" if ip_version == 6 else "")


def activator_slices(service: SLMService, address: str, port: int, active: bool) -> list[Object]:
    """One for each family of addresses, since a slice cannot change its own. ``active``: whether
    clients shall reach the activator at ``address``; else they are there and empty."""
    led_to = ip_address(address).version if active else None
    return [_slice(service, each, address if each == led_to else "", port) for each in (4, 6)]


def _slice(service: SLMService, ip_version: int, address: str, port: int) -> Object:
    found = child_metadata(service, slice_name(service.name, ip_version))
    found["labels"] = {
        **found["labels"],
        "kubernetes.io/service-name": service.name,
        MANAGED_BY_LABEL: MANAGED_BY,
    }
    endpoint = {"addresses": [address], "conditions": {"ready": True}}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": found,
        "addressType": f"IPv{ip_version}",
        "endpoints": [endpoint] if address else [],
        # By the name of the Service's own port.
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }
