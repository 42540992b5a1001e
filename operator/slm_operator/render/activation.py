"""Builder of the EndpointSlice that leads clients of a service without packs to the activator.

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
NOWHERE = "0.0.0.0"  # noqa: S104 - an address of a slice without endpoints


def slice_name(service: str) -> str:
    return f"{service}-activator"


def activator_slice(service: SLMService, address: str, port: int, active: bool) -> Object:
    """``active``: whether clients shall reach the activator; else the slice is there and empty."""
    found = child_metadata(service, slice_name(service.name))
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
        "addressType": f"IPv{ip_address(address).version}",
        "endpoints": [endpoint] if active else [],
        # By the name of the Service's own port.
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }
