"""Where helm comes from, with fake programs and a fake Go toolchain."""

import re
from pathlib import Path

import pytest

from fake_go import Machine, put_program
from slm_dev import helm
from slm_dev.helm import HelmMissing, find_or_build


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.path))
    monkeypatch.setenv("SLM_CACHE_DIR", str(machine.cache))
    monkeypatch.delenv("SLM_HELM", raising=False)
    return machine


def test_the_variable_comes_first(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(machine.path, "helm")
    own = put_program(tmp_path / "own", "helm-3")
    monkeypatch.setenv("SLM_HELM", str(own))
    assert find_or_build(machine.said.append) == own


def test_a_variable_that_names_no_program_is_an_error(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(machine.path, "helm")
    monkeypatch.setenv("SLM_HELM", str(tmp_path))
    with pytest.raises(HelmMissing, match=re.escape(f"SLM_HELM is {tmp_path}, which is no")):
        find_or_build(machine.said.append)


def test_path_is_used_before_a_build(machine: Machine) -> None:
    machine.put_go()
    there = put_program(machine.path, "helm")
    assert find_or_build(machine.said.append) == there
    assert machine.builds() == 0


def test_helm_is_built_once(machine: Machine) -> None:
    machine.put_go()
    first = find_or_build(machine.said.append)
    assert find_or_build(machine.said.append) == first
    assert first.name == "helm"
    assert machine.cache in first.parents
    assert machine.builds() == 1


def test_nothing_at_all_says_what_to_provide(machine: Machine) -> None:
    machine.put_go("go1.25.4")
    with pytest.raises(HelmMissing, match=r"SLM_HELM is not set.*at least 1\.26"):
        find_or_build(machine.said.append)


def test_the_version_is_that_of_the_module() -> None:
    module = (Path(helm.__file__).parent / "gomod/go.mod").read_text()
    assert f"\nrequire helm.sh/helm/v3 {helm.HELM_VERSION} " in module
