"""When the agent doubts a ready engine, its backoff, its cores and the engines' environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.engine.base import EngineCommand
from slm_worker.engine.metrics import EngineSample
from slm_worker.replicas.affinity import core_sets
from slm_worker.replicas.health import (
    IDLE_PROBE_SECONDS,
    MAX_BACKOFF_SECONDS,
    STALLED_PROBE_SECONDS,
    ProgressWatch,
    backoff_seconds,
)
from slm_worker.replicas.process import engine_environment


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
    assert not watch.hung
    assert watch.probe_due(20.0), "the second follows at once"
    watch.probed(False, 30.0)
    assert watch.hung


def test_progress_between_two_failed_probes_is_no_hang() -> None:
    watch = ProgressWatch(0.0)
    watch.sampled(busy(1), 10.0)
    watch.probed(False, 20.0)
    watch.sampled(busy(2), 21.0)
    watch.probed(False, 30.0)
    assert not watch.hung


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
