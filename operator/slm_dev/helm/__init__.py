"""Finds helm, or builds it from the Go module beside this file, once per content."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from slm_dev import go_build
from slm_dev.go_build import GoBuildError, GoProgram

__all__ = ["HELM_VARIABLE", "GoBuildError", "HelmMissing", "find_or_build"]

HELM_VARIABLE = "SLM_HELM"
HELM_VERSION = "v3.21.4"
"""Of gomod/go.mod. Helm that is found elsewhere may be another 3.x."""
OLDEST_GO = (1, 26)
"""What helm's own go.mod asks for."""
_KUBERNETES = ("1", "36")
"""Of k8s.io/client-go in gomod/go.mod: what ``helm template`` takes for the cluster's version."""
_STAMPS = {
    "helm.sh/helm/v3/internal/version.version": HELM_VERSION,
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": _KUBERNETES[0],
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": _KUBERNETES[1],
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": _KUBERNETES[0],
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": _KUBERNETES[1],
}
_PROGRAM = GoProgram(
    name="helm",
    module=Path(__file__).parent / "gomod",
    sources=("go.mod", "go.sum"),
    arguments=(
        "-trimpath",
        "-buildvcs=false",
        "-mod=readonly",
        # Stamped as helm's own releases are.
        "-ldflags=-s -w " + " ".join(f"-X {name}={value}" for name, value in _STAMPS.items()),
        "helm.sh/helm/v3/cmd/helm",
    ),
    links=(),
    title="helm",
    contents=f"helm {HELM_VERSION}, about three minutes on two cores,",
    retry="python -m slm_dev.helm",
)


class HelmMissing(RuntimeError):  # noqa: N818 - it says what is so
    """This machine has no helm and no means to build it."""


def find_or_build(progress: Callable[[str], None]) -> Path:
    """Return the program that SLM_HELM names, else helm on PATH, else one built from source.

    The build takes minutes, once; its result is kept in the cache folder. Each line of its
    progress goes to `progress`.

    Raises:
        HelmMissing: SLM_HELM is no program, or there is nothing to use at all.
        GoBuildError: the build failed.
    """
    named = os.environ.get(HELM_VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise HelmMissing(
                f"{HELM_VARIABLE} is {named}, which is no program: set it to the path of helm, "
                "or unset it to look elsewhere."
            )
        return Path(named).absolute()
    on_path = shutil.which("helm")
    if on_path:
        return Path(on_path).absolute()
    toolchain = go_build.go_toolchain(OLDEST_GO, _PROGRAM.module)
    if toolchain is None:
        oldest = ".".join(map(str, OLDEST_GO))
        raise HelmMissing(
            f"No helm was found: {HELM_VARIABLE} is not set, PATH has none, and no Go toolchain "
            f"of at least {oldest} is on PATH to build it. Provide one of the three."
        )
    return go_build.build(toolchain, _PROGRAM, progress) / _PROGRAM.name
