"""Measuring under the users' own requests (calibration.when Live).

What is to be measured is set by rotation while so many requests are in flight that they fill it.
It is left when they no longer do, and at once when users come to wait for too long. Meanwhile the
pack serves with all that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slm_operator.pareto.choice import choose
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.search import Measure, SearchSpace, Settle
from slm_operator.pareto.window import Sample
from slm_worker.wire import PackState, Plan

MAX_WAIT_SECONDS = 10.0
"""A probe may let nobody wait for longer: about as long as a person keeps attending to a dialogue
(Nielsen, Usability Engineering, 1993, chapter 5)."""
SPARE_SHARE = 1 / 16
"""More requests than the batches hold by this share: the router gives each replica so many more,
so that a sequence that ends is replaced at once; and then some wait."""
PATIENCE_SECONDS = 10.0
"""A load that has not filled the replicas for so long has gone."""
RETURN_SECONDS = 60.0
"""After that the same probe is not tried again for so long, so that a load that comes and goes
does not turn the rotation with every wave."""


@dataclass(frozen=True)
class Overrun:
    """A probe was abandoned because users had to wait."""

    replicas: int
    in_flight: int
    """Requests at that time."""
    at_seconds: float
    """Of the agent's clock."""

    def over(self, state: PackState) -> bool:
        """Whether it can be told now what was to blame."""
        return not 0 <= state.clock_seconds - self.at_seconds < RETURN_SECONDS

    def was_too_few(self, state: PackState) -> bool:
        """Whether all replicas carry what the fewer did not: requests have become no more since.
        Otherwise the load is too much for all, and says nothing about the fewer."""
        return state.clock_seconds >= self.at_seconds and in_flight(state) <= self.in_flight


@dataclass(frozen=True)
class Turn:
    """What the exploring pack runs now."""

    probe: Probe
    measuring: bool
    """Whether that is what shall be measured."""
    waiting: bool
    """For requests that fill it."""
    left: bool = False
    """Whether what was being measured is left before its window was full."""
    overrun: str = ""
    """Why the probe was abandoned, with both numbers."""


def turn(
    step: Measure,
    state: PackState,
    samples: Sequence[Sample],
    points: Sequence[OperatingPoint],
    *,
    left_at_seconds: float | None = None,
    ttft_limit_seconds: float | None = None,
) -> Turn:
    """``samples``: of what the pack runs now; ``points``: those that count;
    ``left_at_seconds``: the agent's clock when a probe was left last; ``ttft_limit_seconds``: what
    users are promised, None for nothing."""
    allowed = min(MAX_WAIT_SECONDS, ttft_limit_seconds or MAX_WAIT_SECONDS)
    serving = serving_probe(step, points)
    running = None if state.plan is None or state.plan.load else _probe_of(state.plan)
    full = _recently_full(samples)
    if step.probe == serving:
        return Turn(serving, True, waiting=not full)
    wait = _wait_seconds(state, samples)
    if running != step.probe:
        rested = left_at_seconds is None or (
            not 0 <= state.clock_seconds - left_at_seconds < RETURN_SECONDS
        )
        then = _wait_in(state, samples, step)
        short = wait is not None and wait <= allowed / 2 and then is not None and then <= allowed
        welcome = rested and short and _fills(state, step.probe)
        return Turn(step.probe if welcome else serving, welcome, waiting=not welcome)
    if wait is not None and wait > allowed:
        why = (
            f"requests had to wait for some {wait:.0f} s, more than {allowed:g} s, with "
            f"{step.probe}: all {serving.replicas} serve again"
        )
        return Turn(serving, False, waiting=True, left=True, overrun=why)
    if not _fills(state, step.probe) and not full and _length(samples) >= PATIENCE_SECONDS:
        return Turn(serving, False, waiting=True, left=True)
    return Turn(step.probe, True, waiting=False)


def serving_probe(step: Measure, points: Sequence[OperatingPoint]) -> Probe:
    """What serves users while ``step`` cannot be measured, or must not be."""
    probe = step.probe
    if not probe.committed:
        return Probe(probe.layout_replicas, probe.layout_replicas, probe.max_num_seqs)
    best = max(points, key=lambda p: p.output_tokens_per_second, default=None)
    if best is None or step.rule is Rule.OWN_LAYOUT or best.probe.replicas <= probe.replicas:
        return probe
    layout = best.probe.layout_replicas
    return Probe(layout, layout, best.probe.max_num_seqs)


def without_restart(
    step: Measure | Settle,
    space: SearchSpace,
    points: Sequence[OperatingPoint],
    incumbent: Probe | None,
    state: PackState,
) -> Measure | Settle:
    """``step``, or what stands for it where it would start fewer replicas anew: to do so, all that
    run have to end first, and users would wait for a start. Fewer are measured in rotation
    instead, though each then has only its share of the memory; then that decides."""
    if isinstance(step, Settle) or state.plan is None or not step.probe.committed:
        return step
    able = [p for p in points if space.holds(p.probe)]
    best = max(able, key=lambda p: p.output_tokens_per_second, default=None)
    if best is None or step.rule is Rule.OWN_LAYOUT or best.probe.replicas <= step.probe.replicas:
        return step
    layout = state.plan.layout
    inside = Probe(layout.replicas, step.probe.replicas, layout.max_num_seqs)
    known = {p.probe for p in able}
    if (
        inside.replicas < inside.layout_replicas <= space.max_replicas
        and inside.max_num_seqs == step.probe.max_num_seqs
        and inside not in known
    ):
        return Measure(inside, "Searching", step.rule, step.why)
    return Settle(choose(able, space.objective, space.limits, incumbent=incumbent), ())


def in_flight(state: PackState) -> int:
    """Requests that the router holds or has given to replicas."""
    return sum(r.in_flight or 0 for r in state.replicas) + state.router_queue


def _fills(state: PackState, probe: Probe) -> bool:
    slots = probe.replicas * probe.max_num_seqs
    return in_flight(state) >= slots + max(probe.replicas, slots * SPARE_SHARE)


def _wait_seconds(state: PackState, samples: Sequence[Sample]) -> float | None:
    """How long a request that comes now waits for a place in a batch; None while nothing says how
    fast requests are served."""
    if state.plan is None:
        return None
    slots = state.plan.rotation * state.plan.layout.max_num_seqs
    waiting = max(0, in_flight(state) - slots)
    if not waiting:
        return 0.0
    recent = _recent(samples)
    if len(recent) < 2:
        return None
    completed = recent[-1].counters.requests_completed - recent[0].counters.requests_completed
    if not completed and _length(recent) < PATIENCE_SECONDS:
        return None
    return waiting * _length(recent) / max(1, completed)


def _wait_in(state: PackState, samples: Sequence[Sample], step: Measure) -> float | None:
    """How long requests would wait at first if only the replicas of ``step`` were in rotation, by
    the pace at which sequences are served now; None while that is unknown."""
    slots = step.probe.replicas * step.probe.max_num_seqs
    waiting = max(0, in_flight(state) - slots)
    if not waiting:
        return 0.0
    recent = _recent(samples)
    if len(recent) < 2 or not recent[-1].running:
        return None
    completed = recent[-1].counters.requests_completed - recent[0].counters.requests_completed
    pace = max(1, completed) / _length(recent) * min(1.0, slots / recent[-1].running)
    return waiting / pace


def _recently_full(samples: Sequence[Sample]) -> bool:
    recent = _recent(samples)
    if len(recent) < 2:
        return False
    return recent[-1].counters.saturated_seconds > recent[0].counters.saturated_seconds


def _recent(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The last seconds, and what they are compared with."""
    if not samples:
        return ()
    since = samples[-1].counters.sampled_at_seconds - PATIENCE_SECONDS
    older = [i for i, s in enumerate(samples) if s.counters.sampled_at_seconds <= since]
    return samples[older[-1] if older else 0 :]


def _length(samples: Sequence[Sample]) -> float:
    if not samples:
        return 0.0
    return samples[-1].counters.sampled_at_seconds - samples[0].counters.sampled_at_seconds


def _probe_of(plan: Plan) -> Probe:
    return Probe(plan.layout.replicas, plan.rotation, plan.layout.max_num_seqs)
