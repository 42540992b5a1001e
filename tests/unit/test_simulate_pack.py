"""A simulated pack: batching, reading, concentration, energy, and what saturates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate_builders import IDLE_WATTS, flat, opt_1_3b
from slm_operator.simulate.hardware import Hardware, LengthCosts
from slm_operator.simulate.pack import Done, SimulatedPack, Steps
from slm_operator.simulate.trace import Request
from slm_worker.planning.workload import Workload, output_lengths

STEP_SECONDS = 0.1
READING = flat(
    measured_at=Workload(prompt_tokens=1, output_tokens=1e12),
    costs=LengthCosts(prompt_seconds=0.01, prompt_joules=0.5),
)
"""Its curve was measured with hardly any prompt, so that a step stays a tenth of a second."""


def pack(hardware: Hardware, replicas: int = 1, max_num_seqs: int = 2) -> SimulatedPack:
    return SimulatedPack(1, hardware, Steps(hardware, replicas, max_num_seqs), 0.0, 0.0)


def run(of: SimulatedPack, requests: Sequence[Request]) -> list[tuple[float, Done]]:
    """Everything that is answered, with the time at which it was."""
    coming, done = list(requests), []
    while True:
        due = of.next_completion()
        if coming and (due is None or coming[0].at_seconds <= due):
            of.advance(coming[0].at_seconds)
            of.accept(coming.pop(0))
        elif due is not None:
            of.advance(due)
            done += [(due, one) for one in of.complete()]
        else:
            return done


def test_two_requests_by_hand() -> None:
    one, two = Request(0.0, 10, 3), Request(0.05, 10, 2)
    of = pack(flat())
    (first_at, first), (last_at, last) = run(of, [one, two])
    assert [first.request, last.request] == [two, one]
    assert [first_at, last_at] == pytest.approx([0.15, 0.2])
    assert (first.ttft_seconds, last.ttft_seconds) == (0.0, 0.0)
    assert [first.itl_seconds, last.itl_seconds] == pytest.approx([0.1, 0.1])
    # a fifth of a second at idle, and two steps
    assert of.joules == pytest.approx(0.2 * IDLE_WATTS + 2 * 1.0)


def test_nobody_decodes_while_a_prompt_is_read() -> None:
    one, two = Request(0.0, 20, 3), Request(0.25, 30, 2)
    of = pack(READING)
    (first_at, first), (last_at, last) = run(of, [one, two])
    # one is read until 0.2 and half a step further at 0.25, when two is read until 0.55
    assert [first.request, last.request] == [two, one]
    assert [first_at, last_at] == pytest.approx([0.65, 0.7])
    assert first.ttft_seconds == pytest.approx(0.3)
    assert last.ttft_seconds == pytest.approx(0.2)
    assert first.itl_seconds == pytest.approx(0.1)
    assert last.itl_seconds == pytest.approx((0.7 - 0.2) / 2)
    assert of.joules == pytest.approx(0.7 * IDLE_WATTS + 50 * 0.5 + 2 * 1.0)


def test_prompts_are_read_one_after_another() -> None:
    done = run(pack(READING), [Request(0.0, 20, 1), Request(0.0, 30, 1)])
    assert [one.ttft_seconds for _, one in done] == [pytest.approx(0.2), pytest.approx(0.5)]


def test_a_single_token_has_no_time_between_tokens() -> None:
    ((at, done),) = run(pack(flat()), [Request(1.0, 10, 1)])
    assert (at, done.itl_seconds) == (1.0, None)


def test_the_first_replica_fills_before_the_second() -> None:
    of = pack(flat(), replicas=2, max_num_seqs=2)
    seen = []
    for _ in range(5):
        of.accept(Request(0.0, 10, 10))
        seen.append(([running for running, _ in of.replicas()], len(of.waiting)))
    assert seen == [([1, 0], 0), ([2, 0], 0), ([2, 1], 0), ([2, 2], 0), ([2, 2], 1)]
    assert of.in_flight == 5


def test_a_place_that_gets_free_goes_to_who_waits_longest() -> None:
    of = pack(flat(), max_num_seqs=1)
    done = run(of, [Request(0.0, 1, 11), Request(0.1, 1, 1), Request(0.2, 1, 1)])
    assert [at for at, _ in done] == [pytest.approx(1.0)] * 3
    assert [one.request.at_seconds for _, one in done] == [0.0, 0.1, 0.2]
    assert done[1][1].ttft_seconds == pytest.approx(0.9)


def test_a_request_waits_for_room_in_the_kv_cache() -> None:
    of = pack(flat(kv_tokens={1: 100}))
    done = run(of, [Request(0.0, 50, 11), Request(0.0, 50, 11)])
    assert [at for at, _ in done] == [pytest.approx(1.0), pytest.approx(2.0)]


def test_a_request_larger_than_the_kv_cache_runs_alone() -> None:
    of = pack(flat(kv_tokens={1: 100}))
    of.accept(Request(0.0, 500, 11))
    of.accept(Request(0.0, 5, 5))
    assert [running for running, _ in of.replicas()] == [1]
    assert of.replicas()[0][1] == 1.0


def test_the_kv_cache_fills_with_each_token() -> None:
    of = pack(flat(kv_tokens={1: 100}))
    of.accept(Request(0.0, 50, 31))
    assert of.replicas() == [(1, 0.5)]
    of.advance(1.0)
    ((_, usage),) = of.replicas()
    assert usage == pytest.approx(0.6)


def test_clients_give_up_while_they_wait_but_not_once_they_run() -> None:
    of = pack(flat(), max_num_seqs=1)
    running, early, late = Request(0.0, 1, 9999), Request(1.0, 1, 1), Request(31.0, 1, 1)
    for request in (running, early, late):
        of.advance(request.at_seconds)
        of.accept(request)
    of.advance(61.0)
    assert of.give_up(60.0) == []
    of.advance(61.5)
    assert of.give_up(60.0) == [early]
    assert of.unfinished() == [late, running]
    assert of.in_flight == 2


def test_an_idle_pack_draws_idle_power() -> None:
    of = pack(flat())
    of.advance(50.0)
    assert of.joules == pytest.approx(50 * IDLE_WATTS)
    assert of.next_completion() is None
    assert of.complete() == []


def test_replicas_that_run_share_the_gpu() -> None:
    """What a replica's step takes depends on how many run, not on how many the layout has."""
    hardware = opt_1_3b()
    of = pack(hardware, replicas=2, max_num_seqs=1)
    of.accept(Request(0.0, 1, 101))
    alone = of.next_completion()
    assert alone == pytest.approx(100 * hardware.step(1, 1).seconds)
    of.accept(Request(0.0, 1, 101))
    both = of.next_completion()
    assert both == pytest.approx(100 * hardware.step(2, 1).seconds)


operations = st.lists(
    st.tuples(
        st.sampled_from(["accept", "accept", "complete", "wait", "give up"]),
        st.integers(1, 300),
        st.integers(1, 60),
    ),
    min_size=1,
    max_size=60,
)
layouts = st.tuples(st.integers(1, 3), st.integers(1, 4))
hardwares = st.sampled_from(
    [
        flat(),
        READING,
        flat(kv_tokens={1: 300, 2: 150, 3: 100}),
        flat(
            costs=LengthCosts(
                prompt_seconds=0.003,
                prompt_joules=0.1,
                context_seconds=0.0002,
                context_joules=0.001,
            )
        ),
    ]
)


@settings(max_examples=150, deadline=None)
@given(story=operations, layout=layouts, hardware=hardwares)
def test_whatever_happens_nothing_is_lost_and_nothing_overflows(
    story: list[tuple[str, int, int]], layout: tuple[int, int], hardware: Hardware
) -> None:
    replicas, max_num_seqs = layout
    of = pack(hardware, replicas, max_num_seqs)
    now, accepted, done, lost, joules = 0.0, 0, 0, 0, 0.0
    for what, prompt, output in story:
        due = of.next_completion()
        if what == "accept":
            of.accept(Request(now, prompt, output))
            accepted += 1
        elif what == "complete" and due is not None:
            now = due
            of.advance(now)
            answered = of.complete()
            assert answered
            done += len(answered)
            for one in answered:
                assert one.ttft_seconds >= 0
                assert (one.itl_seconds is None) == (one.request.output_tokens == 1)
        elif what == "wait":
            now = now + prompt / 100 if due is None else now + (due - now) * prompt / 300
            of.advance(now)
        elif what == "give up":
            lost += len(of.give_up(output / 10))
        running = [count for count, _ in of.replicas()]
        assert max(running) <= max_num_seqs
        assert accepted == done + lost + of.in_flight
        assert len(of.unfinished()) == of.in_flight
        assert all(0 <= usage <= 1 for _, usage in of.replicas())
        if of.waiting:
            assert all(running), "a replica that runs nothing takes anything"
        assert of.joules >= max(joules, now * IDLE_WATTS * (1 - 1e-9))
        joules = of.joules
    rest = of.in_flight
    assert len(run(of, [])) == rest


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(1, 300), st.integers(1, 60)),
        min_size=1,
        max_size=40,
    ),
    layout=layouts,
    hardware=hardwares,
)
@settings(max_examples=60, deadline=None)
def test_every_request_gets_its_tokens(
    arrivals: list[tuple[int, int, int]], layout: tuple[int, int], hardware: Hardware
) -> None:
    requests = [Request(at / 1000, *lengths) for at, *lengths in sorted(arrivals)]
    done = run(pack(hardware, *layout), requests)
    assert sorted(id(one.request) for _, one in done) == sorted(map(id, requests))
    times = [at for at, _ in done]
    assert times == sorted(times)
    for at, one in done:
        took = at - one.request.at_seconds
        rest = (one.itl_seconds or 0.0) * (one.request.output_tokens - 1)
        assert took >= one.ttft_seconds + rest - 1e-6


SHORT_OF_KV = opt_1_3b(lengths=True)
COSTLY = replace(SHORT_OF_KV, kv_tokens={})
OWN = COSTLY.measured_at
LONG = Workload(prompt_tokens=1155, output_tokens=211)
"""The mean lengths of the recorded conversations."""


@pytest.mark.parametrize("layout", [(1, 256), (2, 256)], ids=["1x256", "2x256"])
@pytest.mark.parametrize(
    ("hardware", "load"),
    [(opt_1_3b(), OWN), (COSTLY, OWN), (COSTLY, LONG), (SHORT_OF_KV, LONG)],
    ids=["curve alone", "with lengths", "long prompts", "long prompts, little memory"],
)
def test_a_saturated_pack_has_the_throughput_and_power_of_its_layout(
    hardware: Hardware, load: Workload, layout: tuple[int, int]
) -> None:
    tokens_per_second, watts = saturated(hardware, layout, load)
    expected_tokens, expected_watts = hardware.saturated(*layout, load)
    assert tokens_per_second == pytest.approx(expected_tokens, rel=0.03)
    assert watts == pytest.approx(expected_watts, rel=0.03)


def saturated(hardware: Hardware, layout: tuple[int, int], load: Workload) -> tuple[float, float]:
    """Output tokens/s and watts of a pack with a queue, from its third batch on."""
    lengths = list(output_lengths(load, 1, 10**6))
    Random(1).shuffle(lengths)
    of = pack(hardware, *layout)
    for output in lengths * 3:
        of.accept(Request(0.0, round(load.prompt_tokens), output))
    ended, tokens, now, since, joules = 0, 0, 0.0, 0.0, 0.0
    while of.waiting:
        now = of.next_completion() or now
        of.advance(now)
        done = of.complete()
        ended += len(done)
        tokens += sum(one.request.output_tokens for one in done)
        if not since and ended > 3 * layout[0] * layout[1]:
            tokens, since, joules = 0, now, of.joules
    return tokens / (now - since), (of.joules - joules) / (now - since)
