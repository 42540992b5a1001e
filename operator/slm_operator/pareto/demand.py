"""How many packs the demand asks for: the slowest of the knobs that follow load.

Demand is work, not requests: what arrives, times what a request costs a pack at its operating
point. It is forecast over the time that a new pack takes to start.

- Packs are added at once when the forecast passes what the batches can take on until then, or when
  what arrived lately nearly fills them: no queue may build up for long.
- Packs are removed when, for a whole stabilisation period, fewer would have been enough for the
  forecast and its usual error. Between the two thresholds everything stays as it is.
- A surge that came faster than packs start, so that requests had to wait, is remembered: what it
  would have taken stays for an hour, since the next one comes as fast. Others within that hour
  are remembered too, though the packs that stayed let nobody wait. How fast the first load came
  that is seen, nobody knows: it counts as a surge.
- What is not known (no sample, a counter that jumped back, no sample for long) holds, and after a
  long time without a sample the stabilisation period begins anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Literal

from slm_operator.pareto.forecast import Forecast, forecast

Rule = Literal[
    "DemandRising", "DemandFalling", "DemandMet", "Stabilizing", "AtMaxPacks", "HeldStale"
]

STEP_SECONDS = 15.0
"""Samples count about so far apart, whatever the period: that is what the forecast's weights are
for, and less tells chance from load no better."""
STEPS_KEPT = 80
"""Twenty minutes, longer where samples are missing: the forecast forgets what is older."""
LENGTHS_SECONDS = 120.0
"""Mean lengths are those of requests that completed within it."""
LASTING_SECONDS = 120.0
"""What arrived over them is no chance of single requests."""
STALE_STEPS = 3
"""After so many steps without a sample the last one says nothing of now."""
BACKLOG_SECONDS = 60.0
"""In what time requests that wait shall have been worked off."""
SURGE_SECONDS = 0.5
"""Work that waits for each pack: above it, requests feel it in their TTFT."""
SURGE_RATIO = 1.5
"""The last minute's load over the one before a pack could have been asked for: a load that creeps
over the edge is forecast, and needs no memory."""
MINUTE_SECONDS = 60.0
SURGE_REMEMBERED_SECONDS = 3600.0
"""Traffic that comes in bursts repeats them within the hour, or is another traffic by then."""


@dataclass(frozen=True)
class PackCost:
    """What a request costs one pack at its operating point, in seconds of the whole pack."""

    prompt_token_seconds: float
    """Reading one token of a prompt."""
    output_token_seconds: float
    """Writing one token, whatever went before it."""
    context_token_seconds: float = 0.0
    """What each token that went before it adds to that."""

    def seconds(self, prompt_tokens: float, output_tokens: float) -> float:
        # Long answers run longer, so a running sequence has its whole mean length before it.
        context_tokens = prompt_tokens + output_tokens
        return (
            prompt_tokens * self.prompt_token_seconds
            + output_tokens * self.output_token_seconds
            + output_tokens * context_tokens * self.context_token_seconds
        )


@dataclass(frozen=True)
class DemandRules:
    """The limits that the user set, and what the pack's start takes."""

    min_packs: int
    max_packs: int
    start_seconds: float
    stabilization_seconds: float = 300.0
    period_seconds: float = 15.0
    """Between two samples."""
    brief_utilization: float = 1.05
    """Of the operating point's capacity, on average while a pack starts: batches that are not full
    take on some seconds of work before a queue costs TTFT."""
    lasting_utilization: float = 1.0
    """What arrivals may reach for minutes: a pack without any room has an endless queue."""
    errors: float = 0.5
    """How many usual errors of the forecast have to be free before a pack is removed."""

    @property
    def step_seconds(self) -> float:
        """Between two samples that count."""
        return self.period_seconds * max(1, round(STEP_SECONDS / self.period_seconds))

    def steps(self, seconds: float) -> int:
        return max(1, round(seconds / self.step_seconds))


@dataclass(frozen=True)
class DemandSample:
    """Cumulative counters of a whole service at one moment."""

    at_seconds: float
    arrived: int
    """Requests, those that were refused among them."""
    completed: int
    prompt_tokens: int
    """Of completed requests, as the next."""
    output_tokens: int
    waiting: int = 0
    """Requests in queues now."""


@dataclass(frozen=True)
class DemandMemory:
    """What is kept between two decisions; losing it costs a stabilisation period."""

    samples: tuple[DemandSample, ...] = ()
    needs: tuple[tuple[float, int], ...] = ()
    """(when, packs): what each decision within the stabilisation period found necessary."""
    surges: tuple[tuple[float, int], ...] = ()
    """(when, packs): what would have kept requests from waiting, or did, within the last hour."""


@dataclass(frozen=True)
class Work:
    """The demand in packs at their full capacity."""

    minute: float
    """Arrived over the last minute, on average."""
    before: float | None
    """Over the minute before a pack would have had to be asked for, to take part now; None: nobody
    looked yet."""
    lately: float
    """Arrived over the last two minutes, on average."""
    ahead: Forecast
    """On average until a pack that was asked for now could take part."""
    backlog: float
    """What it takes to work off the requests that wait."""

    def to_add(self, rules: DemandRules) -> int:
        """Below so many packs, some have to be added."""
        briefly = (self.ahead.mean + self.backlog) / rules.brief_utilization
        return max(1, _whole(briefly), _whole(self.lately / rules.lasting_utilization))

    def to_keep(self, rules: DemandRules) -> int:
        """So many packs have to stay."""
        safely = self.ahead.mean + rules.errors * self.ahead.error + self.backlog
        return max(self.to_add(rules), _whole(safely / rules.lasting_utilization))


@dataclass(frozen=True)
class Demand:
    """How many packs there shall be, and why."""

    packs: int
    rule: Rule
    sentence: str
    work: Work | None = None
    """What it was decided by; None where nothing is known."""


def decide_packs(
    memory: DemandMemory,
    sample: DemandSample | None,
    now_seconds: float,
    packs: int,
    cost: PackCost,
    rules: DemandRules,
) -> tuple[Demand, DemandMemory]:
    """What to do with ``packs`` packs, those that start among them. ``sample`` None: nobody
    answered this time."""
    bounded = min(max(packs, rules.min_packs), rules.max_packs)
    memory = _with(memory, sample, rules)
    held = _unknown(memory, now_seconds, rules)
    if held:
        return Demand(bounded, "HeldStale", f"{held}; {bounded} packs stay"), memory
    work = _work(_a_step_apart(memory.samples, rules), cost, rules)
    surges = _surges(memory.surges, now_seconds, bounded, work, rules)
    keep = max(work.to_keep(rules), *(n for _, n in surges), 0)
    needs = _recent(memory.needs, now_seconds, rules)
    memory = DemandMemory(memory.samples, (*needs, (now_seconds, keep)), surges)
    chosen, rule = _chosen(bounded, work, memory.needs, rules)
    sentence = _sentence(rule, chosen, bounded, work, memory.needs, rules)
    return Demand(chosen, rule, sentence, work), memory


def _with(memory: DemandMemory, sample: DemandSample | None, rules: DemandRules) -> DemandMemory:
    """A counter that jumped back begins a new series: differences across it mean nothing. Of a time
    of which nothing was seen only the mean is known, which hides that the load rose towards its
    end: what was needed before it no longer says that fewer packs are enough."""
    if sample is None:
        return memory
    if not memory.samples:
        return replace(memory, samples=(sample,))
    last = memory.samples[-1]
    if sample.at_seconds <= last.at_seconds:
        return memory
    if _is_stale(sample.at_seconds - last.at_seconds, rules):
        memory = replace(memory, needs=())
    if _jumped_back(last, sample):
        return replace(memory, samples=(sample,))
    # Where samples come late or not at all, as many steps take longer.
    since = sample.at_seconds - 2 * STEPS_KEPT * rules.step_seconds
    kept = (s for s in memory.samples if s.at_seconds >= since)
    return replace(memory, samples=(*kept, sample))


def _a_step_apart(
    samples: tuple[DemandSample, ...], rules: DemandRules
) -> tuple[DemandSample, ...]:
    """The newest, and back from it those that count, as many as are kept; oldest first."""
    counting = list(samples[-1:])
    # A sample may come early or late: it counts for the step that it is nearest to.
    enough_seconds = rules.step_seconds - rules.period_seconds / 2
    for sample in reversed(samples):
        if len(counting) > STEPS_KEPT:
            break
        if counting[-1].at_seconds - sample.at_seconds >= enough_seconds:
            counting.append(sample)
    return tuple(reversed(counting))


def _jumped_back(last: DemandSample, sample: DemandSample) -> bool:
    return (
        sample.arrived < last.arrived
        or sample.completed < last.completed
        or sample.prompt_tokens < last.prompt_tokens
        or sample.output_tokens < last.output_tokens
    )


def _unknown(memory: DemandMemory, now_seconds: float, rules: DemandRules) -> str | None:
    """Why nothing is known of the demand."""
    if len(_a_step_apart(memory.samples, rules)) < 2:
        apart = f"{rules.step_seconds:.0f} s apart"
        return f"the demand is not known yet: two samples, {apart}, make a rate"
    age = now_seconds - memory.samples[-1].at_seconds
    if _is_stale(age, rules):
        return f"no sample of the demand for {age:.0f} s"
    if memory.samples[-1].completed <= memory.samples[0].completed and (
        memory.samples[-1].arrived > memory.samples[0].arrived
    ):
        return "no request has completed yet, so what one costs is not known"
    return None


def _is_stale(age_seconds: float, rules: DemandRules) -> bool:
    return age_seconds > STALE_STEPS * rules.step_seconds


def _work(samples: tuple[DemandSample, ...], cost: PackCost, rules: DemandRules) -> Work:
    """Requests a second times what a request costs, at the lengths of its time."""
    loads = [
        (new.arrived - old.arrived)
        / (new.at_seconds - old.at_seconds)
        * _request_seconds(samples[: index + 2], cost)
        for index, (old, new) in enumerate(pairwise(samples))
    ]
    minute = rules.steps(MINUTE_SECONDS)
    # Further ahead than is looked back on, no load would have one before it, and each be a surge.
    steps = min(_whole(rules.start_seconds / rules.step_seconds) + 1, STEPS_KEPT - 2 * minute)
    earlier = loads[: -minute - steps][-minute:]
    return Work(
        minute=fmean(loads[-minute:]),
        before=fmean(earlier) if earlier else None,
        lately=fmean(loads[-rules.steps(LASTING_SECONDS) :]),
        ahead=forecast(loads, steps),
        backlog=samples[-1].waiting * _request_seconds(samples, cost) / BACKLOG_SECONDS,
    )


def _request_seconds(samples: tuple[DemandSample, ...], cost: PackCost) -> float:
    """Of the mean request that completed lately; of all that are known while none did."""
    last = samples[-1]
    recent = next(
        (s for s in samples if last.at_seconds - s.at_seconds <= LENGTHS_SECONDS), samples[0]
    )
    for first in (recent, samples[0]):
        completed = last.completed - first.completed
        if completed:
            return cost.seconds(
                (last.prompt_tokens - first.prompt_tokens) / completed,
                (last.output_tokens - first.output_tokens) / completed,
            )
    return 0.0


def _recent(
    needs: tuple[tuple[float, int], ...], now_seconds: float, rules: DemandRules
) -> tuple[tuple[float, int], ...]:
    """The newest that is as old as the stabilisation period, and all later ones; none from before
    a time in which nothing was decided."""
    if needs and _is_stale(now_seconds - needs[-1][0], rules):
        return ()
    since = now_seconds - rules.stabilization_seconds
    older = sum(at <= since for at, _ in needs)
    return needs[max(0, older - 1) :]


def _surges(
    surges: tuple[tuple[float, int], ...],
    now_seconds: float,
    packs: int,
    work: Work,
    rules: DemandRules,
) -> tuple[tuple[float, int], ...]:
    since = now_seconds - SURGE_REMEMBERED_SECONDS
    recent = tuple((at, n) for at, n in surges if at > since)
    taken = min(rules.max_packs, _whole(work.minute / rules.brief_utilization))
    if taken <= rules.min_packs or not _is_surge(recent, packs, work):
        return recent
    return (*(s for s in recent if s[1] > taken), (now_seconds, taken))


def _is_surge(remembered: tuple[tuple[float, int], ...], packs: int, work: Work) -> bool:
    if work.before is None:
        return True
    if work.minute < SURGE_RATIO * work.before:
        return False
    waits = work.backlog * BACKLOG_SECONDS / packs > SURGE_SECONDS
    # Nobody waits in the next one, because packs stayed for it: that is no reason to forget.
    return waits or bool(remembered)


def _chosen(
    packs: int, work: Work, needs: tuple[tuple[float, int], ...], rules: DemandRules
) -> tuple[int, Rule]:
    to_add = work.to_add(rules)
    if to_add > packs:
        if packs == rules.max_packs:
            return packs, "AtMaxPacks"
        return min(to_add, rules.max_packs), "DemandRising"
    if needs[-1][1] >= packs or packs == rules.min_packs:
        return packs, "DemandMet"
    (first_seconds, _), (now_seconds, _) = needs[0], needs[-1]
    enough = max(rules.min_packs, *(packs_needed for _, packs_needed in needs))
    # Before a whole period was seen, nothing says that fewer are enough.
    if enough >= packs or now_seconds - first_seconds < rules.stabilization_seconds:
        return packs, "Stabilizing"
    return enough, "DemandFalling"


def _whole(packs: float) -> int:
    """Rounded up; a sum of floats that is a whole number but for rounding is that number."""
    return math.ceil(packs - 1e-9)


def _sentence(
    rule: Rule,
    chosen: int,
    packs: int,
    work: Work,
    needs: tuple[tuple[float, int], ...],
    rules: DemandRules,
) -> str:
    mean, error = work.ahead.mean, work.ahead.error
    text = (
        f"work for {work.lately:.2f} packs arrived lately, {mean:.2f} are foreseen until another "
        f"pack could take part"
    )
    if work.backlog:
        text += f", {work.backlog:.2f} wait"
    if rule in ("DemandRising", "AtMaxPacks"):
        text += (
            f": at {rules.lasting_utilization:.0%} of a pack's capacity for long and "
            f"{rules.brief_utilization:.0%} until then, that takes {work.to_add(rules)}"
        )
        if chosen == rules.max_packs and work.to_add(rules) >= chosen:
            text += f", and maxPacks is {rules.max_packs}"
        return text
    text += (
        f": with {rules.errors * error:.2f} for the forecast's usual error, at "
        f"{rules.lasting_utilization:.0%} of a pack's capacity, {work.to_keep(rules)} have to stay"
    )
    if needs[-1][1] > work.to_keep(rules):
        text += (
            f"; {needs[-1][1]} because of a surge within the last hour, faster than packs start or "
            "there from the first look"
        )
    if rule == "Stabilizing":
        most = max(n for _, n in needs)
        return (
            f"{text}; {packs} stay until fewer have been enough for "
            f"{rules.stabilization_seconds:.0f} s, in which up to {most} were needed"
        )
    if rule == "DemandFalling":
        return f"{text}, as for the last {rules.stabilization_seconds:.0f} s"
    if packs == rules.min_packs and work.to_keep(rules) < packs:
        return f"{text}, and minPacks is {rules.min_packs}"
    return text
