"""The programs that the development cluster is made of, built from source where need be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slm_dev import controlplane, go_build
from slm_dev.controlplane import Binaries
from slm_dev.controlplane.build import FLAGS, MODULE, OLDEST_GO, VERSION
from slm_dev.go_build import GoProgram

_RETRY = "python -m slm_dev.cluster build"
_GO_FILES = ("go.mod", "go.sum")
_NODE = GoProgram(
    name="kubernetes-node",
    module=MODULE,
    sources=(*_GO_FILES, "node/main.go", "node/device_plugin.go", "node/metrics_server.go"),
    arguments=(*FLAGS, "./node"),
    links=(
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "metrics-server",
        "slm-device-plugin",
    ),
    title="the programs of a Kubernetes node",
    contents=f"the rest of Kubernetes {VERSION}, about five minutes on two cores,",
    retry=_RETRY,
)
_COREDNS = GoProgram(
    name="coredns",
    module=Path(__file__).parent / "gomod" / "coredns",
    sources=(*_GO_FILES, "main.go"),
    arguments=("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w"),
    links=(),
    title="CoreDNS",
    contents="CoreDNS, about two minutes on two cores,",
    retry=_RETRY,
)


def _small(name: str) -> GoProgram:
    return GoProgram(
        name=name,
        module=MODULE,
        sources=(*_GO_FILES, f"{name}/main.go"),
        arguments=(*FLAGS, f"./{name}"),
        links=(),
        title=f"the program {name}",
        contents=f"{name}, a few seconds,",
        retry=_RETRY,
    )


_PAUSE = _small("pause")
_PROBE = _small("probe")


class ProgramsMissing(RuntimeError):  # noqa: N818 - it says what is so
    """This machine cannot build the cluster's programs."""


@dataclass(frozen=True)
class Programs:
    """Paths of programs, or of the folder that has several by their names."""

    control_plane: Binaries
    node: Path
    coredns: Path
    pause: Path
    probe: Path


def find_or_build(progress: Callable[[str], None]) -> Programs:
    """Return the programs; the control plane's as `controlplane.find_or_build`, others built once.

    Raises:
        ControlPlaneMissing: there is no control plane and no means to build one.
        ProgramsMissing: no Go toolchain is there to build the others.
        GoBuildError: a build failed.
    """
    binaries = controlplane.find_or_build(progress)
    toolchain = go_build.go_toolchain(OLDEST_GO, MODULE)
    if toolchain is None:
        oldest = ".".join(map(str, OLDEST_GO))
        raise ProgramsMissing(
            f"A cluster's programs are built from source, and no Go toolchain of at least {oldest} "
            f"is on PATH: install one, then run `{_RETRY}`."
        )

    def built(program: GoProgram) -> Path:
        return go_build.build(toolchain, program, progress)

    return Programs(
        control_plane=binaries,
        node=built(_NODE),
        coredns=built(_COREDNS) / _COREDNS.name,
        pause=built(_PAUSE) / _PAUSE.name,
        probe=built(_PROBE) / _PROBE.name,
    )
