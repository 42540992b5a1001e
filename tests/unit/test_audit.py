"""What the audit of dependencies finds."""

from __future__ import annotations

from importlib.metadata import distribution

import pytest

from slm_dev.audit import FILES, ROOT, faults_of_licences, faults_of_pins, licences

HASH = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a==1 \\\n    {HASH}", None),
        (f"a==1 ; python_version < '3.12' \\\n    {HASH}", None),
        ("a==1", "a has no hash"),
        (f"a>=1 \\\n    {HASH}", "'a>=1 \\\\' is not pinned"),
        ("a==1 \\\n    --hash=sha256:00", "a has no hash"),
        (f"a==1 \\\n    {HASH}\na==2 \\\n    {HASH}", "a is 2, elsewhere 1"),
    ],
)
def test_each_package_has_one_version_and_a_hash(text: str, told: str | None) -> None:
    faults = faults_of_pins({"r.txt": text})
    assert [told in fault for fault in faults] == [True] if told else faults == []


@pytest.mark.parametrize(
    ("found", "refused"),
    [({"MIT"}, False), ({"MIT", "GPL-3.0-only"}, True), (set(), True), ({"AGPL-3.0"}, True)],
)
def test_each_licence_is_known_to_be_fine(found: set[str], refused: bool) -> None:
    assert bool(faults_of_licences({"a": found})) is refused


def test_a_licence_is_read_from_the_metadata() -> None:
    assert licences(distribution("pytest")) == {"MIT"}


def test_what_is_locked_here_has_no_fault() -> None:
    assert faults_of_pins({name: (ROOT / name).read_text() for name in FILES}) == []
