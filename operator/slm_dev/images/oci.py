"""Reads and writes images as OCI layouts, and one as a single archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_dev.vllm_cpu.errors import SetupError

Json = dict[str, Any]

ARCHITECTURE = "amd64"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYER_GZIP = f"{_LAYER}+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"
_REFERENCE = "org.opencontainers.image.ref.name"
# containerd imports an image under this name as it is; of the other it makes one of its own.
_CONTAINERD_NAME = "io.containerd.image.name"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """A folder that holds one image."""

    folder: Path

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "/")

    def index(self) -> Json:
        return self._read(self.folder / "index.json")

    @property
    def digest(self) -> str:
        """The manifest's digest, by which the image is pinned. Raises SetupError."""
        manifests = self.index()["manifests"]
        if len(manifests) != 1:
            raise SetupError(f"{self.folder} holds {len(manifests)} images; expected one")
        return str(manifests[0]["digest"])

    def manifest(self) -> Json:
        return self._read(self.blob(self.digest))

    def config(self) -> Json:
        return self._read(self.blob(self.manifest()["config"]["digest"]))

    def layers(self) -> list[Path]:
        """The layers' tars, lowest first."""
        return [self.blob(layer["digest"]) for layer in self.manifest()["layers"]]

    @staticmethod
    def _read(path: Path) -> Json:
        read: Json = json.loads(path.read_bytes())
        return read


def write_layout(
    folder: Path,
    name: str,
    layers: Sequence[Path],
    config: Mapping[str, Any],
    created: str,
    *,
    compress: bool = False,
) -> Layout:
    """Write an image of ``layers``, which are moved into ``folder``.

    ``config`` is the part of that name in the image's configuration; ``created`` is in RFC 3339.
    """
    layout = Layout(folder)
    (folder / "blobs" / "sha256").mkdir(parents=True)
    described, contents = [], []
    for layer in layers:
        contents.append(file_digest(layer))
        blob, kind = (_compressed(layer), _LAYER_GZIP) if compress else (layer, _LAYER)
        digest = file_digest(blob)
        described.append(_descriptor(kind, digest, blob.stat().st_size))
        shutil.move(blob, layout.blob(digest))
    image = {
        "created": created,
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": contents},
        "history": [{"created": created, "created_by": name} for _ in described],
    }
    return write_manifest(folder, image, described)


def _compressed(layer: Path) -> Path:
    """The layer in the place of an uncompressed one. Level 1 takes a third of the time of 6."""
    target = layer.with_name(f"{layer.name}.gz")
    with (
        layer.open("rb") as source,
        target.open("wb") as stream,
        gzip.GzipFile("", "wb", 1, stream, mtime=0) as compressor,
    ):
        shutil.copyfileobj(source, compressor, _CHUNK_BYTES)
    layer.unlink()
    return target


def write_manifest(folder: Path, config: Mapping[str, Any], layers: Sequence[Json]) -> Layout:
    """Make an image of ``folder``, which holds the blobs of ``layers``. ``config`` is the whole
    configuration; ``layers`` are descriptors, lowest first."""
    layout = Layout(folder)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _add_blob(layout, _CONFIG, config),
        "layers": layers,
    }
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [_add_blob(layout, _MANIFEST, manifest)],
    }
    (folder / "index.json").write_bytes(_encode(index))
    (folder / "oci-layout").write_bytes(_encode({"imageLayoutVersion": "1.0.0"}))
    return layout


def read_archive(archive: Path, folder: Path) -> Layout:
    """Unpack what `write_archive` wrote into the new ``folder``."""
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    return Layout(folder)


def write_archive(layout: Layout, name: str, target: Path, epoch: int) -> None:
    """Write ``layout`` to one tar that containerd, buildah, podman and skopeo import as ``name``.

    Its bytes depend only on the image and the name.
    """
    index = layout.index()
    index["manifests"][0]["annotations"] = {_REFERENCE: name, _CONTAINERD_NAME: name}
    texts = {
        "oci-layout": _encode({"imageLayoutVersion": "1.0.0"}),
        "index.json": _encode(index),
    }
    manifest = layout.manifest()
    digests = [layout.digest, manifest["config"]["digest"]]
    digests += [layer["digest"] for layer in manifest["layers"]]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in texts.items():
            archive.addfile(_member(path, len(content), epoch), io.BytesIO(content))
        for digest in sorted(set(digests)):
            blob = layout.blob(digest)
            with blob.open("rb") as stream:
                path = str(blob.relative_to(layout.folder))
                archive.addfile(_member(path, blob.stat().st_size, epoch), stream)


def archive_digest(archive: Path) -> str:
    """The digest of the image in an archive that `write_archive` wrote."""
    with tarfile.open(archive) as members:
        stream = members.extractfile("index.json")
        if stream is None:
            raise SetupError(f"{archive} is no OCI archive; remove it and build again")
        return str(json.load(stream)["manifests"][0]["digest"])


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _member(path: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size = size
    member.mtime = epoch
    return member


def _add_blob(layout: Layout, media_type: str, content: Mapping[str, Any]) -> Json:
    encoded = _encode(content)
    digest = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    layout.blob(digest).write_bytes(encoded)
    return _descriptor(media_type, digest, len(encoded))


def _descriptor(media_type: str, digest: str, size: int) -> Json:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
