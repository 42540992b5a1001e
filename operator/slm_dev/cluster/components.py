"""The cluster's programs: their command lines, in the order in which they are started. Pure."""

from dataclasses import dataclass
from pathlib import Path

from slm_dev.cluster.layout import Layout
from slm_dev.cluster.programs import Programs
from slm_dev.controlplane import commands

METRICS_PORT = 10270
"""Of metrics-server."""
NODE_GRACE_SECONDS = 25
"""After it a silent node counts as not ready: as many of its heartbeats as by default, of 50 s."""


@dataclass(frozen=True)
class Component:
    """One program of the cluster."""

    name: str
    command: tuple[str, ...]


def control_plane(layout: Layout, programs: Programs) -> tuple[Component, ...]:
    """What holds the objects: etcd and the API server."""
    binaries = programs.control_plane
    keys = layout.credentials
    apiserver = [
        *commands.kube_apiserver(binaries, layout.address, layout.api_port),
        *commands.audit(layout.audit_log),
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={keys}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={keys}/apiserver-kubelet-client.key",
        # Requests for metrics go on to metrics-server, with the name of who asked.
        f"--requestheader-client-ca-file={keys}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys}/front-proxy-client.crt",
        f"--proxy-client-key-file={keys}/front-proxy-client.key",
        "--enable-aggregator-routing",
    ]
    return (
        Component("etcd", tuple(commands.etcd(binaries))),
        Component("kube-apiserver", tuple(apiserver)),
    )


def containerd(layout: Layout) -> Component:
    """What runs containers."""
    return Component("containerd", ("containerd", f"--config={layout.data}/containerd.toml"))


def controllers(layout: Layout, programs: Programs, gpus: int) -> tuple[Component, ...]:
    """What acts on the objects: controllers, and all of the node but containerd."""
    node = programs.node
    return (
        Component(
            "kube-controller-manager",
            (
                *_of(node, layout, "kube-controller-manager"),
                f"--service-account-private-key-file={layout.data}/service-account.key",
                f"--root-ca-file={layout.authority}",
                "--use-service-account-credentials",
                f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
                "--node-monitor-period=2s",
                "--leader-elect=false",
                "--secure-port=0",
                f"--flex-volume-plugin-dir={layout.kubelet}/volume-plugins",
            ),
        ),
        Component(
            "kube-scheduler",
            (*_of(node, layout, "kube-scheduler"), "--leader-elect=false", "--secure-port=0"),
        ),
        Component(
            "kubelet",
            (
                *_of(node, layout, "kubelet"),
                f"--config={layout.data}/kubelet.json",
                f"--hostname-override={layout.node}",
                f"--node-ip={layout.address}",
                f"--root-dir={layout.kubelet}",
                f"--cert-dir={layout.kubelet}/certificates",
            ),
        ),
        Component(
            "kube-proxy", (str(node / "kube-proxy"), f"--config={layout.data}/kube-proxy.json")
        ),
        Component(
            "slm-device-plugin",
            (
                str(node / "slm-device-plugin"),
                f"--count={gpus}",
                f"--unhealthy-file={layout.unhealthy_gpus}",
            ),
        ),
        Component(
            "metrics-server",
            (
                *_of(node, layout, "metrics-server"),
                f"--bind-address={layout.address}",
                f"--secure-port={METRICS_PORT}",
                f"--cert-dir={layout.data}/metrics-server",
            ),
        ),
    )


def _of(node: Path, layout: Layout, name: str) -> tuple[str, str]:
    return (str(node / name), f"--kubeconfig={layout.kubeconfig(name)}")
