"""PURE: per-process readings become the pack's cumulative counters.

Engine processes come and go, and each counts from zero; the pack's counters only ever grow. What a
process counted after its last reading and before a sudden death is lost (at most one interval).
The agent's own one-token completions, at a start and to an idle engine, are counted like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slm_worker.engine.metrics import NO_OBSERVATIONS, EngineSample, increase, merge
from slm_worker.wire import Counters, Histogram

ProcessKey = tuple[int, int]
"""Replica index and how often it was started: one engine process."""


@dataclass(frozen=True)
class EngineReading:
    """What one running process answered; ``sample`` is None where it did not in time."""

    sample: EngineSample | None
    in_rotation: bool
    max_num_seqs: int


@dataclass(frozen=True)
class Moment:
    """Everything that was read at one time."""

    at_seconds: float
    engines: Mapping[ProcessKey, EngineReading]
    router_queue: int
    energy_millijoules: int | None
    replica_starts: int
    throttled: bool = False
    """Heat, the board or its supply holds the clocks down."""
    power_capped: bool = False
    """The power limit does."""


@dataclass
class _Sums:
    output_tokens: int = 0
    prompt_tokens: int = 0
    requests_completed: int = 0
    preemptions: int = 0
    ttft: Histogram = NO_OBSERVATIONS
    itl: Histogram = NO_OBSERVATIONS

    def add(self, gained: EngineSample) -> None:
        self.output_tokens += gained.output_tokens
        self.prompt_tokens += gained.prompt_tokens
        self.requests_completed += gained.requests_completed
        self.preemptions += gained.preemptions
        self.ttft = merge(self.ttft, gained.ttft)
        self.itl = merge(self.itl, gained.itl)


class Meter:
    """Sums moments, each later than the one before, into the pack's counters."""

    def __init__(self) -> None:
        self._sums = _Sums()
        self._last: dict[ProcessKey, EngineSample] = {}
        self._energy_millijoules = 0
        self._device_millijoules: int | None = None
        self._missed_samples = 0
        self._saturated_seconds = 0.0
        self._saturated_since_seconds: float | None = None
        self._throttled_seconds = 0.0
        self._power_capped_seconds = 0.0
        self._last_at_seconds: float | None = None

    def record(self, moment: Moment) -> Counters:
        last: dict[ProcessKey, EngineSample] = {}
        for key, reading in moment.engines.items():
            before = self._last.get(key)
            if reading.sample is not None:
                self._sums.add(increase(before or EngineSample(), reading.sample))
                last[key] = reading.sample
            elif before is not None:
                last[key] = before
        self._last = last
        if any(one.in_rotation and one.sample is None for one in moment.engines.values()):
            self._missed_samples += 1
        self._add_saturated(moment)
        self._add_throttled(moment)
        return Counters(
            sampled_at_seconds=moment.at_seconds,
            output_tokens=self._sums.output_tokens,
            prompt_tokens=self._sums.prompt_tokens,
            requests_completed=self._sums.requests_completed,
            preemptions=self._sums.preemptions,
            energy_millijoules=self._energy(moment.energy_millijoules),
            saturated_seconds=self._saturated_seconds,
            throttled_seconds=self._throttled_seconds,
            power_capped_seconds=self._power_capped_seconds,
            replica_starts=moment.replica_starts,
            missed_samples=self._missed_samples,
            ttft=self._sums.ttft,
            itl=self._sums.itl,
        )

    def _add_saturated(self, moment: Moment) -> None:
        if not is_saturated(moment):
            self._saturated_since_seconds = None
            return
        if self._saturated_since_seconds is not None:
            self._saturated_seconds += moment.at_seconds - self._saturated_since_seconds
        self._saturated_since_seconds = moment.at_seconds

    def _add_throttled(self, moment: Moment) -> None:
        """A reading stands for the time since the one before."""
        if self._last_at_seconds is not None:
            passed_seconds = moment.at_seconds - self._last_at_seconds
            self._throttled_seconds += passed_seconds * moment.throttled
            self._power_capped_seconds += passed_seconds * moment.power_capped
        self._last_at_seconds = moment.at_seconds

    def _energy(self, device_millijoules: int | None) -> int | None:
        """Since the first reading; a reading that is missing now has no sum now."""
        if device_millijoules is None:
            return None
        before = self._device_millijoules
        # A device counter that went back began anew at an unknown value: what it used meanwhile
        # is unknown, and the least it can be is nothing.
        if before is not None and device_millijoules > before:
            self._energy_millijoules += device_millijoules - before
        self._device_millijoules = device_millijoules
        return self._energy_millijoules


def is_saturated(moment: Moment) -> bool:
    """Whether every replica in rotation is full, with requests waiting in it or at the router."""
    rotation = [one for one in moment.engines.values() if one.in_rotation]
    return bool(rotation) and all(_is_full(one, moment.router_queue) for one in rotation)


def _is_full(reading: EngineReading, router_queue: int) -> bool:
    sample = reading.sample
    if sample is None:
        return False
    return sample.waiting > 0 or (sample.running >= reading.max_num_seqs and router_queue > 0)
