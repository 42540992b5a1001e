"""Builds the control plane programs from the Go module beside this file, once per content."""

from collections.abc import Callable, Sequence
from pathlib import Path

from slm_dev import go_build
from slm_dev.go_build import GoBuildError, GoProgram, GoToolchain

OLDEST_GO = (1, 24)
MODULE = Path(__file__).parent / "gomod"
VERSION = "v1.34.4"
# Unstamped, the API server calls itself v0.0.0-master, and clients refuse to talk to it.
_STAMPS = {
    "k8s.io/component-base/version.gitVersion": VERSION,
    "k8s.io/component-base/version.gitMajor": "1",
    "k8s.io/component-base/version.gitMinor": "34",
    "k8s.io/client-go/pkg/version.gitVersion": VERSION,
}
FLAGS = (
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-ldflags=-s -w " + " ".join(f"-X {name}={value}" for name, value in _STAMPS.items()),
)

ControlPlaneBuildError = GoBuildError


def go_toolchain() -> GoToolchain | None:
    """Return the Go toolchain on PATH, or None if there is none of at least `OLDEST_GO`."""
    return go_build.go_toolchain(OLDEST_GO, MODULE)


def build(toolchain: GoToolchain, programs: Sequence[str], progress: Callable[[str], None]) -> Path:
    """Return the folder that holds `programs`, building it if the cache has none.

    Raises:
        ControlPlaneBuildError: the compiler failed; the text ends with what it said.
    """
    program = GoProgram(
        name="controlplane",
        module=MODULE,
        sources=("go.mod", "go.sum", "main.go"),
        arguments=FLAGS,
        links=tuple(programs),
        title="the control plane programs",
        contents=f"etcd and Kubernetes {VERSION}, about ten minutes on two cores,",
        retry="python -m slm_dev.controlplane",
    )
    return go_build.build(toolchain, program, progress)
