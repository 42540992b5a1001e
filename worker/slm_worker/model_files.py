"""Reads what a model's files say of its size: config.json and safetensors headers, no weights.

Reads are bounded: a directory that somebody else filled must not exhaust the agent.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_worker import wire
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.planning.footprint import (
    ModelError,
    ModelFootprint,
    Tensor,
    footprint,
    parse_config,
)
from slm_worker.planning.outlook import outlook

MAX_CONFIG_BYTES = 2**20
MAX_INDEX_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 100 * 2**20
"""Also the limit of the safetensors format itself."""

INDEX = "model.safetensors.index.json"
PART = re.compile(r"(.*?[-_])\d+(?:-of-(\d+))?\.safetensors")
"""A numbered file, and of how many where its name says so."""
COPY_AGAIN = "copy all of the model's files again"

PUBLISHED_CONFIGS: dict[str, dict[str, Any]] = {
    # facebook/opt-1.3b: its config.json on the Hugging Face hub; 1,315,758,080 parameters.
    "facebook/opt-1.3b": {
        "model_type": "opt",
        "num_hidden_layers": 24,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "ffn_dim": 8192,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
}
"""Models whose size is known without their files: the one that the simulated engine serves."""


def read_footprint(model: wire.ModelRef, engine: wire.EngineConfig) -> ModelFootprint | None:
    """What one replica of ``model`` needs under ``engine``'s arguments. Reads files: blocks.

    ``file://`` reads the directory; ``hf://`` reads the local Hugging Face cache (HF_HUB_CACHE,
    else HF_HOME/hub). Weights that are not all there are estimated from config.json. None where
    nobody can know yet: a model that is still to be downloaded, or a mixture of experts without
    safetensors. Raises ModelError.
    """
    if model.uri.startswith("file://"):
        return _read_directory(_local_directory(model.uri), engine.args)
    repository = model.uri.removeprefix("hf://")
    snapshot = _cached_snapshot(repository, model.revision or "main")
    if snapshot is not None:
        downloaded = all((snapshot / name).is_file() for name in _indexed_names(snapshot))
        return _read_directory(snapshot, engine.args) if downloaded else None
    published = PUBLISHED_CONFIGS.get(repository)
    if published is None:
        return None
    config = parse_config(published, repository)
    return None if config is None else footprint(config, None, engine.args)


def read_config_document(model: wire.ModelRef) -> Mapping[str, Any] | None:
    """What ``model``'s config.json says, found as :func:`read_footprint` finds it. Reads files:
    blocks. None for a model that is still to be downloaded. Raises ModelError."""
    if model.uri.startswith("file://"):
        return _read_config_file(_local_directory(model.uri))
    repository = model.uri.removeprefix("hf://")
    snapshot = _cached_snapshot(repository, model.revision or "main")
    return PUBLISHED_CONFIGS.get(repository) if snapshot is None else _read_config_file(snapshot)


def look_out(
    model: wire.ModelRef, engine: wire.EngineConfig, device: DeviceIdentity
) -> tuple[wire.Outlook, ...]:
    """What the planner expects of ``model`` on ``device``. Reads files: blocks, and computes for a
    second. Raises ModelError."""
    return outlook(read_config_document(model), device.name, engine)


def _local_directory(uri: str) -> Path:
    path = Path(uri.removeprefix("file://"))
    if not path.is_absolute():
        raise ModelError(
            "ModelNotFound",
            f"model.uri {uri!r} holds no absolute path: write file:///path/to/model with three "
            "slashes.",
        )
    try:
        found, directory = path.exists(), path.is_dir()
    except OSError as error:
        raise ModelError("ModelNotFound", f"{path} cannot be looked at: {error}") from None
    if not found:
        raise ModelError(
            "ModelNotFound",
            f"{path} does not exist: mount the volume that holds the model there, or correct "
            "model.uri.",
        )
    if not directory:
        raise ModelError(
            "ModelNotFound",
            f"{path} is not a directory: name the directory that holds config.json and the "
            "weights.",
        )
    return path


def _cached_snapshot(repository: str, revision: str) -> Path | None:
    """The directory of a downloaded revision (branch, tag or commit) in the hub's cache layout."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    entry = cache / f"models--{repository.replace('/', '--')}"
    if not {"..", "/"}.isdisjoint(Path(revision).parts):
        return None
    commit = revision
    reference = entry / "refs" / revision
    if reference.is_file():
        commit = _read_bounded(reference, 1024).decode("ascii", "replace").strip()
    if not commit or "/" in commit or commit in {".", ".."}:
        return None
    snapshot = entry / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None


def _read_directory(directory: Path, args: tuple[str, ...]) -> ModelFootprint | None:
    config = parse_config(_read_config_file(directory), str(directory / "config.json"))
    if config is None:
        return None
    files = _weight_files(directory)
    # A second copy under other file names takes no memory of its own.
    tensors = {tensor.name: tensor for file in files for tensor in _read_header(file)}
    return footprint(config, list(tensors.values()) or None, args)


def _read_config_file(directory: Path) -> dict[str, Any]:
    source = directory / "config.json"
    if not source.is_file():
        raise _invalid(source, "is missing", "copy the model's config.json beside its weights")
    return _read_json(source, MAX_CONFIG_BYTES)


def _weight_files(directory: Path) -> list[Path]:
    """The checkpoint's safetensors files, by its index where it has one. Empty while shards are
    missing, or may be since they are numbered without their count: whoever copies or downloads a
    model may bring its index last."""
    names = _indexed_names(directory)
    for name in names:
        if not (directory / name).is_file():
            raise _invalid(directory / INDEX, f"names {name!r}, which is not there", COPY_AGAIN)
    if names:
        return [directory / name for name in names]
    files = sorted(
        file
        for file in directory.glob("*.safetensors")
        if not file.name.startswith("consolidated")  # a second copy in another format
    )
    parts = Counter(part.group(1, 2) for file in files if (part := PART.fullmatch(file.name)))
    whole = all(count and found == int(count) for (_, count), found in parts.items())
    return files if whole else []


def _indexed_names(directory: Path) -> list[str]:
    """Files that the checkpoint's index names; empty where there is no index."""
    index = directory / INDEX
    if not index.is_file():
        return []
    weight_map = _read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise _invalid(index, "has no object weight_map", COPY_AGAIN)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise _invalid(index, f"names {name!r}, which is no plain file name", COPY_AGAIN)
    return names


def _read_header(file: Path) -> list[Tensor]:
    """A safetensors file: 8 bytes little-endian header length, then a JSON object."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, file.stat().st_size - 8):
                raise _invalid(file, f"has a header of {length} bytes", COPY_AGAIN)
            header = json.loads(stream.read(length))
    except OSError as error:
        raise _unreadable(file, error) from None
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"has a malformed header: {error}", COPY_AGAIN) from None
    if not isinstance(header, dict):
        raise _invalid(file, "has a header that is no JSON object", COPY_AGAIN)
    tensors = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = entry["shape"]
            tensors.append(Tensor(name, str(entry["dtype"]), _elements(shape), len(shape)))
        except (KeyError, TypeError):
            fault = f"has a malformed entry {name!r} in its header"
            raise _invalid(file, fault, COPY_AGAIN) from None
    return tensors


def _elements(shape: object) -> int:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise TypeError(f"no shape: {shape!r}")
    return math.prod(shape)


def _read_json(file: Path, limit_bytes: int) -> dict[str, Any]:
    remedy = "use the file that was published with the model"
    try:
        document = json.loads(_read_bounded(file, limit_bytes))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise _invalid(file, f"is no JSON at {where}: {error.msg}", remedy) from None
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"is no JSON: {error}", remedy) from None
    if not isinstance(document, dict):
        raise _invalid(file, "is no JSON object", remedy)
    return document


def _read_bounded(file: Path, limit_bytes: int) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(content) > limit_bytes:
        raise _invalid(file, f"is larger than {limit_bytes:,} bytes", "use the published file")
    return content


def _invalid(file: Path, fault: str, remedy: str) -> ModelError:
    return ModelError("ModelConfigInvalid", f"{file} {fault}: {remedy}.")


def _unreadable(file: Path, error: OSError) -> ModelError:
    return _invalid(
        file, f"cannot be read ({error.strerror})", "let the agent's user read the model's files"
    )
