"""Moves what an image adds to its base onto another base, instead of building it there once more.

That is the same image as a build gives whose last stage only copies from other stages and sets the
configuration, and it leaves the layers of a base of gigabytes as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slm_dev.images.oci import Json, Layout, write_manifest
from slm_dev.vllm_cpu.errors import SetupError


def rebase(image: Layout, old: Layout, new: Layout, folder: Path) -> Layout:
    """Write ``image``, which was built on ``old``, on ``new`` into the new ``folder``.

    Layers are hard links. Raises SetupError when ``image`` does not begin with the layers of
    ``old``.
    """
    built, below, beneath = image.config(), old.config(), new.config()
    height = len(below["rootfs"]["diff_ids"])
    if built["rootfs"]["diff_ids"][:height] != below["rootfs"]["diff_ids"]:
        raise SetupError(f"the image in {image.folder} is not built on that in {old.folder}")
    config = {
        **built,
        "config": {
            **built["config"],
            "Env": moved_env(built["config"]["Env"], _env(below), _env(beneath)),
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [*beneath["rootfs"]["diff_ids"], *built["rootfs"]["diff_ids"][height:]],
        },
        "history": [*beneath["history"], *built["history"][len(below["history"]) :]],
    }
    kept = [(new, layer) for layer in new.manifest()["layers"]]
    kept += [(image, layer) for layer in image.manifest()["layers"][height:]]
    blobs = Layout(folder).blob("sha256:")
    blobs.mkdir(parents=True)
    for source, layer in kept:
        target = Layout(folder).blob(layer["digest"])
        if not target.exists():
            os.link(source.blob(layer["digest"]), target)
    return write_manifest(folder, config, [layer for _, layer in kept])


def moved_env(built: Sequence[str], old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The variables of ``built`` on a base with those of ``new``; one that was put before the value
    of ``old``, such as PATH, is put before that of ``new``."""
    before, beneath = _pairs(old), _pairs(new)
    found = dict(beneath)
    for name, value in _pairs(built).items():
        former = before.get(name)
        if former is not None and value != former and value.endswith(former):
            found[name] = value.removesuffix(former) + beneath.get(name, former)
        elif value != former:
            found[name] = value
    return [f"{name}={value}" for name, value in found.items()]


def _env(config: Json) -> list[str]:
    return list(config["config"].get("Env", []))


def _pairs(env: Sequence[str]) -> dict[str, str]:
    return dict(one.split("=", 1) for one in env)
