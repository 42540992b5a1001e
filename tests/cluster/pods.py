"""Builds the Pods of tests."""

from typing import Any

from slm_dev.cluster.config import PROBE_IMAGE

PORT = 8080
GPUS = 2
"""How many simulated GPUs the tests' cluster has."""


def probe(name: str, namespace: str, gpus: int = 0) -> dict[str, Any]:
    """A Pod that serves its name on `PORT`, and can ask other servers: `/probe get URL`."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "probe",
                    "image": PROBE_IMAGE,
                    "imagePullPolicy": "Never",
                    "args": ["serve", f":{PORT}"],
                    "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {},
                }
            ],
        },
    }


def service(name: str, namespace: str) -> dict[str, Any]:
    """A Service, on port 80, of the Pod of the same name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": PORT}]},
    }
