"""A real GPU's recordings, through the code that counts, judges windows and chooses.

One H100 served 2,000 ShareGPT prompts that came all at once (tests/fixtures/recorded_runs). The
published figures are means over whole runs: the ramp at the start, and the tail in which nobody
waits any more, are in them. A window is neither.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from recorded_runs import RUNS, RecordedRun, recorded
from slm_operator.pareto.choice import choose
from slm_operator.pareto.confidence import half_width
from slm_operator.pareto.objective import Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.window import Measurement, Sample, WindowRules, evaluate

RULES = WindowRules(min_seconds=15, max_seconds=15)
"""Half as long as the operator's: after its first batch, the run of 2 x 256 is full for 20 s."""
MEASURED = ((1, 96), (1, 256), (2, 96), (2, 256), (4, 96))
RAN_OUT = ((1, 768), (4, 256))
"""Their requests were all begun before their first batch had been replaced and 15 s were over."""


def windows(samples: tuple[Sample, ...], rules: WindowRules = RULES) -> list[Measurement]:
    """What the operator would have been told at each second of a run."""
    found = (evaluate(samples[:end], rules) for end in range(1, len(samples) + 1))
    return [one for one in found if isinstance(one, Measurement)]


def point(run: RecordedRun, window: Measurement) -> OperatingPoint:
    return OperatingPoint(
        probe=Probe(run.replicas, run.replicas, run.max_num_seqs),
        output_tokens_per_second=window.output_tokens_per_second,
        confidence_tokens_per_second=window.confidence_tokens_per_second,
        power_watts=window.power_watts,
        ttft_p95_seconds=window.ttft_p95_seconds,
        itl_p95_seconds=window.itl_p95_seconds,
        window_seconds=window.window_seconds,
        saturated_fraction=window.saturated_fraction,
        measured_at="2026-01-01T00:00:00Z",
        simulated=False,
    )


@pytest.mark.parametrize(("replicas", "max_num_seqs"), RUNS)
def test_whole_runs_counted_by_the_agent_give_the_published_figures(
    replicas: int, max_num_seqs: int
) -> None:
    run = recorded(replicas, max_num_seqs)
    published = run.published
    assert run.output_tokens_per_second == pytest.approx(published.tokens_per_second, rel=0.01)
    assert run.power_watts == pytest.approx(published.watts, rel=0.02)


@pytest.mark.parametrize(("replicas", "max_num_seqs"), MEASURED)
def test_the_first_window_holds_for_all_that_was_full(replicas: int, max_num_seqs: int) -> None:
    run = recorded(replicas, max_num_seqs)
    found = windows(run.samples)
    first, longest = found[0], max(found, key=lambda w: w.window_seconds)
    assert longest.output_tokens_per_second == pytest.approx(
        first.output_tokens_per_second, abs=first.confidence_tokens_per_second
    )
    assert first.power_watts is not None
    assert longest.power_watts == pytest.approx(first.power_watts, rel=0.02)
    assert first.saturated_fraction >= 0.95


@pytest.mark.parametrize(("replicas", "max_num_seqs"), MEASURED)
def test_window_ramp_and_tail_add_up_to_the_published_throughput(
    replicas: int, max_num_seqs: int
) -> None:
    """The window's throughput for the seconds that were full after the first batch, and what was
    counted in the rest of the run."""
    run = recorded(replicas, max_num_seqs)
    window = max(windows(run.samples), key=lambda w: w.window_seconds)
    seconds = run.ended_seconds - run.began_seconds
    full_until = run.full[-1].counters
    full_from = next(
        s.counters
        for s in run.samples
        if full_until.sampled_at_seconds - s.counters.sampled_at_seconds
        <= window.window_seconds + 1e-6
    )
    rest = run.output_tokens_per_second * seconds - (
        full_until.output_tokens - full_from.output_tokens
    )
    full_seconds = full_until.sampled_at_seconds - full_from.sampled_at_seconds
    composed = (window.output_tokens_per_second * full_seconds + rest) / seconds
    confidence = window.confidence_tokens_per_second * full_seconds / seconds
    assert composed == pytest.approx(
        run.published.tokens_per_second,
        abs=math.hypot(confidence, 0.01 * run.published.tokens_per_second),
    )


def test_the_choice_among_the_windows_is_two_replicas_of_256() -> None:
    points = [
        point(run, windows(run.samples)[-1]) for run in (recorded(*which) for which in MEASURED)
    ]
    assert choose(points, Objective()).chosen.probe == Probe(2, 2, 256)


@pytest.mark.parametrize(("replicas", "max_num_seqs"), RAN_OUT)
def test_a_run_whose_first_batch_is_most_of_it_is_no_measurement(
    replicas: int, max_num_seqs: int
) -> None:
    assert windows(recorded(replicas, max_num_seqs).samples) == []


def test_a_batch_of_young_sequences_serves_more_than_it_will() -> None:
    """Why a window begins once the first batch has been replaced: 4 x 256 looks 9 % better than
    2 x 256 before that, enough for two replicas more, and is no better in the end."""
    four, two = (recorded(n, 256) for n in (4, 2))
    young = {
        run.replicas: windows(tuple(replace(s, running=0) for s in run.samples))
        for run in (two, four)
    }
    lured = young[4][0].output_tokens_per_second / young[2][0].output_tokens_per_second
    assert lured > 1.03**2
    late = [s.counters for s in four.full][-10:]
    settled = (late[-1].output_tokens - late[0].output_tokens) / (
        late[-1].sampled_at_seconds - late[0].sampled_at_seconds
    )
    assert settled < 1.03 * windows(two.samples)[-1].output_tokens_per_second
    assert settled < 0.9 * young[4][0].output_tokens_per_second


def test_intervals_cover_what_the_rest_of_the_run_served() -> None:
    """At least 95 of 100 windows of 15 s and of 20 s, over all runs: consecutive seconds of a
    ShareGPT load are hardly correlated, so batch means promise no more than they keep."""
    covered = []
    for run in (recorded(*which) for which in MEASURED):
        mixed = mixed_ages(run)
        for length in (15, 20):
            for start in range(len(mixed) - length):
                window = [s.counters for s in mixed[start : start + length + 1]]
                rest = (*mixed[: start + 1], *mixed[start + length :])
                tokens = (mixed[-1].counters.output_tokens - mixed[0].counters.output_tokens) - (
                    window[-1].output_tokens - window[0].output_tokens
                )
                seconds = len(rest) - 2
                if seconds < length:
                    continue
                elapsed = window[-1].sampled_at_seconds - window[0].sampled_at_seconds
                rate = (window[-1].output_tokens - window[0].output_tokens) / elapsed
                own = half_width(window, RULES.batches)
                both = math.hypot(own, own * math.sqrt(elapsed / seconds))
                covered.append(abs(rate - tokens / seconds) <= both)
    assert len(covered) > 200
    assert sum(covered) >= 0.95 * len(covered)


def mixed_ages(run: RecordedRun) -> tuple[Sample, ...]:
    """While it was full and after its first batch had been replaced."""
    longest = max(windows(run.samples), key=lambda w: w.window_seconds).window_seconds
    end = run.full[-1].counters.sampled_at_seconds
    return tuple(s for s in run.full if end - s.counters.sampled_at_seconds <= longest + 1e-6)


@pytest.mark.parametrize(("replicas", "max_num_seqs"), RUNS)
def test_ramp_and_tail_never_yield_a_measurement(replicas: int, max_num_seqs: int) -> None:
    run = recorded(replicas, max_num_seqs)
    full = {s.counters.sampled_at_seconds for s in run.full}
    eager = WindowRules(min_seconds=3, max_seconds=3, warmup_seconds=0)
    tail = [s for s in run.samples if s.counters.sampled_at_seconds > max(full)]
    ramp = [s for s in run.samples if s.counters.sampled_at_seconds < min(full)]
    assert len(tail) > 3
    assert windows(tuple(tail), eager) == []
    assert windows(tuple(ramp), eager) == []


def test_by_the_operators_own_rules_the_longest_run_is_a_measurement() -> None:
    window = windows(recorded(1, 96).samples, WindowRules())[0]
    assert window.output_tokens_per_second == pytest.approx(6880, rel=0.01)
    assert 2 * window.confidence_tokens_per_second <= 0.03 * window.output_tokens_per_second


def test_a_second_at_lower_clocks_spoils_no_window_and_a_hot_gpu_measures_nothing() -> None:
    run = recorded(4, 96)
    assert run.samples[-1].counters.throttled_seconds == pytest.approx(1.0, abs=0.2)
    assert windows(run.samples)
    hot = tuple(
        replace(
            s,
            counters=s.counters.model_copy(
                update={"throttled_seconds": s.counters.sampled_at_seconds / 2}
            ),
        )
        for s in run.samples
    )
    assert windows(hot) == []
