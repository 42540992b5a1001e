"""Writes a container image that holds one static program, with no tool but Python."""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def write_static_image(archive: Path, name: str, program: Path, *, user: str = "65532") -> None:
    """Write the image `name` to the tar file `archive`, in the layout of ``docker save``.

    The same program gives the same image, byte for byte.
    """
    path = f"/{program.name}"
    layer = _tar({program.name: (program.read_bytes(), 0o555)})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [path], "User": user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    archive.write_bytes(
        _tar(
            {
                "config.json": (json.dumps(config).encode(), 0o444),
                "layer.tar": (layer, 0o444),
                "manifest.json": (json.dumps(manifest).encode(), 0o444),
            }
        )
    )


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
