"""One pack of the simulation: replicas that batch, a router that fills one before the next.

Time moves from event to event. Between two, each replica's sequences advance together at one token
a step, so a replica needs one number for the progress of all: the tokens that a sequence would
have got since the replica began. Prompts are read one after another, and nobody decodes meanwhile:
reading uses all multiprocessors, so what others still get done beside it is left out.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from slm_operator.simulate.hardware import Hardware, Step
from slm_operator.simulate.trace import Request

_ROUNDING_TOKENS = 1e-6
"""A sequence is complete this much before its last token: sums of floats fall short."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request that was answered in full."""

    request: Request
    ttft_seconds: float
    itl_seconds: float | None
    """Mean time between its tokens; None for a single token."""


@dataclass(slots=True)
class _Running:
    request: Request
    first_token_at: float
    joined_at_tokens: float


@dataclass(slots=True)
class _Replica:
    tokens: float = 0.0
    """Progress of every sequence that was there from the beginning."""
    step_seconds: float = 1.0
    step_joules: float = 0.0
    context_tokens: float = 0.0
    """Of all sequences together."""
    reserved_tokens: int = 0
    """KV cache that its sequences will have filled at their end."""
    running: list[tuple[float, int, _Running]] = field(default_factory=list)
    """A heap by the progress at which each ends."""


class SimulatedPack:
    """A pack from its start to its end; its owner calls ``advance`` before anything else."""

    def __init__(
        self,
        name: int,
        hardware: Hardware,
        steps: Steps,
        started_at_seconds: float,
        ready_at_seconds: float,
    ) -> None:
        self.name = name
        self.started_at_seconds = started_at_seconds
        self.ready_at_seconds = ready_at_seconds
        self.joules = 0.0
        self.waiting: deque[Request] = deque()
        self.version = 0
        """Counts changes, so that what was foreseen before one is known to be stale."""
        self._hardware = hardware
        self._steps = steps
        self._kv_tokens = hardware.kv_tokens.get(steps.replicas)
        self._replicas = [_Replica() for _ in range(steps.replicas)]
        self._now = started_at_seconds
        self._reading_until = 0.0
        self._serial = 0

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + sum(len(r.running) for r in self._replicas)

    def replicas(self) -> list[tuple[int, float]]:
        """Running sequences, and share of the KV cache in use, of each."""
        usage = self._hardware.kv_usage
        return [
            (len(r.running), usage(self._steps.replicas, len(r.running), r.context_tokens))
            for r in self._replicas
        ]

    @property
    def max_num_seqs(self) -> int:
        return self._steps.max_num_seqs

    def advance(self, now: float) -> None:
        """Moves on to ``now`` as things stand."""
        since, self._now = self._now, now
        seconds = now - since
        if seconds <= 0:
            return
        self.joules += self._hardware.idle_watts * seconds
        decoding = now - max(since, self._reading_until)
        if decoding <= 0:
            return
        for replica in self._replicas:
            if replica.running:
                steps = decoding / replica.step_seconds
                replica.tokens += steps
                replica.context_tokens += steps * len(replica.running)
                self.joules += steps * replica.step_joules

    def accept(self, request: Request) -> None:
        """A new request, behind those that wait."""
        self.waiting.append(request)
        self._admit()

    def complete(self) -> list[Done]:
        """Ends the sequences that have all their tokens, and admits others in their place."""
        done: list[Done] = []
        # What is read just now gets its first token when it has been read.
        replicas = [] if self._reading_until > self._now else self._replicas
        for replica in replicas:
            running = replica.running
            while running and running[0][0] <= replica.tokens + _ROUNDING_TOKENS:
                _, _, ended = heapq.heappop(running)
                request = ended.request
                length = request.prompt_tokens + request.output_tokens
                replica.reserved_tokens -= length
                progressed = replica.tokens - ended.joined_at_tokens
                replica.context_tokens -= request.prompt_tokens + progressed
                later = request.output_tokens - 1
                seconds = self._now - ended.first_token_at
                ttft = ended.first_token_at - request.at_seconds
                done.append(Done(request, ttft, seconds / later if later else None))
            if not running:
                replica.context_tokens = 0.0
        self._admit()
        return done

    def give_up(self, waited_seconds: float) -> list[Request]:
        """Requests whose clients have waited so long for their first token."""
        lost = []
        while self.waiting and self._now - self.waiting[0].at_seconds > waited_seconds:
            lost.append(self.waiting.popleft())
        return lost

    def unfinished(self) -> list[Request]:
        """What it would lose by ending now."""
        running = (entry.request for r in self._replicas for _, _, entry in r.running)
        return [*self.waiting, *running]

    def next_completion(self) -> float | None:
        """When the next sequence ends, as things stand."""
        soonest = None
        for replica in self._replicas:
            if replica.running:
                left = max(0.0, replica.running[0][0] - replica.tokens)
                at = max(self._now, self._reading_until) + left * replica.step_seconds
                if soonest is None or at < soonest:
                    soonest = at
        return soonest

    def _admit(self) -> None:
        """Fills the first replica with room, then the next, in the order of arrival."""
        while self.waiting and self._place(self.waiting[0]):
            self.waiting.popleft()
        self.version += 1
        self._pace()

    def _place(self, request: Request) -> bool:
        length = request.prompt_tokens + request.output_tokens
        for replica in self._replicas:
            if len(replica.running) >= self._steps.max_num_seqs:
                continue
            if self._kv_tokens is not None and (
                replica.running and replica.reserved_tokens + length > self._kv_tokens
            ):
                continue
            costs = self._hardware.costs
            reading = request.prompt_tokens * costs.prompt_seconds
            self._reading_until = max(self._now, self._reading_until) + reading
            self.joules += request.prompt_tokens * costs.prompt_joules
            replica.reserved_tokens += length
            replica.context_tokens += request.prompt_tokens
            entry = _Running(request, self._reading_until, replica.tokens)
            ends = replica.tokens + request.output_tokens - 1
            self._serial += 1
            heapq.heappush(replica.running, (ends, self._serial, entry))
            return True
        return False

    def _pace(self) -> None:
        active = sum(1 for r in self._replicas if r.running)
        for replica in self._replicas:
            batch = len(replica.running)
            if batch:
                step = self._steps.of(active, batch)
                context = replica.context_tokens
                replica.step_seconds = self._hardware.step_seconds(step, active, batch, context)
                replica.step_joules = self._hardware.step_joules(step, batch, context)


class Steps:
    """The steps of one layout, computed once for all packs that run it."""

    def __init__(self, hardware: Hardware, replicas: int, max_num_seqs: int) -> None:
        self.replicas = replicas
        self.max_num_seqs = max_num_seqs
        self._hardware = hardware
        self._kept: dict[tuple[int, int], Step] = {}

    def of(self, running_replicas: int, batch: int) -> Step:
        key = (running_replicas, batch)
        step = self._kept.get(key)
        if step is None:
            step = self._kept[key] = self._hardware.step(running_replicas, batch)
        return step
