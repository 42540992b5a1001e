"""A real Kubernetes control plane (etcd and kube-apiserver) for tests, demos and benchmarks."""

from slm_dev.controlplane.binaries import Binaries, ControlPlaneMissing, find_or_build
from slm_dev.controlplane.build import ControlPlaneBuildError
from slm_dev.controlplane.credentials import UserName
from slm_dev.controlplane.server import ControlPlane, ControlPlaneStartError

__all__ = [
    "Binaries",
    "ControlPlane",
    "ControlPlaneBuildError",
    "ControlPlaneMissing",
    "ControlPlaneStartError",
    "UserName",
    "find_or_build",
]
