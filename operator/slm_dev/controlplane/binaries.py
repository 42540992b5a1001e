"""Finds the programs of a control plane, or builds them when this machine has none."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slm_dev.controlplane.build import OLDEST_GO, build, go_toolchain

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"


class ControlPlaneMissing(RuntimeError):  # noqa: N818 - it says what is so
    """This machine has no control plane programs and no means to build them."""


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs that a control plane is made of."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def find_or_build(progress: Callable[[str], None]) -> Binaries:
    """Return the programs from KUBEBUILDER_ASSETS, else from PATH, else built from source.

    The build takes minutes, once; its result is kept in the cache folder. Each line of its
    progress goes to `progress`.

    Raises:
        ControlPlaneMissing: KUBEBUILDER_ASSETS is incomplete, or there is nothing to use at all.
        ControlPlaneBuildError: the build failed.
    """
    assets = os.environ.get(ASSETS_VARIABLE)
    if assets:
        return _from_assets(Path(assets))
    on_path = {name: found for name in PROGRAMS if (found := shutil.which(name))}
    if len(on_path) == len(PROGRAMS):
        return _binaries({name: Path(found) for name, found in on_path.items()})
    toolchain = go_toolchain()
    if toolchain is None:
        raise ControlPlaneMissing(_nothing_to_use(found=list(on_path)))
    return _in_folder(build(toolchain, PROGRAMS, progress))


def _from_assets(folder: Path) -> Binaries:
    missing = [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]
    if missing:
        raise ControlPlaneMissing(
            f"{ASSETS_VARIABLE} is {folder}, which has no executable {', '.join(missing)}. "
            f"Put {_them(missing)} there, or unset {ASSETS_VARIABLE} to look elsewhere."
        )
    return _in_folder(folder)


def _in_folder(folder: Path) -> Binaries:
    return _binaries({name: folder / name for name in PROGRAMS})


def _binaries(paths: dict[str, Path]) -> Binaries:
    etcd, kube_apiserver, kubectl = (paths[name].absolute() for name in PROGRAMS)
    return Binaries(etcd, kube_apiserver, kubectl)


def _nothing_to_use(found: list[str]) -> str:
    names = ", ".join(PROGRAMS)
    oldest = ".".join(map(str, OLDEST_GO))
    on_path = f"PATH has only {', '.join(found)}" if found else "PATH has none of them"
    return (
        f"No control plane programs ({names}) were found: {ASSETS_VARIABLE} is not set, {on_path}, "
        f"and no Go toolchain of at least {oldest} is on PATH to build them. Provide one of: "
        f"{ASSETS_VARIABLE} set to a folder with {names}; all of {names} on PATH; "
        f"or Go {oldest} or newer on PATH."
    )


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"
