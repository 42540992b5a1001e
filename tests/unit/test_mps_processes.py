"""Which MPS processes an agent takes for those of an agent that is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slm_worker.gpu import mps_processes
from slm_worker.gpu.mps_control import MpsDirectories
from slm_worker.gpu.mps_processes import in_directories, mark, orphaned

OURS, ANOTHERS = "pid:[4026531836]", "pid:[4026532201]"
DIRECTORIES = MpsDirectories(Path("/run/mps/pipe"), Path("/run/mps/log"))
AGENT, DAEMON = 7, 612

AddProcess = Callable[..., None]


@pytest.fixture
def add_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddProcess:
    """Adds processes to a /proc in which this process's namespace is OURS."""
    monkeypatch.setattr(mps_processes, "_PROC", tmp_path)

    def add(pid: object, program: str, namespace: str | None = OURS, owner: str = "") -> None:
        process = tmp_path / str(pid)
        (process / "ns").mkdir(parents=True)
        if namespace is not None:
            (process / "ns/pid").symlink_to(namespace)
        (process / "cmdline").write_bytes(f"/usr/bin/{program}\0-d".encode())
        variables = {**DIRECTORIES.environment, "SLM_MPS_OWNER": owner}
        (process / "environ").write_bytes(
            "\0".join(f"{name}={value}" for name, value in variables.items()).encode()
        )
        (process / "stat").write_text(f"{pid} (a b) S {' '.join(map(str, range(4, 30)))}")

    add("self", "python")
    return add


def test_what_an_agent_that_is_gone_started_is_orphaned(add_process: AddProcess) -> None:
    add_process(DAEMON, "nvidia-cuda-mps-control", owner=f"{AGENT}:100")
    assert orphaned() == [DIRECTORIES]
    assert in_directories(DIRECTORIES) == [DAEMON]


def test_what_a_living_agent_started_is_not(add_process: AddProcess) -> None:
    add_process(AGENT, "python")
    add_process(DAEMON, "nvidia-cuda-mps-control", owner=mark(AGENT))
    assert orphaned() == []


@pytest.mark.parametrize("namespace", [ANOTHERS, None], ids=["another's", "not to be known"])
def test_what_runs_in_another_container_is_left_alone(
    add_process: AddProcess, namespace: str | None
) -> None:
    """Its agent has another number there, and its directories are other files."""
    add_process(DAEMON, "nvidia-cuda-mps-server", namespace, owner=f"{AGENT}:100")
    assert orphaned() == []
    assert in_directories(DIRECTORIES) == []
