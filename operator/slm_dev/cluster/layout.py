"""Where the development cluster keeps its files, and the addresses that it uses."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from slm_dev.controlplane.commands import SERVICES

_PODS = IPv4Network("10.244.0.0/16")


@dataclass(frozen=True)
class Layout:
    """Names, folders and addresses of one cluster. All that it leaves on the host follows from it.

    There is one cluster to a host: the kubelet and kube-proxy have fixed names for some of theirs.
    """

    data: Path = Path("/var/lib/slm-cluster")
    """What is kept on disk: etcd's data, images, containers, volumes, logs, credentials."""
    runtime: Path = Path("/run/slm-cluster")
    """Sockets, and mounts of running containers."""
    link: str = "slm0"
    """The network device that holds the node's address."""
    cgroup: str = "slm-cluster"
    """The control group, in each hierarchy, that holds all containers."""
    node: str = "slm-node"
    pods: IPv4Network = _PODS
    services: IPv4Network = SERVICES
    api_port: int = 6443

    @property
    def address(self) -> IPv4Address:
        """The node's address: of the API server and the kubelet, and the gateway of all Pods."""
        return self.pods[1]

    @property
    def dns(self) -> IPv4Address:
        """The address of the DNS Service."""
        return self.services[10]

    @property
    def api_url(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def credentials(self) -> Path:
        return self.data / "credentials"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def audit_log(self) -> Path:
        """One JSON line of metadata for each request to the API server."""
        return self.logs / "audit.log"

    @property
    def pod_logs(self) -> Path:
        return self.data / "pod-logs"

    @property
    def processes(self) -> Path:
        """One file for each program that runs."""
        return self.runtime / "processes"

    @property
    def kubelet(self) -> Path:
        return self.data / "kubelet"

    @property
    def containerd_socket(self) -> Path:
        return self.runtime / "containerd.sock"

    @property
    def unhealthy_gpus(self) -> Path:
        """Names GPUs that the device plugin reports as unhealthy, one a line."""
        return self.data / "unhealthy-gpus"

    @property
    def authority(self) -> Path:
        """The API server's own certificate."""
        return self.data / "certificates" / "apiserver.crt"

    def kubeconfig(self, user: str) -> Path:
        return self.credentials / f"{user}.kubeconfig"
