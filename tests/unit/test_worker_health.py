"""When the agent doubts a ready engine, its backoff, its cores and the engines' environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.engine.base import EngineCommand
from slm_worker.engine.metrics import EngineSample
from slm_worker.replicas.affinity import core_sets
from slm_worker.replicas.environment import engine_environment, lacks_bytecode
from slm_worker.replicas.health import (
    BUSY_PATIENCE_SECONDS,
    IDLE_PROBE_SECONDS,
    MAX_BACKOFF_SECONDS,
    STALLED_PROBE_SECONDS,
    ProgressWatch,
    backoff_seconds,
)


def busy(tokens: int) -> EngineSample:
    return EngineSample(output_tokens=tokens, running=4)


def test_traffic_that_makes_progress_asks_for_no_probe() -> None:
    watch = ProgressWatch(0.0)
    for second in range(200):
        watch.sampled(busy(second), float(second))
        assert not watch.probe_due(float(second))


def test_a_long_prefill_is_progress() -> None:
    watch = ProgressWatch(0.0)
    for second in range(60):
        watch.sampled(EngineSample(running=1, steps=second), float(second))
        assert not watch.probe_due(float(second))


def test_an_idle_engine_is_probed_rarely() -> None:
    watch = ProgressWatch(0.0)
    watch.sampled(EngineSample(), 0.5)
    assert not watch.probe_due(IDLE_PROBE_SECONDS - 0.1)
    assert watch.probe_due(IDLE_PROBE_SECONDS)
    watch.probed(True, IDLE_PROBE_SECONDS)
    assert not watch.probe_due(2 * IDLE_PROBE_SECONDS - 0.1)


@pytest.mark.parametrize("sample", [busy(7), EngineSample(waiting=1), None])
def test_an_engine_that_stalls_or_does_not_answer_is_probed_soon(
    sample: EngineSample | None,
) -> None:
    watch = ProgressWatch(0.0)
    watch.sampled(sample, 0.5)
    watch.sampled(sample, 1.0)
    assert watch.probe_due(STALLED_PROBE_SECONDS)


def test_two_failed_probes_in_a_row_mean_hung() -> None:
    watch = ProgressWatch(0.0)
    watch.probed(False, 20.0)
    assert not watch.hung(20.0)
    assert watch.probe_due(20.0), "the second follows at once"
    watch.probed(False, 30.0)
    assert watch.hung(30.0)


def test_progress_between_two_failed_probes_is_no_hang() -> None:
    watch = ProgressWatch(0.0)
    watch.sampled(busy(1), 10.0)
    watch.probed(False, 20.0)
    watch.sampled(busy(2), 21.0)
    watch.probed(False, 30.0)
    assert not watch.hung(30.0)


def silent(watch: ProgressWatch, until_seconds: int, cores: float | None) -> None:
    """Two failed probes, and no answer to the agent every other second."""
    for second in range(1, until_seconds, 2):
        watch.sampled(None, float(second), None if cores is None else cores * second)
    watch.probed(False, 10.0)
    watch.probed(False, 20.0)


def test_a_silent_server_at_work_is_given_time() -> None:
    watch = ProgressWatch(0.0)
    silent(watch, 20, cores=0.9)
    assert not watch.hung(20.0)
    watch.sampled(busy(1), 21.0)
    watch.sampled(busy(2), 22.0)
    assert not watch.hung(22.0 + BUSY_PATIENCE_SECONDS), "it came back"


def test_a_silent_server_at_work_is_not_given_time_without_end() -> None:
    watch = ProgressWatch(0.0)
    silent(watch, int(BUSY_PATIENCE_SECONDS), cores=0.9)
    assert not watch.hung(BUSY_PATIENCE_SECONDS - 0.1)
    assert watch.hung(BUSY_PATIENCE_SECONDS)


@pytest.mark.parametrize("cores", [0.1, None])
def test_a_silent_server_that_does_nothing_is_hung(cores: float | None) -> None:
    watch = ProgressWatch(0.0)
    silent(watch, 20, cores)
    assert watch.hung(20.0)


def test_a_server_that_stops_working_is_hung() -> None:
    watch = ProgressWatch(0.0)
    silent(watch, 20, cores=0.9)
    watch.sampled(None, 22.0, 18.0)
    watch.sampled(None, 24.0, 18.0)
    assert watch.hung(24.0)


def test_the_backoff_doubles_to_a_minute() -> None:
    waits = [backoff_seconds(failures) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff_seconds(10_000) == MAX_BACKOFF_SECONDS


def test_cores_are_divided_where_each_replica_gets_two() -> None:
    assert core_sets(range(7), 3) == (frozenset({0, 1}), frozenset({2, 3}), frozenset({4, 5}))
    assert core_sets(range(7), 4) is None


@given(st.frozensets(st.integers(0, 200), max_size=64), st.integers(1, 32))
def test_core_sets_are_disjoint_and_equal(cores: frozenset[int], replicas: int) -> None:
    sets = core_sets(cores, replicas)
    if sets is None:
        assert len(cores) < 2 * replicas
        return
    assert len(sets) == replicas
    assert len({len(one) for one in sets}) == 1
    assert sum(len(one) for one in sets) == len(frozenset().union(*sets))
    assert frozenset().union(*sets) <= cores


def test_engines_inherit_no_secret_and_no_service_link() -> None:
    agent = {
        "PATH": "/bin",
        "SLM_AGENT_TOKEN_FILE": "/run/slm/token",
        "SLM_PACK_CONFIG": "{}",
        "VLLM_PORT": "tcp://10.0.0.1:8000",
        "HF_TOKEN": "the engine's own",
        "TMPDIR": "/tmp",  # noqa: S108
    }
    command = EngineCommand(("engine",), {"FROM_ENGINE": "1", "PATH": "/opt"})
    environment = engine_environment(
        agent,
        command,
        {"FROM_DEVICE": "2"},
        marker="10.0.0.1/0",
        cache_dir=Path("/cache"),
        tmpdir=Path("/run/r0"),
    )
    assert {name: value for name, value in environment.items() if "CACHE" not in name} == {
        "PATH": "/opt",
        "HF_TOKEN": "the engine's own",
        "FROM_ENGINE": "1",
        "FROM_DEVICE": "2",
        "SLM_REPLICA": "10.0.0.1/0",
        "TMPDIR": "/run/r0",
    }


@pytest.mark.parametrize(("agent", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "8"}, "8")])
def test_a_default_of_the_engine_gives_way_to_the_users_value(
    agent: dict[str, str], expected: str
) -> None:
    environment = engine_environment(
        agent,
        EngineCommand(("engine",), {}, {"OMP_NUM_THREADS": "1"}),
        {},
        marker="10.0.0.1/0",
        cache_dir=Path("/cache"),
        tmpdir=Path("/run/r0"),
    )
    assert environment["OMP_NUM_THREADS"] == expected


@pytest.mark.parametrize("own", [{}, {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}])
def test_engines_inherit_no_limits_of_another_mps_daemon(own: dict[str, str]) -> None:
    agent = {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "10",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8G",
    }
    environment = engine_environment(
        agent,
        EngineCommand(("engine",), {}),
        own,
        marker="10.0.0.1/0",
        cache_dir=Path("/cache"),
        tmpdir=Path("/run/r0"),
    )
    limits = {name: value for name, value in environment.items() if name.startswith("CUDA_MPS_")}
    assert limits == own


def test_compiled_kernels_outlive_the_replica_unless_the_user_says_where_they_go() -> None:
    environment = engine_environment(
        {"TRITON_CACHE_DIR": "/mine"},
        EngineCommand(("engine",), {}),
        {},
        marker="10.0.0.1/0",
        cache_dir=Path("/cache"),
        tmpdir=Path("/run/r0"),
    )
    assert environment["TRITON_CACHE_DIR"] == "/mine"
    assert environment["VLLM_CACHE_ROOT"] == "/cache/vllm"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/cache/inductor"


def installed(folder: Path, *, compiled: bool) -> Path:
    """A vLLM as pip lays it out; its program."""
    package = folder / "lib" / "python3.12" / "dist-packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if compiled:
        (package / "__pycache__").mkdir()
    program = folder / "bin" / "vllm"
    program.parent.mkdir()
    program.touch(mode=0o755)
    return program


@pytest.mark.parametrize("compiled", [True, False])
def test_bytecode_that_the_image_lacks_is_kept_for_the_other_processes(
    tmp_path: Path, compiled: bool
) -> None:
    program = installed(tmp_path, compiled=compiled)
    assert lacks_bytecode(program) is not compiled
    environment = engine_environment(
        {"PYTHONDONTWRITEBYTECODE": "1"},
        EngineCommand((str(program), "serve"), {}),
        {},
        marker="10.0.0.1/0",
        cache_dir=Path("/cache"),
        tmpdir=Path("/run/r0"),
    )
    assert environment.get("PYTHONPYCACHEPREFIX") == (None if compiled else "/cache/python")
    assert ("PYTHONDONTWRITEBYTECODE" in environment) is compiled
