"""What the cache keeps, and what makes room."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from fake_go import Machine
from slm_dev import helm
from slm_dev.cache_upkeep import KEPT, UNUSED_SECONDS, use
from slm_dev.images.ingredients import ensure

NOW = 1_800_000_000.0
DAY = 24 * 3600.0
LONG = UNUSED_SECONDS + DAY
"""Ago."""
LAST_CENTURY = 28 * 365 * DAY
"""Ago by any clock."""


def entry(cache: Path, kind: str, number: int, ago_seconds: float, variant: str = "") -> Path:
    folder = cache / f"{kind}-{number:016x}{variant}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "program").touch()
    os.utime(folder, (NOW - ago_seconds, NOW - ago_seconds))
    return folder


def used(folder: Path, commands: Iterable[bytes] = ()) -> list[str]:
    """What was said meanwhile."""
    said: list[str] = []
    use(folder, said.append, clock=lambda: NOW, commands=lambda: commands)
    return said


def names(cache: Path) -> set[str]:
    return {each.name for each in cache.iterdir()}


def test_what_was_not_used_for_long_goes_and_is_named(tmp_path: Path) -> None:
    last = entry(tmp_path, "images", 0, ago_seconds=0)
    kept = [entry(tmp_path, "images", n, LONG + n) for n in range(1, KEPT)]
    gone = entry(tmp_path, "images", KEPT, LONG + DAY)
    said = used(last)
    assert names(tmp_path) == {each.name for each in (last, *kept)}
    assert said == [f"removing {gone}: not used since 2026-12-30"]


def test_what_was_used_within_two_weeks_stays_however_much_it_is(tmp_path: Path) -> None:
    folders = [entry(tmp_path, "images", n, UNUSED_SECONDS - DAY) for n in range(9)]
    assert used(folders[0]) == []
    assert len(names(tmp_path)) == 9


def test_to_use_one_counts(tmp_path: Path) -> None:
    folders = [entry(tmp_path, "images", n, LONG + n * DAY) for n in range(KEPT + 1)]
    used(folders[-1])
    assert folders[-1].stat().st_mtime == NOW
    assert names(tmp_path) == {each.name for each in (*folders[: KEPT - 1], folders[-1])}


@pytest.mark.parametrize(
    "other", ["images-debian-{}", "images-{}-vllm", "helm-{}", "prometheus", "images-of-mine"]
)
def test_other_kinds_stay(tmp_path: Path, other: str) -> None:
    for number in range(KEPT + 2):
        folder = tmp_path / other.format(f"{number:016x}")
        folder.mkdir(exist_ok=True)
        os.utime(folder, (0, 0))
    before = names(tmp_path)
    last = entry(tmp_path, "images", 9, ago_seconds=0)
    assert used(last) == []
    assert names(tmp_path) == before | {last.name}


@pytest.mark.parametrize("lock", ["images-{:016x}.lock", "images.lock"])
def test_one_whose_lock_is_held_stays(tmp_path: Path, lock: str) -> None:
    folders = [entry(tmp_path, "images", n, LONG + n) for n in range(KEPT + 1)]
    with (tmp_path / lock.format(KEPT)).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert used(folders[0]) == []
        assert folders[-1].is_dir()
    assert len(used(folders[0])) == 1
    assert not folders[-1].exists()


def test_one_that_a_process_runs_from_stays(tmp_path: Path) -> None:
    folders = [entry(tmp_path, "images", n, LONG + n) for n in range(KEPT + 1)]
    command = f"{folders[-1]}/bin/program\0--flag\0".encode()
    assert used(folders[0], commands=[b"", command]) == []
    assert folders[-1].is_dir()


def test_what_a_killed_build_left_goes_too_and_takes_no_place(tmp_path: Path) -> None:
    whole = [entry(tmp_path, "images", n, LONG) for n in range(KEPT)]
    left = entry(tmp_path, "images", 8, LONG, ".partial")
    begun = entry(tmp_path, "images", 9, DAY, ".partial")
    assert len(used(whole[0])) == 1
    assert not left.exists()
    assert begun.is_dir() and all(each.is_dir() for each in whole)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    folders = [entry(cache, "images", n, DAY) for n in range(KEPT)]
    target = entry(elsewhere, "images", 9, LONG)
    (cache / target.name).symlink_to(target)
    assert used(folders[0]) == []
    assert (cache / target.name / "bin" / "program").exists()


def test_an_entry_that_is_not_there_is_no_failure(tmp_path: Path) -> None:
    assert used(tmp_path / "none" / f"images-{0:016x}") == []


# The builders


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.path))
    monkeypatch.setenv("SLM_CACHE_DIR", str(machine.cache))
    machine.put_go()
    return machine


def test_a_program_that_is_found_or_built_makes_room(machine: Machine) -> None:
    old = [entry(machine.cache, "helm", n, LAST_CENTURY + n) for n in range(KEPT)]
    built = helm.find_or_build(machine.said.append).parent
    assert names(machine.cache) == {
        "helm.lock",
        built.name,
        *(each.name for each in old[: KEPT - 1]),
    }
    os.utime(built, (0, 0))
    helm.find_or_build(machine.said.append)
    assert built.stat().st_mtime > 0


def test_an_image_that_is_found_or_built_makes_room(machine: Machine) -> None:
    for number in range(KEPT):
        entry(machine.cache, "images", number, LAST_CENTURY + number)
    name = f"images-{9:016x}"
    ensure(name, lambda scratch: (scratch / "made").touch(), machine.said.append)
    assert len([each for each in machine.cache.iterdir() if each.is_dir()]) == KEPT
    os.utime(machine.cache / name, (0, 0))
    ensure(name, lambda _: pytest.fail("made twice"), machine.said.append)
    assert (machine.cache / name).stat().st_mtime > 0
