"""What holds for every peer, whatever it sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer_builders import NOTHING
from slm_operator.simulate.peers import PEERS
from slm_operator.simulate.seen import PackSeen, ReplicaSeen, Seen

replicas = st.builds(
    ReplicaSeen,
    running=st.integers(0, 512),
    waiting=st.integers(0, 5000),
    kv_usage=st.floats(0.0, 1.0),
    max_num_seqs=st.integers(1, 512),
)
ready_pack = st.lists(replicas, min_size=1, max_size=2).map(
    lambda engines: PackSeen(0, 0.0, 0.0, tuple(engines))
)
packs = st.lists(st.one_of(ready_pack, st.just(PackSeen(0, 0.0, None, ()))), max_size=4)
bounds = st.tuples(st.integers(0, 6), st.integers(0, 12)).map(lambda two: (two[0], sum(two)))
moments = st.lists(st.tuples(packs, st.integers(0, 50)), min_size=1, max_size=20)


def counts(name: str, story: list[tuple[list[PackSeen], int]], low: int, high: int) -> list[int]:
    """The answers to a story of packs and arrivals that need not follow what was wanted."""
    policy = PEERS[name]()
    wanted, arrived, answers = low, 0, []
    for step, (there, new) in enumerate(story):
        arrived += new
        named = tuple(replace(each, name=index) for index, each in enumerate(there))
        now = step * policy.period_seconds
        state = Seen(now, wanted, named, low, high, replace(NOTHING, arrived=arrived))
        wanted = policy.wanted(state)
        answers.append(wanted)
    return answers


@pytest.mark.parametrize("name", PEERS)
@settings(max_examples=50, deadline=None)
@given(story=moments, limits=bounds)
def test_every_answer_is_within_the_bounds_and_the_same_again(
    name: str, story: list[tuple[list[PackSeen], int]], limits: tuple[int, int]
) -> None:
    low, high = limits
    answers = counts(name, story, low, high)
    assert all(low <= count <= high for count in answers)
    assert counts(name, story, low, high) == answers


@pytest.mark.parametrize("name", PEERS)
def test_more_packs_come_under_load_and_go_without(name: str) -> None:
    """No peer is inert: a comparison with one that is would say nothing."""
    busy = PackSeen(0, 0.0, 0.0, (ReplicaSeen(256, 50, 0.95, 256),))
    idle = PackSeen(0, 0.0, 0.0, (ReplicaSeen(0, 0, 0.0, 256),))
    policy = PEERS[name]()
    wanted, peak = 1, 1
    for step in range(600):
        load = busy if step < 200 else idle
        there = tuple(replace(load, name=index) for index in range(wanted))
        state = Seen(step * policy.period_seconds, wanted, there, 1, 8, NOTHING)
        wanted = policy.wanted(state)
        peak = max(peak, wanted)
    assert peak > 1
    assert wanted == 1
