"""The demand of a whole service, added up over packs that come, go and restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builders import pack_state
from slm_operator.decide.tally import ServiceTally, counted, waiting
from slm_worker.wire import (
    Counters,
    Load,
    LoadState,
    PackState,
    Plan,
    ReplicaState,
    RouterState,
)

PLAN = Plan(generation=1, layout={"replicas": 1, "max_num_seqs": 256}, rotation=1)
LOADED = PLAN.model_copy(update={"load": Load(prompt_tokens=100, output_tokens=200)})
OUTPUT_TOKENS = 200
PROMPT_TOKENS = 100


def state(
    ended: int = 0,
    in_progress: int = 0,
    *,
    agent_id: str = "a",
    refused: int = 0,
    load: LoadState | None = None,
    plan: Plan = PLAN,
    **router: Any,
) -> PackState:
    """A pack whose users' requests all have the same lengths."""
    return pack_state(
        plan,
        agent_id=agent_id,
        load=load or LoadState(),
        router=RouterState(
            batchable=ended + refused, rejected=refused, in_progress=in_progress, **router
        ),
        counters=Counters(
            sampled_at_seconds=1.0,
            requests_completed=ended,
            prompt_tokens=ended * PROMPT_TOKENS,
            output_tokens=ended * OUTPUT_TOKENS,
        ),
    )


def total(*looks: dict[str, PackState]) -> tuple[int, int, int, int]:
    """Arrived, completed, prompt tokens, output tokens after these looks."""
    tally = ServiceTally()
    for look in looks:
        tally = counted(tally, look)
    return tally.arrived, tally.completed, tally.prompt_tokens, tally.output_tokens


def test_the_first_look_at_an_agent_only_says_where_it_counts_from() -> None:
    assert total({"p0": state(1000)}) == (0, 0, 0, 0)


def test_requests_count_from_their_arrival_and_tokens_from_their_end() -> None:
    looks = {"p0": state(10)}, {"p0": state(30, in_progress=5)}
    assert total(*looks) == (25, 20, 20 * PROMPT_TOKENS, 20 * OUTPUT_TOKENS)


def test_what_was_refused_arrived_but_has_no_length() -> None:
    assert total({"p0": state()}, {"p0": state(10, refused=4)})[:2] == (14, 10)


def test_health_checks_are_no_demand() -> None:
    assert total({"p0": state()}, {"p0": state(requests=500, served=500)})[0] == 0


def test_what_a_dead_router_lost_arrived() -> None:
    assert total({"p0": state(in_progress=5)}, {"p0": state(lost=5)})[0] == 0
    assert total({"p0": state()}, {"p0": state(lost=5)})[0] == 5


def test_all_packs_add_up() -> None:
    looks = (
        {"p0": state(), "p1": state(agent_id="b")},
        {"p0": state(10), "p1": state(7, agent_id="b")},
    )
    assert total(*looks)[:2] == (17, 17)


def test_a_pack_that_is_gone_takes_nothing_away() -> None:
    looks = (
        {"p0": state(), "p1": state(agent_id="b")},
        {"p0": state(10), "p1": state(100, agent_id="b")},
        {"p0": state(20)},
    )
    assert total(*looks)[:2] == (120, 120)


def test_a_restarted_agent_goes_on_from_its_own_zero() -> None:
    looks = (
        {"p0": state(1000)},
        {"p0": state(1100)},
        {"p0": state(5, agent_id="b")},
        {"p0": state(25, agent_id="b")},
    )
    assert total(*looks)[:2] == (120, 120)


def test_a_restart_of_an_agent_is_counted_since_requests_may_have_ended_with_it() -> None:
    tally = counted(ServiceTally(), {"p0": state(10), "p1": state(agent_id="b")})
    tally = counted(tally, {"p0": state(10), "p2": state(agent_id="c")})
    assert tally.restarts == 0, "a pack that goes or comes is none"
    tally = counted(tally, {"p0": state(agent_id="d"), "p2": state(agent_id="c")})
    assert (tally.arrived, tally.restarts) == (0, 1)


def test_a_restart_is_counted_too_when_the_pack_did_not_answer_meanwhile() -> None:
    tally = counted(ServiceTally(), {"p0": state(10), "p1": state(agent_id="b")})
    tally = counted(tally, {"p1": state(agent_id="b")}, unanswered=["p0"])
    same = counted(tally, {"p0": state(14), "p1": state(agent_id="b")})
    assert (same.arrived, same.restarts) == (4, 0)
    other = counted(tally, {"p0": state(4, agent_id="c"), "p1": state(agent_id="b")})
    assert (other.arrived, other.restarts) == (0, 1)


def test_a_new_pack_brings_nothing_from_before_it_was_seen() -> None:
    looks = (
        {"p0": state()},
        {"p0": state(10), "p1": state(3, agent_id="b")},
        {"p0": state(20), "p1": state(8, agent_id="b")},
    )
    assert total(*looks)[:2] == (25, 25)


class TestCalibration:
    """The saturating load goes through the pack's own router."""

    def test_its_requests_are_not_demand_and_the_users_are(self) -> None:
        looks = (
            {"p0": state(10)},
            {"p0": state(210, 300, plan=LOADED, load=LoadState(sent=490, in_flight=290))},
        )
        assert total(*looks) == (10, 0, 0, 0)

    def test_its_tokens_give_no_lengths_not_even_after_its_end(self) -> None:
        done = LoadState(sent=500, completed=300, cancelled=200)
        looks = (
            {"p0": state()},
            {"p0": state(200, 300, plan=LOADED, load=LoadState(sent=495, in_flight=290))},
            {"p0": state(510, load=done)},
            {"p0": state(530, load=done)},
            {"p0": state(540, load=done)},
        )
        # Ten of the users' before its end; then 20 whose difference the load may be part of.
        assert total(*looks) == (40, 10, 10 * PROMPT_TOKENS, 10 * OUTPUT_TOKENS)

    def test_a_load_that_came_and_went_between_two_looks_is_seen(self) -> None:
        done = LoadState(sent=400, completed=400)
        assert total({"p0": state()}, {"p0": state(403, load=done)}) == (3, 0, 0, 0)

    def test_counts_of_the_load_that_are_newer_than_the_routers_add_nothing_twice(self) -> None:
        looks = (
            {"p0": state(100)},
            {"p0": state(100, plan=LOADED, load=LoadState(sent=290, in_flight=290))},
            {"p0": state(100, 292, plan=LOADED, load=LoadState(sent=290, in_flight=290))},
        )
        assert total(*looks)[0] == 2

    def test_its_requests_that_never_reached_the_router_hide_no_users_afterwards(self) -> None:
        failed = LoadState(sent=50, failed=50)
        looks = (
            {"p0": state(100)},
            {"p0": state(100, plan=LOADED, load=failed)},
            {"p0": state(100, load=failed)},
            {"p0": state(100, load=failed)},
            {"p0": state(110, load=failed)},
        )
        assert total(*looks)[0] == 10

    def test_nobody_waits_for_long_beside_it(self) -> None:
        replica = ReplicaState(
            index=0,
            phase="Ready",
            in_rotation=True,
            max_num_seqs=256,
            kv_cache_bytes=None,
            pid=1,
            starts=1,
            waiting=3,
        )
        queue = {"router_queue": 40, "replicas": (replica,)}
        assert waiting(state().model_copy(update=queue)) == 43
        assert waiting(state(plan=LOADED).model_copy(update=queue)) == 0


@dataclass
class Pack:
    """What an agent counts, as the world happens to it."""

    agent: int = 0
    ended: int = 0
    in_progress: int = 0
    load: LoadState = field(default_factory=LoadState)
    plan: Plan = PLAN

    def state(self, uid: int) -> PackState:
        return state(
            self.ended,
            self.in_progress,
            agent_id=f"{uid}-{self.agent}",
            load=self.load,
            plan=self.plan,
        )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["serve", "arrive", "restart", "go", "load", "unload", "look", "silent"]),
        st.integers(0, 2),
        st.integers(0, 50),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_to_packs_the_sums_never_decrease(
    events: list[tuple[str, int, int]],
) -> None:
    packs: dict[int, Pack] = {}
    tally, arrivals = ServiceTally(), 0
    for what, uid, count in events:
        one = packs.setdefault(uid, Pack())
        if what == "serve":
            done = min(count, one.in_progress)
            one.ended, one.in_progress = one.ended + done, one.in_progress - done
        elif what == "arrive":
            one.in_progress += count
            arrivals += count
        elif what == "restart":
            packs[uid] = Pack(agent=one.agent + 1)
        elif what == "go":
            del packs[uid]
        elif what == "load":
            one.plan = LOADED
            one.load = one.load.model_copy(
                update={"sent": one.load.sent + count, "in_flight": one.load.in_flight + count}
            )
            one.in_progress += count
        elif what == "unload":
            ended = one.load.in_flight
            one.plan = PLAN
            one.load = one.load.model_copy(
                update={"cancelled": one.load.cancelled + ended, "in_flight": 0}
            )
            gone = min(ended, one.in_progress)
            one.ended, one.in_progress = one.ended + gone, one.in_progress - gone
        silent = uid if what == "silent" else None
        before = tally
        tally = counted(tally, {f"p{u}": p.state(u) for u, p in packs.items() if u != silent})
        assert tally.arrived >= before.arrived
        assert tally.completed >= before.completed
        assert tally.prompt_tokens >= before.prompt_tokens
        assert tally.output_tokens >= before.output_tokens
        assert replace(tally, readings=()) == replace(
            counted(tally, {f"p{u}": p.state(u) for u, p in packs.items() if u != silent}),
            readings=(),
        ), "the same look again adds nothing"
    assert tally.arrived <= arrivals, "no request counts twice, and none of the load's counts"
