"""PURE: continuous batching as vLLM does it, one step at a time.

At most ``max_num_seqs`` sequences run, the rest wait in order of arrival. Each step gives every
running sequence one token; a sequence that ends leaves its slot to the next. The KV cache bounds
the tokens that running sequences hold: when it is full, the sequence that came last goes back to
the head of the queue and keeps what it has written (a preemption).

The work of a step grows with the sequences that start or end in it, not with those that run.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

PREFILL_TOKENS_PER_SECOND = 100_000.0
"""How fast a prompt is read: 2 FLOP for each of 1.3e9 parameters and token makes 2.6e14 FLOP/s,
about a quarter of an H100's dense 16-bit peak. It delays a sequence's own first token only: the
measured pace of a step has the prefill of others in it."""
KV_WATERMARK = 0.01
"""Share of the KV cache that admission leaves free, lest what it lets in is preempted at once."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One request. ``arrived_seconds``: any monotonic clock."""

    prompt_tokens: int
    output_tokens: int
    arrived_seconds: float
    kept_tokens: int = 0
    """Tokens written before it last began to run."""
    first_step: int = 0
    """Number of the step that gives its next token after it began to run."""
    finish_step: int = 0


@dataclass(frozen=True)
class StepResult:
    tokens: int
    """Tokens written in this step."""
    started: list[Sequence] = field(default_factory=list)
    """Sequences whose very first token this was."""
    finished: list[Sequence] = field(default_factory=list)


class Scheduler:
    """``kv_capacity_tokens`` must hold the longest sequence; ``add`` relies on it."""

    def __init__(self, *, max_num_seqs: int, kv_capacity_tokens: int) -> None:
        self.preemptions = 0
        self._max_num_seqs = max_num_seqs
        self._all_capacity = self._capacity = kv_capacity_tokens
        self._kv_tokens = 0
        self._step = 0
        self._writing = 0
        self._waiting: OrderedDict[Sequence, None] = OrderedDict()
        self._running: dict[Sequence, None] = {}
        self._admitted: list[Sequence] = []
        # By step number. Entries of sequences that left since are passed over.
        self._starting: defaultdict[int, dict[Sequence, None]] = defaultdict(dict)
        self._finishing: defaultdict[int, dict[Sequence, None]] = defaultdict(dict)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return min(1.0, self._kv_tokens / self._capacity)

    def limit_kv(self, share: float) -> None:
        """From now on only this share of the KV cache counts, more than 0 to 1; one sequence runs
        in any case."""
        self._capacity = max(1, int(share * self._all_capacity))

    def add(self, sequence: Sequence) -> None:
        self._waiting[sequence] = None

    def remove(self, sequence: Sequence) -> bool:
        """Drops a sequence wherever it is; False when it had ended already."""
        if sequence in self._running:
            self._leave(sequence)
            return True
        if sequence in self._waiting:
            del self._waiting[sequence]
            return True
        return False

    def written(self, sequence: Sequence) -> int:
        """Tokens that a sequence has so far, also after its end."""
        if sequence not in self._running:
            return sequence.kept_tokens
        return sequence.kept_tokens + self._written_in_this_run(sequence)

    def admit(self) -> None:
        """Before a step: makes room in the KV cache, or fills free slots from the queue."""
        if self._preempt():
            return
        limit = self._capacity * (1 - KV_WATERMARK)
        while self._waiting and len(self._running) < self._max_num_seqs:
            sequence = next(iter(self._waiting))
            context = sequence.prompt_tokens + sequence.kept_tokens
            if self._running and self._kv_tokens + context + len(self._running) + 1 > limit:
                return
            del self._waiting[sequence]
            self._running[sequence] = None
            self._kv_tokens += context
            # Unknown until the step's length is; no step has this number.
            sequence.first_step = sequence.finish_step = -1
            self._admitted.append(sequence)

    def begin_step(self, step_seconds: float) -> None:
        """The step's length decides in how many steps the prompts just admitted are read."""
        for sequence in self._admitted:
            if sequence not in self._running:
                continue
            context = sequence.prompt_tokens + sequence.kept_tokens
            prefill_seconds = context / PREFILL_TOKENS_PER_SECOND
            sequence.first_step = self._step + max(1, math.ceil(prefill_seconds / step_seconds))
            remaining = sequence.output_tokens - sequence.kept_tokens
            sequence.finish_step = sequence.first_step + remaining - 1
            self._starting[sequence.first_step][sequence] = None
            self._finishing[sequence.finish_step][sequence] = None
        self._admitted.clear()

    def end_step(self) -> StepResult:
        self._step += 1
        started = [
            sequence
            for sequence in self._starting.pop(self._step, ())
            if sequence in self._running and sequence.first_step == self._step
        ]
        self._writing += len(started)
        tokens = self._writing
        self._kv_tokens += tokens
        finished = [
            sequence
            for sequence in self._finishing.pop(self._step, ())
            if sequence in self._running and sequence.finish_step == self._step
        ]
        first_ever = [sequence for sequence in started if sequence.kept_tokens == 0]
        for sequence in finished:
            self._leave(sequence)
        return StepResult(tokens, first_ever, finished)

    def _preempt(self) -> bool:
        preempted = False
        while len(self._running) > 1 and self._kv_tokens + len(self._running) > self._capacity:
            newest = next(reversed(self._running))
            self._leave(newest)
            self._waiting[newest] = None
            self._waiting.move_to_end(newest, last=False)
            self.preemptions += 1
            preempted = True
        return preempted

    def _leave(self, sequence: Sequence) -> None:
        self._kv_tokens -= sequence.prompt_tokens + self.written(sequence)
        written = self._written_in_this_run(sequence)
        if written:
            self._writing -= 1
        sequence.kept_tokens += written
        del self._running[sequence]

    def _written_in_this_run(self, sequence: Sequence) -> int:
        if sequence.first_step < 0:
            return 0
        return max(0, self._step - sequence.first_step + 1)
