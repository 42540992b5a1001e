"""Runs buildah on a storage of its own, which leaves nothing behind on the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slm_dev.images.base import EPOCH_SECONDS
from slm_dev.images.oci import Layout, write_archive
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError


class Buildah:
    """Builds images in ``store``, a folder that is made for it and removed after it."""

    def __init__(self, store: Path, run: Run = run_command) -> None:
        self._run = run
        self._store = store
        self._driver = "overlay"
        try:
            self._buildah("info")
        except SetupError:
            # Where the file system cannot be the lower one of an overlay, as in some containers.
            self._driver = "vfs"
            self._buildah("info")

    def load(self, layout: Layout, name: str) -> None:
        """Have the image of ``layout`` known as ``name``, by which ``FROM`` finds it."""
        # A folder would give its path to the image as a name, and images built on it would tell.
        archive = self._store / "base.tar"
        write_archive(layout, name, archive, EPOCH_SECONDS)
        self._buildah("pull", "--quiet", f"oci-archive:{archive}")
        archive.unlink()

    def build(self, context: Path, target: str, name: str, arguments: Mapping[str, str]) -> None:
        """Build ``target`` of the Dockerfile in ``context``; all files get one fixed time."""
        given = [word for item in arguments.items() for word in ("--build-arg", "=".join(item))]
        self._buildah(
            *("build", "--isolation", "chroot", "--pull=never", "--layers"),
            *("--identity-label=false", "--timestamp", str(EPOCH_SECONDS)),
            *(*given, "--target", target, "--tag", name, str(context)),
        )

    def export(self, name: str, folder: Path) -> Layout:
        """Write the image ``name`` into the new ``folder``."""
        self._buildah("push", "--quiet", name, f"oci:{folder}:image")
        return Layout(folder)

    def _buildah(self, *arguments: str) -> str:
        # In mount namespaces of their own, so that the storage's mounts end with each command.
        return self._run(
            [
                *("unshare", "--mount", "buildah", "--storage-driver", self._driver),
                *("--root", str(self._store / "root"), "--runroot", str(self._store / "run")),
                *arguments,
            ]
        )
