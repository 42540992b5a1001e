"""What the users of a whole service have asked for, added up over packs that come, go and restart.

Each agent counts from zero, so the sums are of differences: a pack that ends takes nothing away,
and one that is new adds what it counts from then on.

The calibration load is no demand. Its requests go through the same router, so that:

- what arrived is the router's count less what the load says it sent, also while it runs;
- nothing tells its tokens from those of users, so while it runs, and until the difference before
  and after it is past, a pack adds no completed request and no token. The lengths of requests are
  then those of other packs, or of before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from slm_worker.wire import Counters, LoadState, PackState


@dataclass(frozen=True)
class Reading:
    """The last look at one agent's counters."""

    agent_id: str
    arrived: int
    """Most that was counted: the load's counts are newer than the router's, so that differences
    can be negative for a moment."""
    completed: int
    prompt_tokens: int
    output_tokens: int
    load: tuple[int, ...]
    """Of the calibration load's requests, by how they ended."""
    loaded: bool
    """Whether the calibration load ran since the look before."""


@dataclass(frozen=True)
class ServiceTally:
    """Sums since the operator began; they never decrease."""

    arrived: int = 0
    """Requests for a place in a batch, those that were refused one among them."""
    completed: int = 0
    """Requests that got a place and ended."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    restarts: int = 0
    """Of agents: what came since the last look at the one before is not in the sums."""
    readings: tuple[tuple[str, Reading], ...] = ()
    """By the UID of the pack, whose agent may be another one the next time."""


def counted(
    tally: ServiceTally, states: Mapping[str, PackState], unanswered: Collection[str] = ()
) -> ServiceTally:
    """``tally`` with what has happened since, by the packs' UIDs. ``unanswered``: packs that are
    there, whose agents may be others when they answer again; any other that is left out is
    forgotten."""
    known = dict(tally.readings)
    arrived, completed = tally.arrived, tally.completed
    prompt_tokens, output_tokens = tally.prompt_tokens, tally.output_tokens
    restarts = tally.restarts
    readings = [(uid, known[uid]) for uid in unanswered if uid in known]
    for uid, state in states.items():
        before = known.get(uid)
        if before is not None and before.agent_id != state.agent_id:
            before = None
            restarts += 1
        now = _read(state, before)
        readings.append((uid, now))
        if before is None:
            continue
        arrived += max(0, _arrived(state) - before.arrived)
        if not (now.loaded or before.loaded):
            completed += max(0, now.completed - before.completed)
            prompt_tokens += max(0, now.prompt_tokens - before.prompt_tokens)
            output_tokens += max(0, now.output_tokens - before.output_tokens)
    sums = (arrived, completed, prompt_tokens, output_tokens, restarts)
    return ServiceTally(*sums, readings=tuple(readings))


def waiting(state: PackState) -> int:
    """Users' requests that wait at the router or in an engine. While the calibration load runs none
    do for long, since they overtake its requests, and nothing tells the two apart."""
    if _runs_load(state):
        return 0
    return state.router_queue + sum(r.waiting or 0 for r in state.replicas)


def _read(state: PackState, before: Reading | None) -> Reading:
    router, counters = state.router, state.counters or Counters(sampled_at_seconds=0.0)
    load = _load_counts(state.load)
    loaded = _runs_load(state) or (before is not None and before.load != load)
    arrived = _arrived(state)
    # Behind the load its requests that never reached the router are set right.
    if before is not None and (loaded or not before.loaded):
        arrived = max(arrived, before.arrived)
    return Reading(
        agent_id=state.agent_id,
        arrived=arrived,
        completed=router.batchable - router.rejected - router.timed_out,
        prompt_tokens=counters.prompt_tokens,
        output_tokens=counters.output_tokens,
        load=load,
        loaded=loaded,
    )


def _arrived(state: PackState) -> int:
    router = state.router
    return router.batchable + router.in_progress + router.lost - state.load.sent


def _runs_load(state: PackState) -> bool:
    return state.load.in_flight > 0 or (state.plan is not None and state.plan.load is not None)


def _load_counts(load: LoadState) -> tuple[int, ...]:
    return load.sent, load.completed, load.failed, load.cancelled
