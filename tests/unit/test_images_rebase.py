"""What an image adds to its base, moved onto another one."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_dev.images.layers import Entry, write_layer
from slm_dev.images.oci import Layout, read_archive, write_archive, write_layout
from slm_dev.images.rebase import moved_env, rebase
from slm_dev.vllm_cpu.errors import SetupError

EPOCH = 1767225600


def image(folder: Path, files: Sequence[str], env: str, user: str = "") -> Layout:
    """One layer for each file."""
    layers = []
    for file in files:
        layers.append(folder.with_name(f"{folder.name}-{file}.tar"))
        write_layer([Entry(file, 0o644, file.encode())], layers[-1], EPOCH)
    config = {"Env": [env]} | ({"User": user} if user else {})
    return write_layout(folder, folder.name, layers, config, "2026-01-01T00:00:00Z")


def files(layout: Layout) -> list[str]:
    found = []
    for layer in layout.layers():
        with tarfile.open(layer) as archive:
            found += archive.getnames()
    return found


@pytest.fixture
def built(tmp_path: Path) -> Layout:
    return image(tmp_path / "built", ["small", "own", "more"], "PATH=/own:/usr/bin", user="7")


@pytest.fixture
def old(tmp_path: Path) -> Layout:
    return image(tmp_path / "old", ["small"], "PATH=/usr/bin")


@pytest.fixture
def new(tmp_path: Path) -> Layout:
    return image(tmp_path / "new", ["large", "larger"], "PATH=/vllm:/usr/bin")


def test_it_has_the_layers_of_its_new_base_and_its_own(
    built: Layout, old: Layout, new: Layout, tmp_path: Path
) -> None:
    moved = rebase(built, old, new, tmp_path / "moved")

    assert files(moved) == ["large", "larger", "own", "more"]
    digests = [layer["digest"] for layer in moved.manifest()["layers"]]
    assert moved.config()["rootfs"]["diff_ids"] == digests
    assert len(moved.config()["history"]) == len(digests)


def test_it_keeps_its_configuration_and_finds_the_programs_of_both(
    built: Layout, old: Layout, new: Layout, tmp_path: Path
) -> None:
    config = rebase(built, old, new, tmp_path / "moved").config()["config"]

    assert config == {"User": "7", "Env": ["PATH=/own:/vllm:/usr/bin"]}


def test_the_base_that_it_was_built_on_gives_the_same_image(
    built: Layout, old: Layout, tmp_path: Path
) -> None:
    moved = rebase(built, old, old, tmp_path / "moved")

    assert moved.manifest()["layers"] == built.manifest()["layers"]
    assert moved.config()["config"] == built.config()["config"]


def test_an_image_of_another_base_is_refused(built: Layout, new: Layout, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not built on"):
        rebase(built, new, new, tmp_path / "moved")


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("put before", ["PATH=/own:/new"]),
        ("replaced", ["PATH=/new", "LANG=D"]),
        ("added", ["PATH=/new", "A=b=c"]),
        ("the old base's alone", ["PATH=/new"]),
    ],
)
def test_variables_are_those_of_the_new_base_and_its_own(name: str, moved: list[str]) -> None:
    built = {
        "put before": ["PATH=/own:/old"],
        "replaced": ["PATH=/old", "LANG=D"],
        "added": ["PATH=/old", "A=b=c"],
        "the old base's alone": ["PATH=/old", "LANG=C"],
    }[name]

    assert moved_env(built, ["PATH=/old", "LANG=C"], ["PATH=/new"]) == moved


def test_an_archive_is_read_as_it_was_written(built: Layout, tmp_path: Path) -> None:
    write_archive(built, "localhost/it:1", tmp_path / "it.tar", EPOCH)

    read = read_archive(tmp_path / "it.tar", tmp_path / "read")

    assert read.digest == built.digest
    assert json.dumps(read.config()) == json.dumps(built.config())
    assert files(read) == files(built)
