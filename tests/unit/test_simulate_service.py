"""A simulated service: arrivals, packs that come and go, and what is counted of it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate_builders import IDLE_WATTS, Script, flat, opt_1_3b, poisson, trace
from slm_operator.simulate.figures import ServiceLevel, figures
from slm_operator.simulate.hardware import Hardware
from slm_operator.simulate.peers import PEERS
from slm_operator.simulate.seen import Policy
from slm_operator.simulate.service import TIMELINE_SECONDS, Layout, Outcome, Service, Terms
from slm_operator.simulate.trace import Trace

ONE = Layout(replicas=1, max_num_seqs=1)
TERMS = Terms(min_packs=1, max_packs=4, start_seconds=60.0)


def run(
    load: Trace,
    policy: Policy,
    *,
    terms: Terms = TERMS,
    hardware: Hardware | None = None,
    layout: Layout = ONE,
    first_packs: int = 1,
    counted_from: float = 0.0,
    seed: int = 1,
) -> Outcome:
    gpu = hardware or flat()
    return Service(load, gpu, layout, policy, terms, first_packs, counted_from, Random(seed)).run()


def always(packs: int) -> Script:
    return Script((0.0, packs))


def test_a_fixed_policy_by_hand() -> None:
    outcome = run(trace((0.0, 1, 11), (10.0, 1, 21)), always(2), first_packs=2)
    # two answers of 1 and 2 seconds; the last ends at 12 s
    assert outcome.seconds == pytest.approx(12.0)
    assert outcome.gpu_seconds == pytest.approx(2 * 12.0)
    assert outcome.joules == pytest.approx(2 * 12.0 * IDLE_WATTS + 10 + 20)
    assert (outcome.requests, outcome.lost, outcome.output_tokens) == (2, 0, 32)
    assert list(outcome.ttft_seconds) == [0.0, 0.0]
    assert list(outcome.itl_seconds) == pytest.approx([0.1, 0.1])
    assert outcome.pack_changes == 0


def test_a_pack_serves_when_its_start_is_over() -> None:
    """One request a second, of 10 s each, by packs that run one at a time: a queue builds up."""
    terms = Terms(max_packs=4, start_seconds=45.0, patience_seconds=1e9)
    policy = Script((0.0, 1), (30.0, 2))
    outcome = run(trace(*((float(s), 1, 101) for s in range(200))), policy, terms=terms)
    ready = {seen.now_seconds: [p.ready_at_seconds for p in seen.packs] for seen in policy.asked}
    assert ready[30.0] == [0.0]
    assert ready[60.0] == [0.0, None]
    assert ready[75.0] == [0.0, 75.0]
    replicas = {seen.now_seconds: [len(p.replicas) for p in seen.packs] for seen in policy.asked}
    assert (replicas[60.0], replicas[75.0]) == ([1, 0], [1, 1])
    # asked for at 30 s, from when on it holds its GPU
    assert outcome.gpu_seconds == pytest.approx(2 * outcome.seconds - 30.0)
    assert outcome.pack_changes == 1


def test_the_newest_pack_goes_first_and_finishes_what_it_runs() -> None:
    load = trace(*((0.0, 1, 201) for _ in range(10)), (40.0, 1, 1))
    layout = Layout(1, 10)
    policy = Script((0.0, 2), (15.0, 1))
    hardware = flat(batches=(1, 10))
    outcome = run(load, policy, layout=layout, first_packs=2, hardware=hardware)
    assert [p.name for p in policy.asked[-1].packs] == [1]
    assert outcome.lost == 0
    assert len(outcome.ttft_seconds) == 11
    assert outcome.gpu_seconds == pytest.approx(40.0 + 20.0)
    assert outcome.pack_changes == 1


@pytest.mark.parametrize("period_seconds", [15.0, 25.0])
def test_what_runs_when_the_grace_ends_is_lost(period_seconds: float) -> None:
    """To the second, however seldom the policy is asked."""
    load = trace(*((0.0, 1, 1001) for _ in range(10)))
    policy = Script((0.0, 2), (50.0, 1), period_seconds=period_seconds)
    drained_at = {15.0: 60.0, 25.0: 50.0}[period_seconds]
    hardware = flat(batches=(1, 10))
    terms = Terms(max_packs=2, grace_seconds=20.0)
    outcome = run(load, policy, layout=Layout(1, 10), first_packs=2, hardware=hardware, terms=terms)
    assert 0 < outcome.lost < 10
    assert outcome.lost + len(outcome.ttft_seconds) == 10
    assert outcome.gpu_seconds == pytest.approx(100.0 + drained_at + 20.0)


def test_a_pack_that_has_not_started_yet_is_given_up_at_once() -> None:
    policy = Script((0.0, 1), (15.0, 3), (30.0, 1))
    outcome = run(trace((0.0, 1, 1), (100.0, 1, 1)), policy)
    assert outcome.gpu_seconds == pytest.approx(100.0 + 2 * 15.0)
    assert outcome.pack_changes == 4


def test_what_is_asked_for_is_bounded() -> None:
    policy = Script((0.0, 99), (30.0, -5))
    outcome = run(trace((0.0, 1, 1), (100.0, 1, 1)), policy, terms=Terms(2, 3), first_packs=2)
    assert [seen.wanted for seen in policy.asked] == [2, 3, 3, 2, 2, 2, 2]
    assert {(seen.min_packs, seen.max_packs) for seen in policy.asked} == {(2, 3)}
    assert outcome.gpu_seconds == pytest.approx(2 * 100.0 + 30.0)


def test_a_client_goes_away_when_its_patience_ends() -> None:
    """The second would get its turn at 100 s, between two decisions."""
    load = trace((0.0, 1, 1001), (1.0, 1, 1), (60.0, 1, 1))
    outcome = run(load, always(1), terms=Terms(max_packs=1, patience_seconds=50.0))
    assert (outcome.requests, outcome.lost) == (3, 1)
    assert list(outcome.ttft_seconds) == pytest.approx([0.0, 40.0])


def test_nobody_is_served_whose_patience_had_ended() -> None:
    load = trace((0.0, 1, 1001), (39.0, 1, 1), (41.0, 1, 1))
    policy = Script((0.0, 1), period_seconds=1e6)
    outcome = run(load, policy, terms=Terms(max_packs=1, patience_seconds=60.0))
    assert outcome.lost == 1
    assert list(outcome.ttft_seconds) == pytest.approx([0.0, 59.0])


def test_the_warm_up_is_not_counted() -> None:
    load = trace((0.0, 1, 101), (45.0, 1, 101), (50.0, 1, 11))
    policy = Script((0.0, 1), (15.0, 2), (30.0, 1))
    outcome = run(load, policy, counted_from=50.0)
    # from 50 s on: 5 s of the second request, then its own second of the third
    assert (outcome.requests, outcome.output_tokens) == (1, 11)
    assert len(outcome.ttft_seconds) == 1
    assert outcome.pack_changes == 0
    assert outcome.seconds == pytest.approx(6.0)
    assert outcome.gpu_seconds == pytest.approx(6.0)
    assert outcome.joules == pytest.approx(6.0 * IDLE_WATTS + 50 + 10)


def test_a_pack_that_drains_from_the_warm_up_on_is_counted_from_there() -> None:
    load = trace(*((0.0, 1, 301) for _ in range(10)), (40.0, 1, 1))
    policy = Script((0.0, 2), (15.0, 1))
    hardware = flat(batches=(1, 10))
    outcome = run(
        load,
        policy,
        counted_from=20.0,
        layout=Layout(1, 10),
        first_packs=2,
        hardware=hardware,
    )
    # both packs run until 30 s, the first on to 40 s
    assert outcome.gpu_seconds == pytest.approx(10.0 + 20.0)
    assert outcome.joules == pytest.approx(30.0 * IDLE_WATTS + 2 * 100)


def test_the_timeline_tells_the_service_twice_a_minute() -> None:
    load = trace((0.0, 1, 1), (10.0, 1, 401), (25.0, 1, 1), (30.0, 1, 1), (95.0, 1, 1))
    policy = Script((0.0, 1), (30.0, 2))
    line = run(load, policy, counted_from=10.0).timeline
    assert TIMELINE_SECONDS == 30.0
    assert [m.at_seconds for m in line] == [0.0, 30.0, 60.0]
    assert [m.packs for m in line] == [1, 2, 2]
    assert [m.ready for m in line] == [1, 1, 1]
    assert [m.in_flight for m in line] == [0, 3, 0]
    assert [m.arrived for m in line] == [1, 3, 0]


def test_a_trace_of_one_token_has_a_timeline() -> None:
    outcome = run(trace((0.0, 1, 1)), always(1))
    assert len(outcome.timeline) == 1
    assert (outcome.requests, outcome.lost, outcome.seconds) == (1, 0, 0.0)


def test_the_counters_that_a_policy_sees_never_fall_and_add_up() -> None:
    policy = Script((0.0, 2), (60.0, 1), (120.0, 3), (200.0, 1))
    load = poisson(300, 2.0, output=11)
    run(load, policy, first_packs=2)
    counters = [seen.counters for seen in policy.asked]
    for before, after in pairwise(counters):
        assert before.arrived <= after.arrived
        assert before.completed <= after.completed
        assert before.output_tokens <= after.output_tokens
        assert before.prompt_tokens <= after.prompt_tokens
    assert counters[-1].output_tokens == 11 * counters[-1].completed
    assert counters[-1].prompt_tokens == 100 * counters[-1].completed


def test_what_waits_is_told_as_the_engines_own_queues() -> None:
    policy = always(1)
    load = trace(*((1.0, 1, 1001) for _ in range(9)))
    run(load, policy, layout=Layout(2, 2), terms=Terms(patience_seconds=1e9))
    (pack,) = policy.asked[1].packs
    assert [(r.running, r.waiting, r.max_num_seqs) for r in pack.replicas] == [
        (2, 3, 2),
        (2, 2, 2),
    ]


arrivals = st.lists(
    st.tuples(st.integers(0, 600_000), st.integers(1, 2000), st.integers(1, 300)),
    min_size=1,
    max_size=60,
).map(lambda found: trace(*((at / 1000, p, o) for at, p, o in sorted(found))))


@pytest.mark.parametrize("name", [*PEERS, "script"])
@settings(max_examples=25, deadline=None)
@given(
    load=arrivals,
    limits=st.tuples(st.integers(1, 3), st.integers(0, 3)),
    counted_from=st.floats(0, 300),
    patience=st.floats(1, 60),
)
def test_every_request_is_answered_or_lost(
    name: str, load: Trace, limits: tuple[int, int], counted_from: float, patience: float
) -> None:
    low, high = limits[0], sum(limits)
    terms = Terms(low, high, start_seconds=20.0, grace_seconds=5.0, patience_seconds=patience)
    steps = [(at * 30.0, 1 + at * 7 % 5) for at in range(40)]

    def once() -> Outcome:
        policy = Script(*steps) if name == "script" else PEERS[name]()
        counted = min(counted_from, load.seconds)
        return run(
            load,
            policy,
            terms=terms,
            hardware=opt_1_3b(lengths=True),
            layout=Layout(2, 3),
            first_packs=low,
            counted_from=counted,
        )

    outcome = once()
    assert outcome.requests == len(outcome.ttft_seconds) + outcome.lost
    assert outcome.requests <= len(load.requests)
    assert outcome.lost >= 0
    # What is read when its patience ends may be late by the prompts before it.
    assert max(outcome.ttft_seconds, default=0.0) <= patience + 1.0
    held = low * outcome.seconds, (high + high) * outcome.seconds
    assert held[0] * (1 - 1e-9) <= outcome.gpu_seconds <= held[1] * (1 + 1e-9)
    idle_watts = opt_1_3b().idle_watts
    assert outcome.joules >= outcome.gpu_seconds * idle_watts * (1 - 1e-9)
    assert all(low <= moment.packs for moment in outcome.timeline)
    assert all(low <= moment.ready <= high for moment in outcome.timeline)
    assert once() == outcome


def test_another_seed_routes_otherwise() -> None:
    load = poisson(60, 20.0, output=50)
    first, again, other = (run(load, always(4), first_packs=4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_figures_by_hand() -> None:
    outcome = Outcome(
        Layout(3, 8), seconds=1800.0, joules=9000.0, gpu_seconds=5400.0, requests=10, lost=1
    )
    outcome.output_tokens, outcome.pack_changes = 450, 2
    outcome.ttft_seconds.extend([0.1 * n for n in range(9)])
    outcome.itl_seconds.extend([0.0, *[0.01 * n for n in range(1, 9)]])
    found = figures(outcome, ServiceLevel(ttft_seconds=0.65, itl_seconds=0.055))
    assert found.joules_per_output_token == 20.0
    assert found.gpu_hours == 1.5
    # the first six keep both; the lost one counts as bad
    assert found.slo_attainment == 0.6
    assert (found.requests, found.lost) == (10, 1)
    assert (found.pack_changes_per_hour, found.replica_changes_per_hour) == (4.0, 12.0)
    assert found.ttft_seconds == pytest.approx((0.4, 0.8, 0.8))
    assert found.itl_seconds == pytest.approx((0.05, 0.08, 0.08))


def test_what_nobody_measured_is_unknown_and_not_zero() -> None:
    found = figures(Outcome(Layout(1, 1), requests=3, lost=3), ServiceLevel())
    assert found.slo_attainment == 0.0
    assert found.joules_per_output_token is None
    assert (found.ttft_seconds, found.itl_seconds) == (None, None)
