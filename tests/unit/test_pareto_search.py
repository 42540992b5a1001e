"""The search walks by rotation, tries one replica's larger batch, and commits by layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import h100, point
from slm_operator.pareto.choice import Choice, choose
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step, running_layout
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.gpu.simulated.pace import Paces
from slm_worker.model_files import PUBLISHED_CONFIGS
from slm_worker.planning.catalogue import gpus
from slm_worker.planning.footprint import ModelFootprint
from slm_worker.planning.measured import STUDY_GPU
from slm_worker.planning.packing import max_replicas as max_replicas_fitting
from slm_worker.planning.packing import share
from slm_worker.wire import Layout

MEAN_TOKENS_HELD = 256
"""Of a running sequence: the prompt and half of the output, for 128 and 256 tokens."""


def space(**changes: object) -> SearchSpace:
    values: dict[str, object] = {
        "min_replicas": 1,
        "max_replicas": 4,
        "max_num_seqs": 256,
        "batch_is_free": False,
        "objective": Objective(),
    } | changes
    return SearchSpace(**values)  # type: ignore[arg-type]


def walk(
    where: SearchSpace, curve: Callable[[Probe], OperatingPoint], limit: int = 50
) -> tuple[list[Probe], Choice]:
    probes: list[Probe] = []
    points: list[OperatingPoint] = []
    for _ in range(limit):
        step = next_step(where, points)
        if isinstance(step, Settle):
            return probes, step.choice
        probes.append(step.probe)
        points.append(curve(step.probe))
    raise AssertionError(f"no end after {limit} probes: {probes}")


def test_on_the_published_curve_it_walks_by_rotation_and_chooses_among_own_layouts() -> None:
    probes, choice = walk(space(), h100)
    walked = [Probe(3, 2, 256), Probe(3, 3, 256)]
    assert probes == [*walked, Probe(1, 1, 256), Probe(2, 2, 256)]
    assert running_layout(choice) == Probe(2, 2, 256)


def test_an_open_batch_is_tried_on_one_replica_before_the_winners_own_layout() -> None:
    probes, choice = walk(space(batch_is_free=True), h100)
    assert probes[2:] == [Probe(1, 1, 512), Probe(2, 2, 256)]
    assert running_layout(choice) == Probe(2, 2, 256)


def test_one_replica_with_a_larger_batch_can_win() -> None:
    curve = {(1, 256): 1000.0, (2, 256): 1010.0, (1, 512): 1500.0}
    probes, choice = walk(
        space(batch_is_free=True, max_replicas=2),
        lambda p: point(
            p.replicas,
            curve[p.replicas, p.max_num_seqs],
            100,
            layout=p.layout_replicas,
            max_num_seqs=p.max_num_seqs,
        ),
    )
    assert running_layout(choice) == Probe(1, 1, 512)
    assert probes[-1] == Probe(1, 1, 256), "the larger batch has to be worth its latency"


def test_it_resumes_from_any_prefix_of_what_was_measured() -> None:
    probes, _ = walk(space(), h100)
    for done in range(len(probes)):
        step = next_step(space(), [h100(p) for p in probes[:done]])
        assert isinstance(step, Measure)
        assert step.probe == probes[done]


def test_points_outside_the_space_play_no_part() -> None:
    stray = [point(8, 99_999, 1), point(2, 99_999, 1, layout=2, max_num_seqs=7)]
    step = next_step(space(), stray)
    assert isinstance(step, Measure)
    assert step.probe == Probe(3, 2, 256)


def test_a_space_of_one_replica_is_measured_once() -> None:
    probes, choice = walk(space(max_replicas=1), h100)
    assert probes == [Probe(1, 1, 256)]
    assert choice.chosen.probe == Probe(1, 1, 256)


def test_when_the_committed_winner_disappoints_the_runner_up_is_committed_too() -> None:
    def curve(probe: Probe) -> OperatingPoint:
        tokens = {1: 1000.0, 2: 1500.0, 3: 1490.0}[probe.replicas]
        if probe == Probe(2, 2, 256):
            tokens = 900.0
        return point(probe.replicas, tokens, None, layout=probe.layout_replicas)

    probes, choice = walk(space(max_replicas=3), curve)
    assert probes[-1].committed
    assert choice.chosen.probe.committed
    assert choice.chosen.probe.replicas != 2


def test_the_walk_proposes_and_own_layouts_decide() -> None:
    """The figures of a simulated H100 whose memory, divided by three, is short for each replica."""
    by_rotation = {2: 10_109.0, 3: 10_659.0}
    committed = {1: 7887.0, 2: 10_642.0, 3: 10_659.0, 4: 10_506.0}

    def curve(probe: Probe) -> OperatingPoint:
        tokens = (committed if probe.committed else by_rotation)[probe.replicas]
        return point(probe.replicas, tokens, 430 + probe.replicas, layout=probe.layout_replicas)

    probes, choice = walk(space(), curve)
    assert probes[2:4] == [Probe(4, 4, 256), Probe(1, 1, 256)], "three seemed worth it"
    assert probes[4:] == [Probe(2, 2, 256)], "in a layout of their own two serve as much"
    assert running_layout(choice) == Probe(2, 2, 256)


@pytest.mark.parametrize("max_replicas", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("memory_gib", [22.5, 40, 64, 80])
@pytest.mark.parametrize("batch_is_free", [True, False])
def test_the_optimum_is_found_however_many_replicas_share_the_memory(
    max_replicas: int, memory_gib: float, batch_is_free: bool
) -> None:
    """OPT-1.3B on the published curves, with batches bounded by each replica's KV cache."""
    device = DeviceIdentity("Simulated", "Simulated H100", int(memory_gib * 2**30), True)
    footprint = ModelFootprint(
        weights_bytes=2_631_516_160, kv_bytes_per_token=196_608, max_model_len=2048
    )
    pace = Paces(gpus()[STUDY_GPU]).of(PUBLISHED_CONFIGS["facebook/opt-1.3b"])

    def curve(probe: Probe) -> OperatingPoint:
        layout = Layout(replicas=probe.layout_replicas, max_num_seqs=probe.max_num_seqs)
        kv_bytes = share(layout, footprint, device).kv_cache_bytes or 0
        held = kv_bytes // footprint.kv_bytes_per_token // MEAN_TOKENS_HELD
        batch = min(probe.max_num_seqs, held)
        batches = [batch] * probe.replicas
        return point(
            probe.replicas,
            sum(batches) / pace.step_seconds(batches, 0),
            pace.active_watts(batches),
            layout=probe.layout_replicas,
            max_num_seqs=probe.max_num_seqs,
        )

    top = min(max_replicas, max_replicas_fitting(footprint, device).max_replicas)
    probes, choice = walk(space(max_replicas=top, batch_is_free=batch_is_free), curve)
    everything = [curve(Probe(n, n, 256)) for n in range(1, top + 1)]
    everything += [curve(Probe(1, 1, 512))] if batch_is_free else []
    assert running_layout(choice) == running_layout(choose(everything, Objective()))
    assert len(probes) <= 9


def test_a_layout_that_cannot_start_is_left_out_and_the_best_that_does_is_kept() -> None:
    cannot = frozenset({(4, 256), (2, 256), (1, 512)})
    probes, choice = walk(space(batch_is_free=True, unstartable=cannot), h100)
    assert probes[0] == Probe(3, 2, 256)
    assert not {(p.layout_replicas, p.max_num_seqs) for p in probes} & cannot
    assert running_layout(choice) in (Probe(1, 1, 256), Probe(3, 3, 256))


def test_points_of_another_batch_play_no_part() -> None:
    old = [point(2, 99_999, 1, layout=2, max_num_seqs=256)]
    step = next_step(space(max_num_seqs=64), old)
    assert isinstance(step, Measure)
    assert step.probe == Probe(3, 2, 64)


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(50, 700)), min_size=1, max_size=8),
    st.booleans(),
)
def test_every_curve_ends_within_a_bounded_number_of_probes(
    rows: list[tuple[float, float]], batch_is_free: bool
) -> None:
    def curve(probe: Probe) -> OperatingPoint:
        tokens, watts = rows[probe.replicas - 1]
        return point(
            probe.replicas,
            tokens * (1 + 0.1 * probe.committed),
            watts,
            layout=probe.layout_replicas,
            max_num_seqs=probe.max_num_seqs,
        )

    where = space(max_replicas=len(rows), batch_is_free=batch_is_free)
    probes, choice = walk(where, curve)
    assert len(probes) == len(set(probes)) <= 2 * len(rows) + 2
    assert choice.chosen.probe.committed
