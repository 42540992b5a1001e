"""Starts, changes and removes the development cluster of this host."""

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slm_dev import go_build
from slm_dev.cluster import components, config, kernel, manifests, network, teardown, waiting
from slm_dev.cluster.client import Client, KubectlError
from slm_dev.cluster.components import Component
from slm_dev.cluster.layout import Layout
from slm_dev.cluster.network import HostError, run
from slm_dev.cluster.process import DetachedProcess
from slm_dev.cluster.programs import Programs
from slm_dev.cluster.requirements import obstacles
from slm_dev.cluster.static_image import write_static_image
from slm_dev.cluster.users import ADMIN, write_credentials
from slm_dev.controlplane import commands

START_SECONDS = 180.0
_GPUS = "gpus"
_ORDER_OF_END = (
    "slm-device-plugin",
    "metrics-server",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "containerd",
    "kube-apiserver",
    "etcd",
)


class ClusterStartError(RuntimeError):
    """The cluster did not start."""


@contextmanager
def host_lock(progress: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from starting or removing the host's one cluster meanwhile."""
    path = go_build.cache_folder() / "cluster.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another process has the cluster of this host; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Cluster(Client):
    """The host's one cluster; whoever starts or removes it holds `host_lock`.

    It outlives this process. All calls block.
    """

    def __init__(self, programs: Programs, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()
        self._programs = programs
        super().__init__(programs.control_plane.kubectl, self.layout.kubeconfig(ADMIN))

    def running(self) -> bool:
        """Whether a whole cluster runs."""
        return self.layout.processes.is_dir() and all(
            self._process(name).running() for name in _ORDER_OF_END
        )

    def start(self, gpus: int = 2, images: Sequence[Path] = ()) -> None:
        """Start a cluster with so many simulated GPUs, and import images from their tar files.

        Nothing but the import is done if it runs already. What a crashed one left is removed first.

        Raises:
            ClusterStartError: the host lacks something, or a program did not come up.
        """
        problems = obstacles()
        if problems:
            raise ClusterStartError("A cluster cannot run here: " + "; ".join(problems) + ".")
        if not self.running():
            self.remove()
            taken = network.overlaps(self.layout)
            if taken:
                raise ClusterStartError(
                    f"The cluster needs {self.layout.pods} and {self.layout.services}, which this "
                    f"host routes elsewhere: {', '.join(taken)}. Remove those routes first."
                )
            self._prepare(gpus)
            for component in components.control_plane(self.layout, self._programs):
                self._start(component)
            self._start(components.containerd(self.layout))
            self._import_own_images()
            self._await_api_server()
            # First, since the programs end, or wait long, where they have no rights yet.
            self.apply(*manifests.system_objects(self.layout))
            for component in components.controllers(self.layout, self._programs, gpus):
                self._start(component)
            self._await_node(gpus)
        for image in images:
            self.import_image(image)

    def remove(self) -> None:
        """Remove every trace of the cluster; nothing is done where there is none."""
        remove_cluster(self.layout)

    def import_image(self, archive: Path) -> None:
        """Make the images of a tar file, of ``docker save`` or OCI layout, known to the node."""
        socket = str(self.layout.containerd_socket)
        run("ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--no-unpack", str(archive))

    def stop_program(self, name: str) -> None:
        """End one of the cluster's programs, by its name, as an administrator would."""
        self._process(name).stop()

    def kill_program(self, name: str) -> None:
        """End one of the cluster's programs as a crash would."""
        self._process(name).kill()

    def start_program(self, name: str) -> None:
        """Start one of the cluster's programs again."""
        state = json.loads((self.layout.data / "cluster.json").read_text())
        known = (
            *components.control_plane(self.layout, self._programs),
            components.containerd(self.layout),
            *components.controllers(self.layout, self._programs, state[_GPUS]),
        )
        self._start({component.name: component for component in known}[name])

    def set_unhealthy_gpus(self, *names: str) -> None:
        """Let the device plugin report exactly these, of `GPU-sim-0` and so on, as unhealthy."""
        # Replaced as a whole, so that the plugin never reads half of it.
        new = self.layout.unhealthy_gpus.with_suffix(".new")
        new.write_text("\n".join(names))
        new.rename(self.layout.unhealthy_gpus)

    def _prepare(self, gpus: int) -> None:
        layout = self.layout
        for folder in (layout.data, layout.runtime):
            folder.mkdir(parents=True, mode=0o711)
        for folder in (layout.logs, layout.processes, layout.kubelet, layout.data / "cni"):
            folder.mkdir()
        (layout.data / "cluster.json").write_text(json.dumps({_GPUS: gpus}))
        kernel.save(layout.data / teardown.HOST_RECORD)
        kernel.forward_packets()
        network.create(layout)
        for folder in teardown.hierarchies():
            (folder / layout.cgroup).mkdir(exist_ok=True)
        write_credentials(layout)
        for name, content in (
            ("audit-policy.json", commands.AUDIT_POLICY),
            ("kubelet.json", config.kubelet(layout)),
            ("kube-proxy.json", config.kube_proxy(layout)),
            ("cni/10-slm.conflist", config.cni(layout)),
        ):
            (layout.data / name).write_text(json.dumps(content, indent=2) + "\n")
        (layout.data / "containerd.toml").write_text(config.containerd(layout))

    def _process(self, name: str) -> DetachedProcess:
        return _process(self.layout, name)

    def _start(self, component: Component) -> None:
        self._process(component.name).start(component.command, self.layout.data)

    def _import_own_images(self) -> None:
        self._await("containerd", lambda: self._answer("ctr", "version"))
        for name, program in (
            (config.PAUSE_IMAGE, self._programs.pause),
            (manifests.COREDNS_IMAGE, self._programs.coredns),
            (config.PROBE_IMAGE, self._programs.probe),
        ):
            archive = self.layout.data / "image.tar"
            write_static_image(archive, name, program)
            self.import_image(archive)
            archive.unlink()

    def _answer(self, program: str, *arguments: str) -> str:
        try:
            run(program, "-a", str(self.layout.containerd_socket), *arguments)
        except HostError as error:
            return str(error)
        return ""

    def _await_api_server(self) -> None:
        def missing() -> str:
            try:
                self.kubectl("get", "--raw", "/readyz")
                self.kubectl("get", "namespace", "default", "kube-system")
            except KubectlError as error:
                return str(error)
            return ""

        self._await("kube-apiserver", missing)

    def _await_node(self, gpus: int) -> None:
        def missing() -> str:
            try:
                self.kubectl("get", "serviceaccount", "default")
                node = self.get(f"node/{self.layout.node}")
            except KubectlError as error:
                return str(error)
            offered = node["status"].get("allocatable", {}).get("nvidia.com/gpu")
            return "" if offered == str(gpus) else f"it offers {offered} of {gpus} GPUs"

        self._await("kubelet", missing)
        self.wait(f"node/{self.layout.node}", timeout_seconds=START_SECONDS)
        self.wait("deployment/coredns", "Available", namespace="kube-system")
        for name in _ORDER_OF_END:
            self._await(name, lambda: "")

    def _await(self, name: str, missing: Callable[[], str]) -> None:
        process = self._process(name)

        def check() -> str:
            if not process.running():
                raise ClusterStartError(
                    f"{name} ended. Its log, {process.log}, ends:\n{process.log_tail()}"
                )
            return missing()

        try:
            waiting.until(f"{name}'s start", check, START_SECONDS)
        except waiting.WaitError as error:
            raise ClusterStartError(
                f"{error}. Its log, {process.log}, ends:\n{process.log_tail()}"
            ) from error


def remove_cluster(layout: Layout) -> None:
    """Remove every trace of the host's cluster, which takes none of the programs it is made of."""
    teardown.remove(layout, [_process(layout, name) for name in _ORDER_OF_END])


def _process(layout: Layout, name: str) -> DetachedProcess:
    return DetachedProcess(name, layout.processes / name, layout.logs / f"{name}.log")
