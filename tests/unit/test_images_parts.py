"""Layers, archives, Debian packages and bills of materials, each without building an image."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_dev.images.context import context_files, let_through
from slm_dev.images.debian import Package, closure, parse_control
from slm_dev.images.layers import Entry, merged_usr, read_package, write_layer
from slm_dev.images.oci import Layout, archive_digest, write_archive, write_layout
from slm_dev.images.sbom import Component, components, cyclonedx, debian, python_distribution
from slm_dev.vllm_cpu.errors import SetupError

EPOCH = 1_700_000_000


def package(name: str, **control: str) -> Package:
    fields = {key.replace("_", "-"): value for key, value in control.items()}
    return Package(Path(f"{name}.deb"), {"Package": name, "Version": "1", **fields})


def by_name(*packages: Package) -> dict[str, Package]:
    return {each.name: each for each in packages}


def names(packages: Sequence[Package]) -> list[str]:
    return [each.name for each in packages]


def layer(folder: Path, name: str, *entries: Entry) -> Path:
    target = folder / name
    write_layer(entries, target, EPOCH)
    return target


def image(folder: Path, *layers: Path) -> Layout:
    return write_layout(folder, "localhost/it", layers, {"User": "1"}, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("shipped", "installed"),
    [
        ("lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("bin/sh", "usr/bin/sh"),
        ("usr/bin/env", "usr/bin/env"),
        ("etc/lib/x", "etc/lib/x"),
        ("lib", "lib"),
    ],
)
def test_a_package_is_laid_out_for_a_merged_usr(shipped: str, installed: str) -> None:
    assert merged_usr(shipped) == installed


def test_a_layer_is_sorted_owned_by_root_and_of_one_time(tmp_path: Path) -> None:
    target = layer(tmp_path, "l.tar", Entry("b/c", 0o755, b"2"), Entry("a", 0o644, b"1"))

    with tarfile.open(target) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["a", "b", "b/c"]
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, EPOCH)}


def test_the_order_of_entries_does_not_change_a_layer(tmp_path: Path) -> None:
    one, two = Entry("a", 0o644, b"1"), Entry("b", 0o777, link="a")

    first = layer(tmp_path, "1.tar", one, two)
    second = layer(tmp_path, "2.tar", two, one)

    assert first.read_bytes() == second.read_bytes()


def test_a_hard_link_of_a_package_becomes_a_file(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("./usr/bin/perl")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("./usr/bin/perl5")
        link.type, link.linkname = tarfile.LNKTYPE, "./usr/bin/perl"
        archive.addfile(link)
    packed.seek(0)

    with tarfile.open(fileobj=packed) as archive:
        found = {entry.path: entry.content for entry in read_package(archive)}

    assert found == {"usr/bin/perl": b"abc", "usr/bin/perl5": b"abc"}


def test_a_base_holds_what_its_packages_depend_on() -> None:
    packages = by_name(
        package("python", Depends="libc (>= 2.36), libssl3 | libssl1"),
        package("libc", Pre_Depends="base"),
        package("libssl3"),
        package("base"),
        package("other"),
    )

    assert names(closure(["python"], packages)) == ["base", "libc", "libssl3", "python"]


def test_a_base_leaves_out_what_only_installation_scripts_need() -> None:
    packages = by_name(package("ca", Depends="openssl"), package("openssl", Depends="perl"))

    assert names(closure(["ca"], packages, without=["openssl"])) == ["ca"]


def test_a_package_that_debian_has_not_is_named() -> None:
    with pytest.raises(SetupError, match="no package haproxy"):
        closure(["haproxy"], {})


def test_a_control_paragraph_is_read_by_its_first_lines() -> None:
    text = "Package: a\nDescription: short\n long one\n .\nVersion: 1:2-3\n"

    assert parse_control(text) == {"Package": "a", "Description": "short", "Version": "1:2-3"}


def test_an_archive_bears_its_name_and_its_images_digest(tmp_path: Path) -> None:
    layout = image(tmp_path / "image", layer(tmp_path, "l.tar", Entry("a", 0o644, b"1")))

    write_archive(layout, "localhost/it:1", tmp_path / "it.tar", EPOCH)

    assert archive_digest(tmp_path / "it.tar") == layout.digest
    with tarfile.open(tmp_path / "it.tar") as archive:
        index = json.load(archive.extractfile("index.json") or io.BytesIO())
    annotations = index["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "localhost/it:1"


def test_a_compressed_image_tells_the_digest_of_what_was_compressed(tmp_path: Path) -> None:
    entry = Entry("etc/x", 0o644, b"x" * 10_000)
    plain = image(tmp_path / "plain", layer(tmp_path, "plain.tar", entry))
    layers = [layer(tmp_path, "small.tar", entry)]
    small = write_layout(tmp_path / "small", "localhost/it", layers, {}, "now", compress=True)

    (packed,) = small.layers()
    (content,) = small.config()["rootfs"]["diff_ids"]
    assert content == plain.manifest()["layers"][0]["digest"]
    assert gzip.decompress(packed.read_bytes()) == plain.layers()[0].read_bytes()
    described = small.manifest()["layers"][0]
    assert described["mediaType"].endswith("tar+gzip")
    assert described["size"] == packed.stat().st_size < 10_000


def test_the_same_files_give_the_same_image(tmp_path: Path) -> None:
    entry = Entry("a", 0o644, b"1")

    first = image(tmp_path / "1", layer(tmp_path, "1.tar", entry))
    second = image(tmp_path / "2", layer(tmp_path, "2.tar", entry))

    assert first.digest == second.digest


def test_a_bill_lists_python_distributions_and_debian_packages(tmp_path: Path) -> None:
    metadata = b"Name: Some_Thing\nVersion: 2.0\nLicense-Expression: MIT\n\ntext"
    lower = layer(
        tmp_path,
        "1.tar",
        Entry("opt/slm/lib/some_thing-2.0.dist-info/METADATA", 0o644, metadata),
        Entry("var/lib/dpkg/status.d/libc6", 0o644, b"Package: libc6\nVersion: 2.36-9\n"),
        Entry("var/lib/dpkg/status.d/libc6.md5sums", 0o644, b"0  lib/libc.so.6\n"),
    )

    assert components([lower]) == [
        Component("deb", "libc6", "2.36-9"),
        Component("pypi", "some-thing", "2.0", "MIT"),
    ]


@pytest.mark.parametrize(
    "removal",
    [
        "usr/lib/pip-23.dist-info/.wh.METADATA",
        "usr/lib/.wh.pip-23.dist-info",
        "usr/lib/.wh..wh..opq",
    ],
)
def test_a_bill_leaves_out_what_a_higher_layer_removed(tmp_path: Path, removal: str) -> None:
    metadata = Entry("usr/lib/pip-23.dist-info/METADATA", 0o644, b"Name: pip\nVersion: 23\n\n")

    layers = [layer(tmp_path, "1.tar", metadata), layer(tmp_path, "2.tar", Entry(removal, 0o644))]

    assert components(layers) == []


def test_a_debian_package_that_was_removed_is_not_in_the_bill() -> None:
    status = (
        "Package: a\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: b\nStatus: deinstall ok config-files\nVersion: 2\n"
    )

    assert list(debian(status)) == [Component("deb", "a", "1")]


def test_a_license_that_is_told_in_another_way_is_left_open() -> None:
    assert python_distribution("Name: a\nVersion: 1\nLicense: BSD-like\n").license == ""


def test_a_bill_is_bound_to_the_image_by_its_digest() -> None:
    bill = cyclonedx("localhost/it:1", "sha256:abc", [Component("deb", "libstdc++6", "1:2-3+b1")])

    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["version"]) == ("localhost/it", "1")
    assert subject["hashes"] == [{"alg": "SHA-256", "content": "abc"}]
    assert bill["components"][0]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@1%3A2-3%2Bb1"


def test_the_context_is_what_the_dockerignore_lets_through(tmp_path: Path) -> None:
    for name in ("Dockerfile", "kept/a.py", "kept/__pycache__/a.pyc", "left/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_text("*\n!kept\n!wheels\n**/__pycache__\n")

    found = [str(file.relative_to(tmp_path)) for file in context_files(tmp_path)]

    assert found == ["Dockerfile", "kept/a.py"]


def test_a_dockerignore_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!gone\n")

    with pytest.raises(SetupError, match="names gone"):
        context_files(tmp_path)


def test_comments_and_exclusions_let_nothing_through() -> None:
    assert let_through("# !a\n*\n!b\n**/c\n") == ["b"]
