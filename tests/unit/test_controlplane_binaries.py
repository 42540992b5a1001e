"""Where the control plane programs come from, with fake programs and a fake Go toolchain."""

import threading
from pathlib import Path

import pytest

from fake_go import COMPILES, Machine, put_program
from slm_dev import go_build
from slm_dev.controlplane import (
    Binaries,
    ControlPlaneBuildError,
    ControlPlaneMissing,
    find_or_build,
)
from slm_dev.controlplane import build as controlplane_build

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


def find(machine: Machine) -> Binaries:
    return find_or_build(machine.said.append)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.path))
    monkeypatch.setenv("SLM_CACHE_DIR", str(machine.cache))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return machine


def in_folder(folder: Path) -> Binaries:
    return Binaries(folder / "etcd", folder / "kube-apiserver", folder / "kubectl")


def test_assets_folder_comes_first(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROGRAMS:
        put_program(tmp_path / "assets", name)
        put_program(machine.path, name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert find(machine) == in_folder(tmp_path / "assets")


def test_incomplete_assets_folder_is_an_error_that_names_what_is_missing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put_go()
    put_program(tmp_path / "assets", "kubectl")
    put_program(tmp_path / "assets", "etcd").chmod(0o644)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(ControlPlaneMissing, match=r"no executable etcd, kube-apiserver\.") as error:
        find(machine)
    assert str(tmp_path / "assets") in str(error.value)
    assert machine.builds() == 0


def test_empty_assets_variable_counts_as_unset(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROGRAMS:
        put_program(machine.path, name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "")
    assert find(machine) == in_folder(machine.path)


def test_path_is_used_before_a_build(machine: Machine) -> None:
    machine.put_go()
    for name in PROGRAMS:
        put_program(machine.path, name)
    assert find(machine) == in_folder(machine.path)
    assert machine.builds() == 0


def test_path_with_only_some_programs_is_not_used(machine: Machine) -> None:
    machine.put_go()
    put_program(machine.path, "kubectl")
    assert machine.cache in find(machine).kubectl.parents


def test_nothing_at_all_says_what_to_provide(machine: Machine) -> None:
    put_program(machine.path, "kubectl")
    with pytest.raises(ControlPlaneMissing) as error:
        find(machine)
    text = str(error.value)
    assert "PATH has only kubectl" in text
    assert "KUBEBUILDER_ASSETS set to a folder with etcd, kube-apiserver, kubectl" in text
    assert "Go 1.24 or newer" in text


@pytest.mark.parametrize("version", ["go1.23.12", "go1.9", "devel"])
def test_old_or_unknown_go_counts_as_none(machine: Machine, version: str) -> None:
    machine.put_go(version)
    with pytest.raises(ControlPlaneMissing, match="PATH has none of them"):
        find(machine)


def test_programs_are_built_once(machine: Machine) -> None:
    machine.put_go()
    first = find(machine)
    assert find(machine) == first
    assert machine.builds() == 1
    assert first.etcd.parent.parent == machine.cache
    assert first.etcd.resolve() == first.kubectl.resolve() == first.kube_apiserver.resolve()
    assert [entry.name for entry in machine.cache.glob("*.partial")] == []


def test_another_go_version_builds_anew(machine: Machine) -> None:
    machine.put_go("go1.24.0")
    first = find(machine)
    machine.put_go("go1.25rc1")
    assert find(machine) != first
    assert machine.builds() == 2


def test_changed_source_builds_anew(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.put_go()
    first = find(machine)
    module = tmp_path / "module"
    for name in ("go.mod", "go.sum", "main.go"):
        put_program(module, name, "changed")
    monkeypatch.setattr(controlplane_build, "MODULE", module)
    assert find(machine) != first


@pytest.mark.parametrize(
    ("variable", "cache"), [("XDG_CACHE_HOME", "slm-operator"), ("HOME", ".cache/slm-operator")]
)
def test_default_cache_folder(
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    cache: str,
) -> None:
    machine.put_go()
    monkeypatch.delenv("SLM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert find(machine).etcd.parent.parent == tmp_path / cache


def test_progress_counts_packages(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_build, "_PROGRESS_SECONDS", 0.2)
    machine.put_go(body=f"echo 'go: downloading x' >&2; {COMPILES}; /bin/sleep 1")
    find(machine)
    assert "once" in machine.said[0]
    assert any("2 packages compiled" in line for line in machine.said)
    assert machine.said[-1].startswith("Built in ")


def test_failed_build_shows_the_compilers_words_and_can_be_retried(machine: Machine) -> None:
    machine.put_go(body="echo 'write /cache: no space left on device' >&2; exit 1")
    with pytest.raises(ControlPlaneBuildError, match="no space left on device") as error:
        find(machine)
    assert "python -m slm_dev.controlplane" in str(error.value)
    assert [entry.name for entry in machine.cache.iterdir()] == ["controlplane.lock"]
    machine.put_go()
    assert find(machine).etcd.exists()


def test_unwritable_cache_says_which_variable_moves_it(machine: Machine) -> None:
    machine.put_go()
    machine.cache.write_text("a file where a folder should be")
    with pytest.raises(ControlPlaneBuildError, match="set SLM_CACHE_DIR"):
        find(machine)


def test_two_at_once_build_once(machine: Machine) -> None:
    machine.put_go(body=f"{COMPILES}; /bin/sleep 1")
    found: list[Binaries] = []
    threads = [threading.Thread(target=lambda: found.append(find(machine))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert machine.builds() == 1
    assert any("waiting for it" in line for line in machine.said)
