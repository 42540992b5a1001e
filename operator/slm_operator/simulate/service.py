"""A service of packs under a trace: arrivals, completions and a scaling policy, event by event."""

from __future__ import annotations

import heapq
import math
from array import array
from dataclasses import dataclass, field
from random import Random

from slm_operator.simulate.hardware import Hardware
from slm_operator.simulate.pack import Done, SimulatedPack, Steps
from slm_operator.simulate.seen import PackSeen, Policy, ReplicaSeen, Seen, Totals
from slm_operator.simulate.trace import Request, Trace

TIMELINE_SECONDS = 30.0


@dataclass(frozen=True)
class Layout:
    """What every pack runs."""

    replicas: int
    max_num_seqs: int


@dataclass(frozen=True)
class Terms:
    """What holds for every policy alike."""

    min_packs: int = 1
    """At least 1, so that a pack is always ready: the oldest, which goes last."""
    max_packs: int = 8
    start_seconds: float = 60.0
    """From asking for a pack to its first token: Pod, image on the node, weights, CUDA graphs."""
    grace_seconds: float = 30.0
    """A pack that is taken away finishes what it runs for so long (Kubernetes' default)."""
    patience_seconds: float = 60.0
    """A client that has waited so long for its first token goes away."""


@dataclass(frozen=True)
class Moment:
    """The service at one time of its timeline."""

    at_seconds: float
    packs: int
    """That hold a GPU."""
    ready: int
    in_flight: int
    arrived: int
    """Requests since the moment before."""


@dataclass
class Outcome:
    """What a policy made of a trace."""

    layout: Layout
    seconds: float = 0.0
    joules: float = 0.0
    gpu_seconds: float = 0.0
    requests: int = 0
    lost: int = 0
    output_tokens: int = 0
    """Of completed requests."""
    pack_changes: int = 0
    ttft_seconds: array[float] = field(default_factory=lambda: array("d"))
    """One for each completed request, as the next."""
    itl_seconds: array[float] = field(default_factory=lambda: array("d"))
    """Mean time between the tokens of a request; 0 for a single token."""
    timeline: list[Moment] = field(default_factory=list)


class Service:
    """Runs once. ``first_packs`` are ready at the beginning. What happens before
    ``counted_from_seconds`` warms the service up and is not part of the outcome."""

    def __init__(
        self,
        trace: Trace,
        hardware: Hardware,
        layout: Layout,
        policy: Policy,
        terms: Terms,
        first_packs: int,
        counted_from_seconds: float,
        rng: Random,
    ) -> None:
        self._trace = trace
        self._hardware = hardware
        self._steps = Steps(hardware, layout.replicas, layout.max_num_seqs)
        self._policy = policy
        self._terms = terms
        self._rng = rng
        self._now = 0.0
        self._counted_from = counted_from_seconds
        self._outcome = Outcome(layout)
        self._packs: list[SimulatedPack] = []
        self._draining: dict[int, tuple[SimulatedPack, float]] = {}
        """By name, each with the end of its grace."""
        self._wanted = first_packs
        self._names = 0
        self._due: list[tuple[float, int, int, SimulatedPack]] = []
        """(when, name, version, pack): when its next sequence ends, if nothing changes it."""
        self._arrived = 0
        self._completed = self._completed_prompt_tokens = self._completed_output_tokens = 0
        self._arrived_at_last_moment = 0
        for _ in range(first_packs):
            self._start(ready_at=0.0)

    def run(self) -> Outcome:
        """Until every request is answered or lost."""
        requests, index = self._trace.requests, 0
        next_tick, next_moment = 0.0, self._counted_from
        while True:
            arrival = requests[index].at_seconds if index < len(requests) else math.inf
            due = self._next_due()
            if arrival == due == math.inf and not self._anything_in_flight():
                break
            grace_end = self._next_grace_end()
            self._now = min(next_moment, arrival, due, grace_end, next_tick)
            if self._now == next_moment:
                if next_moment == self._counted_from:
                    self._begin_counting()
                self._note()
                next_moment += TIMELINE_SECONDS
            elif self._now == arrival:
                self._arrive(requests[index])
                index += 1
            elif self._now == due:
                self._complete()
            elif self._now == grace_end:
                self._kill()
            else:
                self._decide()
                next_tick += self._policy.period_seconds
        return self._ended()

    def _begin_counting(self) -> None:
        for pack in self._all_packs():
            pack.advance(self._now)
            pack.joules = 0.0
        self._outcome.joules = self._outcome.gpu_seconds = 0.0
        self._outcome.pack_changes = 0

    def _arrive(self, request: Request) -> None:
        self._arrived += 1
        self._outcome.requests += request.at_seconds >= self._counted_from
        ready = [p for p in self._packs if p.ready_at_seconds <= self._now]
        # kube-proxy picks one of a Service's endpoints by chance.
        pack = ready[int(self._rng.random() * len(ready))] if len(ready) > 1 else ready[0]
        self._advance(pack)
        pack.accept(request)
        self._foresee(pack)

    def _complete(self) -> None:
        _, _, _, pack = heapq.heappop(self._due)
        self._advance(pack)
        for done in pack.complete():
            self._record(done)
        self._foresee(pack)
        if pack.name in self._draining and not pack.in_flight:
            self._end(pack)

    def _record(self, done: Done) -> None:
        request, out = done.request, self._outcome
        self._completed += 1
        self._completed_prompt_tokens += request.prompt_tokens
        self._completed_output_tokens += request.output_tokens
        if request.at_seconds >= self._counted_from:
            out.output_tokens += request.output_tokens
            out.ttft_seconds.append(done.ttft_seconds)
            out.itl_seconds.append(done.itl_seconds or 0.0)

    def _advance(self, pack: SimulatedPack) -> None:
        """To now; whose patience ended meanwhile is gone before anybody takes its place."""
        pack.advance(self._now)
        self._count_lost(pack.give_up(self._terms.patience_seconds))

    def _count_lost(self, requests: list[Request]) -> None:
        self._outcome.lost += sum(r.at_seconds >= self._counted_from for r in requests)

    def _decide(self) -> None:
        for pack in self._all_packs():
            self._advance(pack)
        terms = self._terms
        asked = self._policy.wanted(self._seen())
        wanted = min(max(asked, terms.min_packs), terms.max_packs)
        self._outcome.pack_changes += abs(wanted - self._wanted)
        self._wanted = wanted
        while len(self._packs) < wanted:
            self._start(ready_at=self._now + terms.start_seconds)
        while len(self._packs) > wanted:
            self._drain()

    def _start(self, ready_at: float) -> None:
        self._names += 1
        self._packs.append(
            SimulatedPack(self._names, self._hardware, self._steps, self._now, ready_at)
        )

    def _drain(self) -> None:
        """The newest goes first, as a ReplicaSet and a StatefulSet have it; one that has not
        started yet is the newest."""
        pack = self._packs.pop()
        if pack.in_flight:
            self._draining[pack.name] = (pack, self._now + self._terms.grace_seconds)
        else:
            self._close(pack)

    def _next_grace_end(self) -> float:
        return min((until for _, until in self._draining.values()), default=math.inf)

    def _kill(self) -> None:
        for pack, until in list(self._draining.values()):
            if self._now >= until:
                self._advance(pack)
                self._count_lost(pack.unfinished())
                self._end(pack)

    def _end(self, pack: SimulatedPack) -> None:
        del self._draining[pack.name]
        pack.version += 1
        self._close(pack)

    def _close(self, pack: SimulatedPack) -> None:
        self._outcome.joules += pack.joules
        counted_from = max(pack.started_at_seconds, self._counted_from)
        self._outcome.gpu_seconds += max(0.0, self._now - counted_from)

    def _foresee(self, pack: SimulatedPack) -> None:
        at = pack.next_completion()
        if at is not None:
            heapq.heappush(self._due, (at, pack.name, pack.version, pack))

    def _next_due(self) -> float:
        due = self._due
        while due and due[0][2] != due[0][3].version:
            heapq.heappop(due)
        return due[0][0] if due else math.inf

    def _all_packs(self) -> list[SimulatedPack]:
        return [*self._packs, *(pack for pack, _ in self._draining.values())]

    def _anything_in_flight(self) -> bool:
        return any(pack.in_flight for pack in self._all_packs())

    def _seen(self) -> Seen:
        return Seen(
            now_seconds=self._now,
            wanted=self._wanted,
            packs=tuple(self._pack_seen(p) for p in self._packs),
            min_packs=self._terms.min_packs,
            max_packs=self._terms.max_packs,
            counters=Totals(
                arrived=self._arrived,
                completed=self._completed,
                prompt_tokens=self._completed_prompt_tokens,
                output_tokens=self._completed_output_tokens,
            ),
        )

    def _pack_seen(self, pack: SimulatedPack) -> PackSeen:
        ready = pack.ready_at_seconds <= self._now
        # The queue before the replicas stands for those of the engines: it is told evenly.
        replicas = pack.replicas() if ready else []
        share, rest = divmod(len(pack.waiting), max(1, len(replicas)))
        return PackSeen(
            name=pack.name,
            started_at_seconds=pack.started_at_seconds,
            ready_at_seconds=pack.ready_at_seconds if ready else None,
            replicas=tuple(
                ReplicaSeen(running, share + (i < rest), kv_usage, pack.max_num_seqs)
                for i, (running, kv_usage) in enumerate(replicas)
            ),
        )

    def _note(self) -> None:
        self._outcome.timeline.append(
            Moment(
                at_seconds=self._now - self._counted_from,
                packs=len(self._all_packs()),
                ready=sum(p.ready_at_seconds <= self._now for p in self._packs),
                in_flight=sum(p.in_flight for p in self._all_packs()),
                arrived=self._arrived - self._arrived_at_last_moment,
            )
        )
        self._arrived_at_last_moment = self._arrived

    def _ended(self) -> Outcome:
        for pack in self._all_packs():
            pack.advance(self._now)
            self._close(pack)
        self._outcome.seconds = self._now - self._counted_from
        return self._outcome
