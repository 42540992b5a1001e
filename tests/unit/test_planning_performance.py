"""What a layout would serve and draw: how the model behaves, whatever its constants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from published_models import MISTRAL_7B
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.footprint import ModelConfig
from slm_worker.planning.measured import STUDY_GPU, config_of, points
from slm_worker.planning.performance import Figures, Predictor, predictor_of
from slm_worker.planning.sharing import cycle_seconds
from slm_worker.planning.workload import STUDY, Workload, mean_context, output_lengths

OPT, LLAMA = config_of("opt-1.3b"), config_of("llama-2-7b")
H100 = gpus()[STUDY_GPU]
SHORT = Workload(prompt_tokens=100, output_tokens=60, requests=300)
"""Runs in a few milliseconds, and is none of the measured ones."""

times = st.floats(1e-5, 0.1)


def predictor(
    config: ModelConfig = OPT,
    gpu: str = STUDY_GPU,
    workload: Workload = SHORT,
    chunked_prefill: bool = False,
) -> Predictor:
    return predictor_of(config, gpus()[gpu], chunked_prefill=chunked_prefill, workload=workload)


def figures(found: Predictor, replicas: int, batch: int) -> Figures:
    return found.simulate(replicas, batch).figures


@given(times, times)
def test_one_replica_takes_its_time_on_the_gpu_and_its_gap(gpu: float, gap: float) -> None:
    assert cycle_seconds(1, gpu, gap) == pytest.approx(gpu + gap)


@given(st.integers(1, 31), times, times)
def test_a_further_replica_slows_each_but_never_all_together(
    replicas: int, gpu: float, gap: float
) -> None:
    fewer, more = (cycle_seconds(n, gpu, gap) for n in (replicas, replicas + 1))

    assert more >= fewer
    assert (replicas + 1) / more >= replicas / fewer * (1 - 1e-9)


@given(st.integers(1, 32), times, times)
def test_replicas_never_need_the_gpu_for_more_than_all_the_time(
    replicas: int, gpu: float, gap: float
) -> None:
    assert replicas * gpu / cycle_seconds(replicas, gpu, gap) <= 1 + 1e-9


@given(st.integers(1, 32))
def test_replicas_without_gaps_gain_nothing(replicas: int) -> None:
    assert cycle_seconds(replicas, 0.01, 0.0) == pytest.approx(replicas * 0.01)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_lengths_have_the_mean_that_was_asked_for(replicas: int) -> None:
    lengths = output_lengths(STUDY, replicas, 10_000)

    assert len(lengths) == 2000 / replicas
    assert sum(lengths) / len(lengths) == pytest.approx(292, rel=0.005)


def test_a_running_sequence_holds_as_many_tokens_as_in_the_traces() -> None:
    # opt-1.3b: 369 to 407 with the half block that each sequence leaves empty
    assert 369 <= mean_context(STUDY) + 8 <= 407


def test_no_answer_is_longer_than_the_engine_allows() -> None:
    assert max(output_lengths(STUDY, 1, 500)) == 500


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 32))
def test_a_larger_batch_serves_more_and_answers_later(replicas: int, batch: int) -> None:
    found = predictor(workload=Workload(100, 60, requests=1000))
    small, large = figures(found, replicas, batch), figures(found, replicas, 2 * batch)

    assert large.tokens_per_second > 0.99 * small.tokens_per_second
    assert large.itl_seconds > 0.99 * small.itl_seconds


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64))
def test_two_replicas_serve_more_than_one_and_draw_more(batch: int) -> None:
    found = predictor(workload=Workload(100, 60, requests=1200))
    one, two = figures(found, 1, batch), figures(found, 2, batch)

    assert two.tokens_per_second > one.tokens_per_second
    assert two.watts > one.watts


@pytest.mark.parametrize("gpu", gpus())
def test_power_lies_between_idle_and_the_limit(gpu: str) -> None:
    found = predictor(gpu=gpu)
    board = gpus()[gpu]

    for replicas, batch in ((1, 1), (1, 256), (2, 64)):
        assert board.idle_watts < figures(found, replicas, batch).watts <= board.max_watts


def test_a_larger_model_is_slower() -> None:
    opt, llama = (figures(predictor(config), 1, 32) for config in (OPT, LLAMA))

    assert llama.tokens_per_second < opt.tokens_per_second
    assert llama.itl_seconds > opt.itl_seconds


def test_more_bandwidth_is_faster() -> None:
    slow, fast = (
        figures(predictor(LLAMA, gpu), 1, 8) for gpu in ("h100-sxm-64gb", "h200-sxm-141gb")
    )

    # both have the same FLOP/s; at most the ratio of their bandwidths
    assert 1.3 < fast.tokens_per_second / slow.tokens_per_second < 4800 / 2039


def test_fewer_key_value_heads_make_attention_cheaper() -> None:
    grouped = LLAMA.model_copy(update={"kv_heads": 8})
    many, few = (figures(predictor(config), 1, 200) for config in (LLAMA, grouped))

    assert few.itl_seconds < many.itl_seconds


def test_chunked_prefill_serves_more() -> None:
    separate, chunked = (figures(predictor(chunked_prefill=on), 1, 64) for on in (False, True))

    assert chunked.tokens_per_second > separate.tokens_per_second


def test_a_full_kv_cache_preempts_and_bounds_the_batch() -> None:
    found = predictor(LLAMA, workload=STUDY)
    bounded = found.predict(1, 1024)

    assert found.simulate(1, 1024).preemptions > 0
    assert found.simulate(1, 128).preemptions == 0
    assert "the KV cache bounds the batch" in bounded.why
    assert (
        figures(found, 1, 1024).tokens_per_second < 1.05 * figures(found, 1, 512).tokens_per_second
    )


def test_what_does_not_fit_has_no_figures_and_says_why() -> None:
    prediction = predictor(LLAMA, "l4").predict(4, 16)

    assert prediction.figures is None
    assert prediction.kv_cache_bytes is None
    assert "4 replicas do not fit" in prediction.why


def test_a_kv_cache_that_a_window_makes_enough_has_no_figures_and_says_why() -> None:
    mistral = ModelConfig.model_validate(MISTRAL_7B)
    long = Workload(prompt_tokens=30_000, output_tokens=2000, requests=10)
    prediction = predictor(mistral, "l4", long, chunked_prefill=True).predict(1, 512)

    assert prediction.figures is None
    assert "a sequence of 32,768 tokens does not fit a KV cache of" in prediction.why


@pytest.mark.parametrize("model", ["opt-1.3b", "llama-2-7b"])
@pytest.mark.parametrize("chunked_prefill", [False, True])
def test_a_measured_layout_is_told_as_measured(model: str, chunked_prefill: bool) -> None:
    found = predictor(config_of(model), workload=STUDY, chunked_prefill=chunked_prefill)

    for (replicas, batch), row in points(model, chunked_prefill=chunked_prefill).items():
        prediction = found.predict(replicas, batch)
        assert prediction.origin == "measured"
        assert prediction.figures == Figures(row.tokens_per_second, row.watts, row.itl_seconds)


@pytest.mark.parametrize(
    ("replicas", "batch", "origin"),
    [
        (2, 128, "interpolated"),  # 96 and 256 were measured
        (3, 96, "interpolated"),  # 2 and 4
        (2, 64, "predicted"),  # below every measured batch of two replicas
        (6, 96, "predicted"),  # beyond every measured count
        (1, 1024, "predicted"),
    ],
)
def test_between_measured_layouts_is_interpolated_and_beyond_them_predicted(
    replicas: int, batch: int, origin: str
) -> None:
    found = predictor(workload=STUDY)

    prediction = found.predict(replicas, batch)

    assert prediction.origin == origin
    own = figures(found, replicas, batch)
    assert (prediction.figures == own) == (origin == "predicted")


def test_three_replicas_lie_between_the_measured_two_and_four() -> None:
    found = predictor(workload=STUDY)
    speeds = {}
    for replicas in (2, 3, 4):
        between = found.predict(replicas, 256).figures
        assert between is not None
        speeds[replicas] = between.tokens_per_second

    assert speeds[2] < speeds[3] < speeds[4]


def test_interpolation_goes_from_one_measured_row_to_the_next() -> None:
    found, rows = predictor(workload=STUDY), points("opt-1.3b")
    beside = found.predict(2, 97).figures

    assert beside is not None
    assert beside.tokens_per_second == pytest.approx(rows[2, 96].tokens_per_second, rel=0.01)
    assert beside.watts == pytest.approx(rows[2, 96].watts, rel=0.01)


@pytest.mark.parametrize(
    "found",
    [
        predictor(workload=Workload(256, 292)),
        predictor(gpu="h100-sxm-80gb", workload=STUDY),
        predictor(OPT.model_copy(update={"layers": 25}), workload=STUDY),
    ],
    ids=["other lengths", "another GPU", "another model"],
)
def test_measurements_of_something_else_are_not_used(found: Predictor) -> None:
    assert found.predict(1, 96).origin == "predicted"


def test_a_mixture_of_experts_is_refused() -> None:
    experts = LLAMA.model_copy(update={"experts": 8, "model_type": "mixtral"})

    with pytest.raises(ValueError, match="mixture of experts"):
        predictor_of(experts, H100)


def test_lengths_beyond_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="longest sequence of 2,048"):
        predictor(workload=Workload(2000, 100))


def test_a_load_beyond_a_longrope_model_s_usual_length_is_predicted() -> None:
    longrope = OPT.model_copy(
        update={"original_positions": 512, "rope_scaling": {"type": "longrope"}}
    )
    long = Workload(prompt_tokens=600, output_tokens=60, requests=300)

    assert predictor(longrope, workload=SHORT).needs.max_model_len == 512
    assert predictor(longrope, workload=long).needs.max_model_len == 660
    with pytest.raises(ValueError, match="longest sequence of 2,048"):
        predictor(longrope, workload=Workload(prompt_tokens=2000, output_tokens=60))
