"""PURE: a whole run of one replica among equals: continuous batching, from event to event.

Between two events (a sequence ends, the KV cache is full) the batch is constant and its context
grows evenly, so any number of steps is one sum. A run of thousands of sequences takes
milliseconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from slm_worker.planning.sharing import cycle_seconds
from slm_worker.planning.steps import (
    Constants,
    Cost,
    Model,
    Rates,
    chunked_prefill,
    decode,
    prefill,
)

KV_WATERMARK = 0.01
"""Share of the KV cache that admission leaves free, as vLLM does."""
BLOCK_TOKENS = 16
"""vLLM's KV-cache block; each sequence leaves half of one empty on average."""


@dataclass(frozen=True)
class Layout:
    """What is predicted: ``replicas`` share the GPU, each with a KV cache of its own."""

    replicas: int
    max_num_seqs: int
    kv_tokens: int
    """Tokens that each replica's KV cache holds."""
    chunked_prefill: bool


@dataclass
class Totals:
    """What one replica did in a run."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    """That its steps would need the GPU, had it been alone on it."""
    on_gpu_seconds: float = 0.0
    """That its steps were on the GPU, other replicas' kernels among them."""
    output_tokens: int = 0
    weight_bytes: float = 0.0
    kv_bytes: float = 0.0
    flops: float = 0.0
    gaps: int = 0
    """Gaps between two tokens of a sequence."""
    gap_seconds: float = 0.0
    """Their lengths summed."""
    preemptions: int = 0

    def spend(self, cost: Cost, times: float, replicas: int) -> float:
        """Adds ``times`` steps of one among ``replicas``; the seconds that they take."""
        cycle = cycle_seconds(replicas, cost.gpu_seconds, cost.gap_seconds)
        self.seconds += times * cycle
        self.gpu_seconds += times * cost.gpu_seconds
        self.on_gpu_seconds += times * (cycle - cost.gap_seconds)
        self.weight_bytes += times * cost.weight_bytes
        self.kv_bytes += times * cost.kv_bytes
        self.flops += times * cost.flops
        return times * cycle


@dataclass(eq=False, slots=True)
class _Sequence:
    prompt_tokens: float
    output_tokens: int
    written: int = 0
    first_step: int = 0
    preempted_at: float | None = None


@dataclass
class BatchRun:
    """``run`` plays it to its end, once."""

    model: Model
    rates: Rates
    constants: Constants
    layout: Layout
    prompt_tokens: float
    lengths: Sequence[int]
    totals: Totals = field(default_factory=Totals)

    def run(self) -> Totals:
        """Raises ValueError when the longest sequence outgrows the KV cache."""
        if self.layout.kv_tokens < self.prompt_tokens + max(self.lengths):
            raise ValueError(
                f"a sequence of {self.prompt_tokens + max(self.lengths):,.0f} tokens does not fit "
                f"a KV cache of {self.layout.kv_tokens:,}"
            )
        self._waiting = deque(_Sequence(self.prompt_tokens, length) for length in self.lengths)
        self._running: dict[_Sequence, None] = {}
        self._ends: list[tuple[int, int, _Sequence]] = []
        self._context, self._step, self._order = 0.0, 0, 0
        while self._waiting or self._running:
            while self._admit():
                pass  # whoever ended with its first token leaves its slot at once
            self._decode()
        return self.totals

    def _room(self, sequences: int) -> float:
        return self.layout.kv_tokens - BLOCK_TOKENS / 2 * sequences

    def _admit(self) -> bool:
        """Fills free slots from the queue and reads the prompts; each gives its first token.
        Whether that ended one of them."""
        limit = self.layout.kv_tokens * (1 - KV_WATERMARK)
        joined: list[_Sequence] = []
        tokens = 0.0
        already = len(self._running)
        while self._waiting and len(self._running) < self.layout.max_num_seqs:
            sequence = self._waiting[0]
            need = sequence.prompt_tokens + sequence.written
            after = self._context + need + BLOCK_TOKENS / 2 * (len(self._running) + 1)
            if self._running and after > limit:
                break
            self._waiting.popleft()
            self._running[sequence] = None
            self._context += need
            tokens += need
            joined.append(sequence)
        if not joined:
            return False
        read = chunked_prefill if self.layout.chunked_prefill else prefill
        cost = read(self.model, self.rates, self.constants, len(joined), tokens, already)
        self._spend(cost, 1.0, already)
        for sequence in joined:
            if sequence.preempted_at is None:
                self._written(sequence)
            else:
                # One gap, from the preemption to the token that the recomputation gives.
                self.totals.gap_seconds += self.totals.seconds - sequence.preempted_at
                self._written(sequence)
                self.totals.gaps += 1
                sequence.preempted_at = None
            sequence.first_step = self._step
            left = sequence.output_tokens - sequence.written
            if left <= 0:
                self._leave(sequence)
                continue
            self._order += 1
            heapq.heappush(self._ends, (self._step + left, self._order, sequence))
        return len(self._running) < already + len(joined)

    def _written(self, sequence: _Sequence) -> None:
        sequence.written += 1
        self._context += 1
        self.totals.output_tokens += 1

    def _decode(self) -> None:
        """Steps until a sequence ends or the KV cache is full; then someone has to go."""
        while self._ends and self._gone(self._ends[0]):
            heapq.heappop(self._ends)
        batch = len(self._running)
        if not batch:
            return
        steps = self._ends[0][0] - self._step
        room = int((self._room(batch) - self._context) / batch)
        if room < 1 and batch > 1:
            self._preempt()
            return
        steps = max(1, min(steps, room))
        context = self._context + batch * (steps - 1) / 2
        cost = decode(self.model, self.rates, self.constants, batch, context)
        self._spend(cost, steps, batch)
        self._step += steps
        self._context += batch * steps
        self.totals.output_tokens += batch * steps
        self.totals.gaps += batch * steps
        while self._ends and (self._gone(self._ends[0]) or self._ends[0][0] <= self._step):
            entry = heapq.heappop(self._ends)
            if not self._gone(entry):
                self._leave(entry[2])

    def _gone(self, entry: tuple[int, int, _Sequence]) -> bool:
        end, _, sequence = entry
        left = sequence.output_tokens - sequence.written
        return sequence not in self._running or sequence.first_step + left != end

    def _preempt(self) -> None:
        """The sequence that came last goes back to the head of the queue and is read anew."""
        newest = next(reversed(self._running))
        newest.written += self._step - newest.first_step
        newest.first_step = self._step
        self._leave(newest)
        newest.preempted_at = self.totals.seconds
        self._waiting.appendleft(newest)
        self.totals.preemptions += 1

    def _leave(self, sequence: _Sequence) -> None:
        held = sequence.written + self._step - sequence.first_step
        self._context -= sequence.prompt_tokens + held
        del self._running[sequence]

    def _spend(self, cost: Cost, times: float, decoding: int) -> None:
        """``decoding``: the sequences that wait for their next token meanwhile."""
        seconds = self.totals.spend(cost, times, self.layout.replicas)
        self.totals.gap_seconds += seconds * decoding
