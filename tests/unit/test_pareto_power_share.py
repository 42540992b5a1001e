"""What holds of every division of a power budget, whoever claims what."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from slm_operator.pareto.power_share import (
    GIVE_BACK_SECONDS,
    Claim,
    Held,
    Level,
    divide,
    settle,
)

H100 = (Level(335.1, 7886.7), Level(443.1, 10641.9))
"""One and two replicas of OPT-1.3B, the published measurements."""


def watts(claims: Sequence[Claim], levels: dict[str, int]) -> float:
    return sum(c.watts(levels[c.service]) for c in claims)


def claim(name: str, *levels: Level, packs: int = 1, priority: int = 0) -> Claim:
    return Claim(name, packs, priority, levels or H100)


rising = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 5000)), min_size=1, max_size=4).map(
    lambda steps: tuple(
        Level(float(w), float(t))
        for w, t in zip(
            itertools.accumulate(w for w, _ in steps),
            itertools.accumulate(t for _, t in steps),
            strict=True,
        )
    )
)
several = st.lists(
    st.tuples(rising, st.integers(0, 4), st.integers(-1, 1)), min_size=1, max_size=5
).map(
    lambda found: [
        Claim(f"s{i}", packs, priority, levels) for i, (levels, packs, priority) in enumerate(found)
    ]
)
budgets = st.integers(1, 4000)


@given(several, budgets)
def test_the_sum_keeps_the_budget_when_anything_does(claims: list[Claim], budget: int) -> None:
    levels = divide(claims, budget)
    if sum(c.watts(0) for c in claims) <= budget:
        assert watts(claims, levels) <= budget + 1e-6
    else:
        assert set(levels.values()) == {0}


@given(several, budgets)
def test_none_loses_while_one_of_less_priority_could_give_way(
    claims: list[Claim], budget: int
) -> None:
    levels = divide(claims, budget)
    if sum(c.watts(0) for c in claims) > budget:
        return
    for one in claims:
        others = sum(
            c.watts(levels[c.service] if c.priority >= one.priority else 0)
            for c in claims
            if c is not one
        )
        for higher in range(levels[one.service] + 1, len(one.levels)):
            assert one.watts(higher) + others > budget


@given(several, budgets, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(claims: list[Claim], budget: int, chance: random.Random) -> None:
    shuffled = list(claims)
    chance.shuffle(shuffled)
    assert divide(shuffled, budget) == divide(claims, budget)


@given(several, budgets)
def test_among_equals_less_than_one_step_is_lost_against_the_best_division(
    claims: list[Claim], budget: int
) -> None:
    equals = [Claim(c.service, c.packs, 0, c.levels) for c in claims]
    if sum(c.watts(0) for c in equals) > budget:
        return
    found, best = served(equals, divide(equals, budget)), best_division(equals, budget)
    largest = max(c.tokens_per_second(len(c.levels) - 1) - c.tokens_per_second(0) for c in equals)
    assert best - largest - 1e-6 <= found <= best + 1e-6


def served(claims: Sequence[Claim], levels: dict[str, int]) -> float:
    return sum(c.tokens_per_second(levels[c.service]) for c in claims)


def best_division(claims: Sequence[Claim], budget: int) -> float:
    return max(
        sum(c.tokens_per_second(level) for c, level in zip(claims, levels, strict=True))
        for levels in itertools.product(*(range(len(c.levels)) for c in claims))
        if sum(c.watts(level) for c, level in zip(claims, levels, strict=True)) <= budget
    )


@given(several)
def test_with_enough_for_all_nothing_is_taken_off(claims: list[Claim]) -> None:
    most = sum(c.watts(len(c.levels) - 1) for c in claims)
    assert all(c.limit_watts(divide(claims, most)[c.service]) is None for c in claims)


@given(several, budgets)
def test_a_limit_lets_its_level_pass_and_not_the_next(claims: list[Claim], budget: int) -> None:
    for one in claims:
        for level in range(len(one.levels) - 1):
            limit = one.limit_watts(level)
            assert limit is not None and limit >= one.levels[level].power_watts
            # Limits are whole watts, so points within one watt of each other are not told apart.
            if one.levels[level + 1].power_watts - one.levels[level].power_watts > 1:
                assert one.within(limit) == level


def test_the_lower_priority_gives_way_first() -> None:
    claims = [claim("batch"), claim("chat", priority=1)]
    assert divide(claims, 900) == {"batch": 1, "chat": 1}
    assert divide(claims, 800) == {"batch": 0, "chat": 1}
    assert divide(claims, 700) == {"batch": 0, "chat": 0}
    assert divide(claims, 100) == {"batch": 0, "chat": 0}


def test_among_equals_the_least_throughput_is_lost() -> None:
    flat = claim("flat", Level(300, 9000), Level(400, 9100))
    steep = claim("steep", Level(300, 5000), Level(400, 9000))
    assert divide([flat, steep], 799) == {"flat": 0, "steep": 1}


def test_what_room_is_left_goes_where_it_brings_most() -> None:
    large = claim("large", Level(100, 100), Level(500, 4000))
    small = claim("small", Level(100, 100), Level(150, 700))
    # A step of the large one saves 400 W where 60 are missing; the small one's 50 would not do.
    assert divide([large, small], 590) == {"large": 0, "small": 1}


def test_a_limit_has_room_for_the_noise_of_a_window_but_not_for_the_next_point() -> None:
    assert claim("chat").limit_watts(0) == 346
    close = claim("close", Level(300, 1000), Level(304, 1100))
    assert close.limit_watts(0) == 302


def test_less_is_enforced_at_once_and_more_only_after_a_while() -> None:
    held = settle(Held(), 400, 0)
    assert held.limit_watts == 400
    held = settle(held, 350, 1)
    assert held.limit_watts == 350
    held = settle(held, None, 2)
    assert held == Held(350, 2)
    assert settle(held, None, 1 + GIVE_BACK_SECONDS).limit_watts == 350
    assert settle(held, None, 2 + GIVE_BACK_SECONDS).limit_watts is None


def test_room_that_comes_and_goes_changes_nothing() -> None:
    held, limits = Held(350), set()
    for second in range(0, 3600, 15):
        held = settle(held, None if second // 120 % 2 else 350, second)
        limits.add(held.limit_watts)
    assert limits == {350}


wants = st.lists(st.sampled_from([None, 300, 350, 400]), min_size=1, max_size=60)


@given(wants)
def test_the_limit_in_force_is_never_looser_than_the_one_wanted(
    wanted: list[int | None],
) -> None:
    held, loosened = Held(), []
    for step, want in enumerate(wanted):
        before, held = held, settle(held, want, step * 60)
        if want is not None:
            assert held.limit_watts is not None and held.limit_watts <= want
        if before.limit_watts is not None and (
            held.limit_watts is None or held.limit_watts > before.limit_watts
        ):
            loosened.append(step * 60)
    gaps = [b - a for a, b in itertools.pairwise(loosened)]
    assert all(gap >= GIVE_BACK_SECONDS for gap in gaps)


def test_a_thousand_services_share_what_there_is() -> None:
    claims = [claim(f"s{i:04d}", packs=1 + i % 3, priority=i % 5) for i in range(1000)]
    budget = 0.9 * sum(c.watts(1) for c in claims)
    levels = divide(claims, budget)
    assert budget - 3 * (443.1 - 335.1) < watts(claims, levels) <= budget
    assert {c.priority for c in claims if levels[c.service] == 0} == {0, 1, 2}
