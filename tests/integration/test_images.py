"""The images, built without a registry: what is in them, whose they run as, and built twice."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from slm_dev.images import Image, Images, find_or_build
from slm_dev.images.base import USER_ID
from slm_dev.images.build import build
from slm_dev.images.oci import archive_digest

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0, reason="images are built in a change of root, which only root may make"
    ),
    # A minute of work, which a busy machine has been seen to take six for.
    pytest.mark.timeout(1800),
]

NO_PLACE = {"pip", "setuptools", "gcc", "gcc-12", "cpp", "binutils", "bash", "dash", "perl-base"}
GPU_ONLY = {"vllm", "torch", "nvidia-ml-py", "haproxy"}


@pytest.fixture(scope="module")
def images() -> Images:
    return find_or_build(print)


def names(image: Image) -> set[str]:
    return {each["name"] for each in json.loads(image.sbom.read_text())["components"]}


def configuration(image: Image) -> dict[str, Any]:
    """What the image tells a runtime."""
    with tarfile.open(image.archive) as archive:

        def blob(digest: str) -> Any:
            stream = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert stream is not None
            return json.load(stream)

        read: dict[str, Any] = blob(blob(image.digest)["config"]["digest"])["config"]
        return read


def test_no_image_holds_a_compiler_an_installer_or_a_shell(images: Images) -> None:
    for image in (images.operator, images.worker):
        assert not names(image) & NO_PLACE, image.name


def test_the_operators_image_holds_nothing_for_gpus(images: Images) -> None:
    assert {"slm-operator", "kopf", "kubernetes", "python3.11-minimal"} <= names(images.operator)
    assert not names(images.operator) & GPU_ONLY


def test_the_workers_image_holds_the_router_and_no_client_of_kubernetes(images: Images) -> None:
    assert {"slm-operator", "nvidia-ml-py", "haproxy", "libssl3"} <= names(images.worker)
    assert not names(images.worker) & {"kubernetes", "kopf"}


def test_the_images_run_as_a_user_without_rights_and_start_without_a_shell(images: Images) -> None:
    operator, worker = configuration(images.operator), configuration(images.worker)

    assert {operator["User"], worker["User"]} == {f"{USER_ID}:{USER_ID}"}
    assert operator["Entrypoint"] == ["/opt/slm/bin/slm-operator"]
    assert worker["Entrypoint"] == ["/opt/slm/bin/python", "-m", "slm_worker"]


def test_a_second_build_gives_the_same_image(images: Images, tmp_path: Path) -> None:
    tag = images.worker.name.rpartition(":")[2]

    build(tmp_path, ["worker"], tag, print)

    assert archive_digest(tmp_path / "worker.tar") == images.worker.digest
    assert (tmp_path / "worker.cdx.json").read_text() == images.worker.sbom.read_text()
