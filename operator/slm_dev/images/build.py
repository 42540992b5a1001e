"""Builds the operator's and the worker's image from the Dockerfile, once per content.

The worker's has no vLLM, which is all that simulated engines need; `worker_with_vllm` moves it
onto another base.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slm_dev import system
from slm_dev.images.base import BASES, BUILD, EPOCH_SECONDS, RUNTIME
from slm_dev.images.buildah import Buildah
from slm_dev.images.context import WHEELS, as_parts, context_files, stage
from slm_dev.images.ingredients import ensure, ensure_bases, ensure_wheels
from slm_dev.images.oci import archive_digest, read_archive, write_archive
from slm_dev.images.rebase import rebase
from slm_dev.images.sbom import write_sbom
from slm_dev.images.vllm_base import SYSTEM, ensure_vllm_base
from slm_dev.vllm_cpu import install
from slm_dev.vllm_cpu.cache import Progress, content_key
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError

TARGETS = ("operator", "worker")
_VLLM_TAG = "-vllm"

PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "unshare": "util-linux"}
"""Programs that a build needs, with the Debian package of each."""


@dataclass(frozen=True)
class Image:
    """An image in the cache."""

    name: str
    """With its tag, which is another one for another content."""
    archive: Path
    """An OCI archive: containerd, podman, skopeo and buildah import it under `name`."""
    digest: str
    """Of its manifest."""
    sbom: Path
    """What is in it, as CycloneDX JSON."""


@dataclass(frozen=True)
class Images:
    """The images that a cluster needs; the worker's is for simulated engines."""

    operator: Image
    worker: Image


def find_or_build(progress: Progress, run: Run = run_command) -> Images:
    """Return the images of this checkout, built first when the cache has none of its content.

    `progress` gets a line at each step. Raises SetupError when this machine lacks something or a
    step fails.
    """
    key = content_key(*_parts())

    def make(scratch: Path) -> None:
        build(scratch, TARGETS, key, progress, run)

    folder = ensure(f"images-{key}", make, progress)
    return Images(_read(folder, "operator", key), _read(folder, "worker", key))


def worker_with_vllm(progress: Progress, run: Run = run_command) -> Image:
    """Return the worker's image of this checkout with vLLM for the CPU, made first when absent.

    `progress` gets a line at each step. Raises SetupError when this machine lacks something or a
    step fails.
    """
    worker = find_or_build(progress, run).worker
    key = worker.name.rpartition(":")[2]
    tag = content_key(key.encode(), install.environment_folder().name.encode()) + _VLLM_TAG

    def make(scratch: Path) -> None:
        old = ensure_bases(BASES, progress, run)[RUNTIME.name]
        system = ensure_bases((SYSTEM,), progress, run)[SYSTEM.name]
        new = ensure_vllm_base(system, progress, run)
        progress("putting the worker on the base with vLLM")
        image = read_archive(worker.archive, scratch / "worker")
        layout = rebase(image, old, new, scratch / "rebased")
        write_archive(layout, _name("worker", tag), scratch / "worker.tar", EPOCH_SECONDS)
        write_sbom(layout, _name("worker", tag), scratch / "worker.cdx.json")
        shutil.rmtree(scratch / "worker")
        shutil.rmtree(scratch / "rebased")

    return _read(ensure(f"images-{tag}", make, progress), "worker", tag)


def build(
    folder: Path, targets: Sequence[str], tag: str, progress: Progress, run: Run = run_command
) -> None:
    """Build ``targets`` into ``folder``, an archive and a bill each. Raises SetupError."""
    _require_machine()
    with ThreadPoolExecutor() as threads:
        bases_found = threads.submit(ensure_bases, BASES, progress, run)
        wheels = threads.submit(ensure_wheels, progress, run).result()
        bases = bases_found.result()
    arguments = build_arguments({name: layout.digest for name, layout in bases.items()})
    context, store, exported = folder / "context", folder / "store", folder / "exported"
    stage(context, wheels)
    buildah = Buildah(store, run)
    for name, layout in bases.items():
        buildah.load(layout, name)
    for target in targets:
        progress(f"building the {target}'s image")
        name = _name(target, tag)
        buildah.build(context, target, name, arguments)
        layout = buildah.export(name, exported)
        write_archive(layout, name, folder / f"{target}.tar", EPOCH_SECONDS)
        write_sbom(layout, name, folder / f"{target}.cdx.json")
        shutil.rmtree(exported)
    shutil.rmtree(context)
    shutil.rmtree(store)


def build_arguments(digests: Mapping[str, str]) -> dict[str, str]:
    """The Dockerfile's arguments for bases of ours, given the digest of each by its name."""
    chosen = {
        "OPERATOR": RUNTIME.name,
        "OPERATOR_BUILD": BUILD.name,
        "WORKER": RUNTIME.name,
        "WORKER_BUILD": BUILD.name,
        "HAPROXY": BUILD.name,
    }
    arguments = {f"{role}_IMAGE": name for role, name in chosen.items()}
    arguments |= {f"{role}_DIGEST": digests[name] for role, name in chosen.items()}
    return {**arguments, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/context/{WHEELS}"}


def _parts() -> Iterable[bytes]:
    """Of a build's key: all that it reads."""
    return as_parts([*context_files(), *sorted(Path(__file__).parent.glob("*.py"))])


def _read(folder: Path, target: str, key: str) -> Image:
    archive = folder / f"{target}.tar"
    return Image(
        _name(target, key), archive, archive_digest(archive), folder / f"{target}.cdx.json"
    )


def _name(target: str, key: str) -> str:
    return f"localhost/slm-{target}:{key}"


def _require_machine() -> None:
    if os.geteuid() != 0:
        raise SetupError(
            "images are built in a change of root, which only root may make: run it as root, or "
            "build them with `docker build` (docs/images.md)"
        )
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if system.install(missing) != 0:
        raise SetupError(f"images need {', '.join(missing)}")
