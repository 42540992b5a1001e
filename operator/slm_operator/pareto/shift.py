"""Whether the traffic has become another one than that under which the points were measured.

What a pack can serve depends on how long prompts and answers are, and a little on how they come.
Both are watched in stretches of at least a minute and a hundred requests. A shift is told once
the mean over all stretches that are kept lies beyond the ratio at which the knee may move, and
each single one of them lies beyond a smaller one on the same side: ten minutes of another traffic,
not a few long requests. Points are never thrown away for it: those that were measured with lengths
near the new ones count again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from slm_operator.pareto.workload import Arrivals, Workload, apart
from slm_worker.wire import Counters


@dataclass(frozen=True)
class ShiftRules:
    """Lengths of time in seconds; ratios above one, whichever way."""

    stretch_seconds: float = 60.0
    stretch_requests: int = 100
    """A stretch of a sparse traffic takes longer. Lengths of real requests vary by about their
    mean (the Azure trace's by 0.8 and 1.0 of it), so a hundred tell it to a tenth."""
    stretches: int = 10
    """A search takes some ten minutes; for a change that does not last as long it is not worth
    it."""
    enter_ratio: float = 1.3
    """By the planner (OPT-1.3B on an H100), a third more or less of both lengths moves capacity by
    a tenth and the gain of a further replica by the three percent on which a knee hangs."""
    leave_ratio: float = 1.15
    """A stretch nearer to the old lengths than this says that nothing lasting has happened."""
    interval_seconds: float = 15.0
    """Over which arrivals are counted: about as long as a pack's queue may bridge."""
    bursty_from: float = 0.75
    """Relative swing of the arrival rate beyond chance. The Azure trace's is 0.1 to 0.2; traffic
    that comes and goes by the minute has 1."""
    steady_to: float = 0.4
    power_capped_from: float = 0.5
    """Share of the time at the power limit that means a limit which was not there before."""
    power_free_to: float = 0.05


@dataclass(frozen=True)
class Tally:
    """What an agent had counted at one moment, as far as traffic goes. Cumulative."""

    agent_id: str
    at_seconds: float
    prompt_tokens: int
    begun: int
    """Requests whose prompt was read."""
    output_tokens: int
    completed: int
    arrived: int
    saturated_seconds: float = 0.0
    power_capped_seconds: float = 0.0


@dataclass(frozen=True)
class Stretch:
    """Differences of two tallies; ``arrivals`` holds (requests, seconds) of each interval."""

    seconds: float
    prompt_tokens: int
    begun: int
    output_tokens: int
    completed: int
    saturated_seconds: float
    power_capped_seconds: float
    arrivals: tuple[tuple[int, float], ...] = ()

    @property
    def mean_prompt(self) -> float:
        return self.prompt_tokens / self.begun

    @property
    def mean_output(self) -> float:
        return self.output_tokens / self.completed


@dataclass(frozen=True)
class Watch:
    """What was seen of the traffic so far. Losing it costs ten minutes of watching."""

    stretches: tuple[Stretch, ...] = ()
    begun_at: Tally | None = None
    """Where the unfinished stretch began."""
    last: Tally | None = None
    """Where its unfinished interval of arrivals began."""
    arrivals: tuple[tuple[int, float], ...] = field(default=())


@dataclass(frozen=True)
class Shift:
    """``reason``: LengthsShifted, ArrivalsShifted or PowerLimitShifted; both numbers in
    ``message``."""

    reason: str
    message: str
    workload: Workload
    """What the traffic is now."""


def tally(agent_id: str, counters: Counters, arrived: int) -> Tally:
    """``arrived``: requests of users, so far."""
    return Tally(
        agent_id=agent_id,
        at_seconds=counters.sampled_at_seconds,
        prompt_tokens=counters.prompt_tokens,
        begun=counters.ttft.count or counters.requests_completed,
        output_tokens=counters.output_tokens,
        completed=counters.requests_completed,
        arrived=arrived,
        saturated_seconds=counters.saturated_seconds,
        power_capped_seconds=counters.power_capped_seconds,
    )


def watched(watch: Watch, now: Tally, rules: ShiftRules) -> Watch:
    """After one more tally. A reset begins the unfinished stretch anew."""
    begun_at, last = watch.begun_at, watch.last
    if begun_at is None or last is None or _reset(last, now):
        return replace(watch, begun_at=now, last=now, arrivals=())
    arrivals = watch.arrivals
    if now.at_seconds - last.at_seconds >= rules.interval_seconds:
        arrivals = (*arrivals, (now.arrived - last.arrived, now.at_seconds - last.at_seconds))
        last = now
    stretch = _between(begun_at, now, arrivals)
    enough = min(stretch.begun, stretch.completed) >= rules.stretch_requests
    if stretch.seconds < rules.stretch_seconds or not enough:
        return replace(watch, last=last, arrivals=arrivals)
    kept = (*watch.stretches, stretch)[-rules.stretches :]
    return Watch(kept, begun_at=now, last=now)


def interrupted(watch: Watch) -> Watch:
    """After something else than the users' traffic was counted."""
    return replace(watch, begun_at=None, last=None, arrivals=())


def observed(watch: Watch, rules: ShiftRules) -> Workload | None:
    """The traffic of the stretches that are kept; None until there are enough of them."""
    kept = watch.stretches
    if len(kept) < rules.stretches:
        return None
    halves = (kept[: len(kept) // 2], kept[len(kept) // 2 :])
    swings = [burstiness(half) for half in halves]
    arrivals: Arrivals | None = None
    if min(swings) >= rules.bursty_from:
        arrivals = "Bursty"
    elif max(swings) <= rules.steady_to:
        arrivals = "Steady"
    return Workload(
        prompt_tokens=sum(s.prompt_tokens for s in kept) / sum(s.begun for s in kept),
        output_tokens=sum(s.output_tokens for s in kept) / sum(s.completed for s in kept),
        arrivals=arrivals,
    )


def shifted(
    watch: Watch, reference: Workload, power_capped: float | None, rules: ShiftRules
) -> Shift | None:
    """How the traffic differs from ``reference`` for good. ``power_capped``: share of the chosen
    point's window at the power limit; None while none is chosen."""
    now = observed(watch, rules)
    if now is None:
        return None
    kept = watch.stretches
    told = [
        text
        for name, before, mean, each in (
            ("prompts", reference.prompt_tokens, now.prompt_tokens, [s.mean_prompt for s in kept]),
            ("answers", reference.output_tokens, now.output_tokens, [s.mean_output for s in kept]),
        )
        if (text := _length_shift(name, before, mean, each, rules))
    ]
    if told:
        return Shift("LengthsShifted", f"{_since(kept)} {' and '.join(told)}", now)
    if now.arrivals and reference.arrivals and now.arrivals != reference.arrivals:
        text = (
            f"{_since(kept)} the arrival rate swings by {burstiness(kept):.0%} beyond chance: "
            f"{now.arrivals}, where it was {reference.arrivals}"
        )
        return Shift("ArrivalsShifted", text, now)
    return None if power_capped is None else _power_shift(kept, now, power_capped, rules)


def settled_reference(now: Workload, known: Iterable[Workload], rules: ShiftRules) -> Workload:
    """What points shall be measured with from now on: the nearest of the ``known`` workloads when
    it is near enough for its points to count, else ``now`` itself."""
    near = [w for w in known if w.near(now, rules.enter_ratio)]
    return min(near, key=now.distance, default=now)


def burstiness(stretches: Sequence[Stretch]) -> float:
    """Coefficient of variation of the arrival rate, without what independent (Poisson) arrivals
    would have by chance. 0 for those, whatever their rate."""
    intervals = [one for s in stretches for one in s.arrivals]
    requests = sum(count for count, _ in intervals)
    if not requests:
        return 0.0
    rate = requests / sum(seconds for _, seconds in intervals)
    excess = sum((count - rate * seconds) ** 2 - count for count, seconds in intervals)
    expected = sum((rate * seconds) ** 2 for _, seconds in intervals)
    return math.sqrt(max(0.0, excess) / expected)


def _length_shift(
    name: str, before: float, mean: float, each: Sequence[float], rules: ShiftRules
) -> str | None:
    if apart(before, mean) < rules.enter_ratio:
        return None
    longer = mean > before
    beyond = (
        one >= before * rules.leave_ratio if longer else one <= before / rules.leave_ratio
        for one in each
    )
    if not all(beyond):
        return None
    return (
        f"{name} have {mean:,.0f} tokens on average, {apart(before, mean):.1f} times "
        f"{'more' if longer else 'fewer'} than the {before:,.0f} of before"
    )


def _power_shift(
    kept: Sequence[Stretch], now: Workload, measured: float, rules: ShiftRules
) -> Shift | None:
    """The power limit was lowered or raised: a GPU that is full but not at it, where it was, or at
    it where not even a full one was."""
    shares = [s.power_capped_seconds / s.seconds for s in kept]
    full = min(s.saturated_seconds / s.seconds for s in kept)
    lowered = measured <= rules.power_free_to and min(shares) >= rules.power_capped_from
    raised = (
        measured >= rules.power_capped_from
        and max(shares) <= rules.power_free_to
        and full >= 1 - rules.power_free_to
    )
    if not lowered and not raised:
        return None
    share = sum(shares) / len(shares)
    text = (
        f"{_since(kept)} the GPU is at its power limit for {share:.0%} of the time, where it was "
        f"for {measured:.0%}: the limit was {'lowered' if lowered else 'raised'}"
    )
    return Shift("PowerLimitShifted", text, now)


def _since(kept: Sequence[Stretch]) -> str:
    return f"for {sum(s.seconds for s in kept) / 60:.0f} minutes"


def _between(a: Tally, b: Tally, arrivals: tuple[tuple[int, float], ...]) -> Stretch:
    return Stretch(
        seconds=b.at_seconds - a.at_seconds,
        prompt_tokens=b.prompt_tokens - a.prompt_tokens,
        begun=b.begun - a.begun,
        output_tokens=b.output_tokens - a.output_tokens,
        completed=b.completed - a.completed,
        saturated_seconds=b.saturated_seconds - a.saturated_seconds,
        power_capped_seconds=b.power_capped_seconds - a.power_capped_seconds,
        arrivals=arrivals,
    )


def _reset(before: Tally, now: Tally) -> bool:
    return (
        before.agent_id != now.agent_id
        or now.at_seconds < before.at_seconds
        or now.output_tokens < before.output_tokens
        or now.arrived < before.arrived
    )
