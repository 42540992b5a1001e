"""How fast the simulated GPU lets a model run: as measured, or as predicted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulated_gpu import CONFIGS
from slm_worker.gpu.simulated.pace import CHUNKED_PREFILL, Paces
from slm_worker.gpu.simulated.state import Pace
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import STUDY_GPU

GPU = gpus()[STUDY_GPU]
PACES = Paces(GPU)
OPT = PACES.of(CONFIGS["opt-1.3b"])


def throughput(pace: Pace, replicas: int, batch: int) -> float:
    """Output tokens/s of all replicas."""
    return replicas * batch / pace.step_seconds([batch] * replicas, 0)


@pytest.mark.parametrize(
    ("replicas", "batch", "tokens_per_second", "watts"),
    [
        (1, 1, 276.6, 256.4),
        (1, 128, 6897.2, 327.0),
        (1, 256, (7886.7 + 7841.9) / 2, (335.1 + 331.0) / 2),  # measured twice
        (2, 96, 8933.3, 408.3),
        (2, 256, 10641.9, 443.1),
        (4, 96, 9555.6, 446.8),
    ],
)
def test_a_measured_point_is_reproduced(
    replicas: int, batch: int, tokens_per_second: float, watts: float
) -> None:
    assert throughput(OPT, replicas, batch) == pytest.approx(tokens_per_second)
    assert OPT.active_watts([batch] * replicas) == pytest.approx(watts)


def test_a_run_whose_kv_cache_was_full_counts_for_the_sequences_that_it_held() -> None:
    # Four replicas, 256 each allowed, had room for about 232 of 257 tokens.
    assert throughput(OPT, 4, 232) == pytest.approx(10678.7, rel=0.005)


def test_three_replicas_lie_between_the_measured_two_and_four() -> None:
    for batch in (96, 192, 256):
        two, three, four = (throughput(OPT, n, batch) for n in (2, 3, 4))
        assert two <= three * 1.0001
        assert three <= four * 1.0001


def test_sixteen_sequences_on_two_replicas_are_slower_than_on_one() -> None:
    assert throughput(OPT, 2, 8) < throughput(OPT, 1, 16)


def test_chunked_prefill_gains_what_was_measured_with_it() -> None:
    chunked = PACES.of(CONFIGS["opt-1.3b"] | {CHUNKED_PREFILL: True})

    assert throughput(chunked, 1, 768) == pytest.approx(8607.3, rel=0.01)
    assert chunked.active_watts([768]) == pytest.approx(357.1, rel=0.05)
    assert chunked.active_watts(()) == GPU.idle_watts


def test_a_model_has_one_pace_however_often_it_is_asked() -> None:
    assert PACES.of(dict(CONFIGS["opt-1.3b"])) is OPT
    assert PACES.of(CONFIGS["llama-2-7b"]) is not OPT


@pytest.mark.parametrize("gpu", list(gpus()))
@pytest.mark.parametrize("model", list(CONFIGS))
def test_any_model_runs_on_any_gpu(model: str, gpu: str) -> None:
    pace = Paces(gpus()[gpu]).of(CONFIGS[model])

    assert throughput(pace, 1, 64) > 10 * throughput(pace, 1, 1)
    assert throughput(pace, 2, 64) > throughput(pace, 1, 64)
    assert pace.active_watts([64]) > gpus()[gpu].idle_watts


def test_an_unmeasured_model_is_faster_the_smaller_it_is() -> None:
    small, large = PACES.of(CONFIGS["unmeasured-1b"]), PACES.of(CONFIGS["llama-2-7b"])

    assert throughput(small, 1, 64) > throughput(large, 1, 64)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model_type": "opt"}, "num_hidden_layers"),
        ({**CONFIGS["llama-2-7b"], "num_local_experts": 8}, "mixture of experts"),
        ({"text_config": {"model_type": "gemma3_text"}}, "leaves sizes"),
    ],
)
def test_a_model_without_a_pace_is_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PACES.of(model)


@given(st.integers(1, 32), st.integers(1, 4096))
def test_pace_and_power_are_positive_and_bounded(replicas: int, batch: int) -> None:
    batches = [batch] * replicas

    assert OPT.step_seconds(batches, 0) > 0
    assert GPU.idle_watts <= OPT.active_watts(batches) <= GPU.max_watts
