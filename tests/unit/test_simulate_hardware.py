"""What requests cost a GPU: the curve as it was measured, and other lengths than its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulate_builders import OPT_1_3B_CONFIG, SHORT, flat, opt_1_3b
from slm_operator.cli import curves
from slm_operator.pareto.points import OperatingPoint
from slm_operator.simulate.hardware import LEAST_STEP_SHARE, Hardware, LengthCosts
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.measured import STUDY_GPU
from slm_worker.planning.workload import Workload, mean_context

COSTLY = opt_1_3b(lengths=True)
UNBOUND = replace(COSTLY, kv_tokens={})
"""Lengths have costs, the KV cache has no end."""
LOADS = st.builds(Workload, prompt_tokens=st.floats(1, 8000), output_tokens=st.floats(1, 2000))


@pytest.mark.parametrize("hardware", [opt_1_3b(), UNBOUND], ids=["curve alone", "with lengths"])
@pytest.mark.parametrize("point", COSTLY.curve.points, ids=lambda p: str(p.probe))
def test_at_its_own_lengths_the_curve_comes_back(hardware: Hardware, point: OperatingPoint) -> None:
    replicas, batch = point.probe.replicas, point.probe.max_num_seqs
    tokens, watts = hardware.saturated(replicas, batch, hardware.measured_at)
    assert tokens == pytest.approx(point.output_tokens_per_second, rel=1e-9)
    assert watts == pytest.approx(point.power_watts, rel=1e-9)


def test_without_costs_lengths_do_not_matter() -> None:
    hardware = opt_1_3b()
    own = hardware.saturated(2, 256, hardware.measured_at)
    assert hardware.saturated(2, 256, Workload(9000, 5)) == pytest.approx(own)


def test_a_request_by_hand() -> None:
    costs = LengthCosts(
        prompt_seconds=0.001, prompt_joules=0.2, context_seconds=0.0001, context_joules=0.003
    )
    hardware = flat(step_seconds=0.1, step_joules=2.0, costs=costs)
    # 2 sequences a step read 2 prompt tokens beside it while the curve was measured
    step = hardware.step(1, 2)
    assert step.seconds == pytest.approx(0.1 - 2 * 0.001)
    assert step.joules == pytest.approx(2.0 - 2 * 0.2)
    held = mean_context(SHORT)
    longer = 2 * held + 50
    assert hardware.step_seconds(step, 1, 2, longer) == pytest.approx(0.098 + 50 * 0.0001)
    assert hardware.step_seconds(step, 2, 2, longer) == pytest.approx(0.098 + 2 * 50 * 0.0001)
    assert hardware.step_joules(step, 2, longer) == pytest.approx(1.6 + 50 * 0.003)
    # 25 more tokens of prompt, and of context, for each of both
    tokens, watts = hardware.saturated(1, 2, Workload(35, 10))
    seconds = 10 * (0.098 + 50 * 0.0001) / 2 + 35 * 0.001
    assert tokens == pytest.approx(10 / seconds)
    assert watts == pytest.approx(100 + (10 * (1.6 + 50 * 0.003) / 2 + 35 * 0.2) / seconds)


@given(
    load=LOADS,
    more=st.floats(1, 5000),
    layout=st.sampled_from([(1, 16), (1, 256), (2, 256), (4, 96)]),
)
def test_longer_prompts_cost_more(load: Workload, more: float, layout: tuple[int, int]) -> None:
    longer = replace(load, prompt_tokens=load.prompt_tokens + more)
    fewer, _ = UNBOUND.saturated(*layout, longer)
    tokens, _ = UNBOUND.saturated(*layout, load)
    assert fewer < tokens


@given(
    load=LOADS,
    more=st.floats(1, 5000),
    layout=st.sampled_from([(1, 16), (1, 256), (2, 256), (4, 96)]),
)
def test_longer_prompts_take_more_energy_for_each_answer(
    load: Workload, more: float, layout: tuple[int, int]
) -> None:
    longer = replace(load, prompt_tokens=load.prompt_tokens + more)
    (tokens, watts), (fewer, other_watts) = (
        UNBOUND.saturated(*layout, each) for each in (load, longer)
    )
    assert watts / tokens < other_watts / fewer


@given(batch=st.integers(1, 256), contexts=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)))
def test_longer_contexts_cost_more_and_no_step_is_below_the_floor(
    batch: int, contexts: tuple[float, float]
) -> None:
    step = UNBOUND.step(2, batch)
    low, high = sorted(contexts)
    floor = LEAST_STEP_SHARE * step.seconds
    assert (
        floor
        <= UNBOUND.step_seconds(step, 2, batch, low)
        <= UNBOUND.step_seconds(step, 2, batch, high)
    )
    floor = LEAST_STEP_SHARE * step.joules
    assert floor <= UNBOUND.step_joules(step, batch, low) <= UNBOUND.step_joules(step, batch, high)


def test_prompts_that_would_have_taken_the_whole_step_leave_the_floor() -> None:
    hardware = flat(costs=LengthCosts(prompt_seconds=1.0, prompt_joules=9.0))
    step = hardware.step(1, 2)
    assert step.seconds == pytest.approx(LEAST_STEP_SHARE * 0.1)
    assert step.joules == pytest.approx(LEAST_STEP_SHARE * 1.0)


def test_the_kv_cache_bounds_the_batch() -> None:
    hardware = flat(kv_tokens={1: 1000, 2: 450})
    load = Workload(80, 20)
    assert hardware.saturated_batch(1, 256, load) == 10
    assert hardware.saturated_batch(2, 256, load) == 4
    assert hardware.saturated_batch(2, 3, load) == 3
    assert hardware.saturated_batch(3, 256, load) == 256
    assert hardware.saturated_batch(1, 256, Workload(5000, 5)) == 1


def test_use_of_the_kv_cache() -> None:
    by_tokens = flat(kv_tokens={2: 1000})
    assert by_tokens.kv_usage(2, 7, 250.0) == 0.25
    assert by_tokens.kv_usage(2, 7, 9999.0) == 1.0
    by_share = flat(kv_shares={2: 0.01})
    assert by_share.kv_usage(2, 7, 250.0) == 0.07
    assert by_share.kv_usage(2, 200, 250.0) == 1.0
    assert by_share.kv_usage(1, 7, 250.0) == 0.0


def test_more_replicas_leave_each_less_kv_cache() -> None:
    held = COSTLY.kv_tokens
    assert sorted(held) == [1, 2, 3, 4]
    assert held[1] > 2 * held[2] > 3 * held[3] > 4 * held[4] > 0


def test_a_tokens_costs_are_the_planners() -> None:
    """OPT-1.3B has 1.2 billion parameters in its layers: 2.4 GFLOP to read a token, 192 KiB of KV
    cache to write and to read again."""
    gpu = gpus()[STUDY_GPU]
    rates = gpu.rates("float16")
    costs = COSTLY.costs
    assert costs.prompt_seconds > 2.4e9 / rates.flops_per_second
    assert costs.prompt_seconds < 3 * 2.4e9 / rates.flops_per_second
    assert costs.context_seconds > 192 * 1024 / rates.bytes_per_second
    assert costs.context_seconds < 3 * 192 * 1024 / rates.bytes_per_second
    span = gpu.max_watts - gpu.idle_watts
    assert 0 < costs.prompt_joules / costs.prompt_seconds < span
    assert 0 < costs.context_joules / costs.context_seconds < span


def test_a_predicted_curve_is_the_planners_at_its_own_lengths() -> None:
    load = Workload(500, 200)
    source = curves.predicted("config.json", OPT_1_3B_CONFIG, STUDY_GPU, load)
    hardware = source.hardware
    assert source.basis == f"Curve predicted for config.json on {STUDY_GPU}, not measured"
    assert hardware.measured_at == load
    assert hardware.curve.replica_counts == [1, 2, 3, 4]
    for point in hardware.curve.points:
        replicas, batch = point.probe.replicas, point.probe.max_num_seqs
        if hardware.saturated_batch(replicas, batch, load) == batch:
            tokens, watts = hardware.saturated(replicas, batch, load)
            assert tokens == pytest.approx(point.output_tokens_per_second, rel=1e-6)
            assert watts == pytest.approx(point.power_watts, rel=1e-6)
