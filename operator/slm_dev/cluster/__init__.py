"""A real Kubernetes of one node on this host, with containers and simulated GPUs."""

from slm_dev.cluster.client import Client, KubectlError
from slm_dev.cluster.cluster import Cluster, ClusterStartError, host_lock, remove_cluster
from slm_dev.cluster.layout import Layout
from slm_dev.cluster.network import HostError
from slm_dev.cluster.programs import Programs, ProgramsMissing, find_or_build
from slm_dev.cluster.requirements import obstacles
from slm_dev.cluster.waiting import WaitError, until

__all__ = [
    "Client",
    "Cluster",
    "ClusterStartError",
    "HostError",
    "KubectlError",
    "Layout",
    "Programs",
    "ProgramsMissing",
    "WaitError",
    "find_or_build",
    "host_lock",
    "obstacles",
    "remove_cluster",
    "until",
]
