"""The simulated GPU's state: who holds memory, who runs, which faults last, the energy drawn.

No I/O: clock and randomness are injected.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slm_worker.gpu.simulated.faults import (
    DEFAULT_KV_SHARE,
    GPU_LOST_MESSAGE,
    Ending,
    FaultKind,
    Injection,
)
from slm_worker.gpu.simulated.meter import PowerMeter

MAX_RUNNING = 4096
STEP_NOISE = 0.01
"""Standard deviation of the factor on each step time, so that there is something to average."""
MAX_NOISE = 0.03
WARM_UP_STEPS = 20
WARM_UP_FACTOR = 3.0
"""An engine's first step takes three times as long (kernels are compiled and loaded when they are
first used), the following ones less and less, until WARM_UP_STEPS have passed. A choice, not a
measurement: it makes a window that starts too early visibly wrong."""
STALL_POLL_SECONDS = 0.2
"""How often a hung engine asks again, so that healing reaches it."""


class Pace(Protocol):
    """How fast replicas of one model run on one GPU, and what it draws then.

    ``batches``: the running sequences of every active replica, each >= 1.
    """

    def step_seconds(self, batches: Sequence[int], own: int) -> float:
        """Time of one step of the replica at index ``own``."""

    def active_watts(self, batches: Sequence[int]) -> float:
        """Power of the whole GPU with these active replicas."""


class OutOfMemoryError(Exception):
    """The device has less memory left than an engine asked for."""


class NotUsableError(Exception):
    """The device takes no engine now; ``reason`` is MpsNotReady or GpuLost."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoSuchEngineError(Exception):
    """No engine with that process id is attached."""


@dataclass(frozen=True)
class Step:
    """What one step takes."""

    seconds: float
    stalled: bool = False
    """The engine hangs: no token comes of this time."""
    kv_share: float = 1.0
    """Share of its KV cache that the engine may use."""


@dataclass
class _Engine:
    pid: int
    pace: Pace
    memory_bytes: int
    running: int = 0
    steps: int = 0
    hung_until: float = -math.inf
    short_of_kv_until: float = -math.inf
    kv_share: float = 1.0


@dataclass
class _PendingStarts:
    """Faults that wait for engines to start."""

    slow: int = 0
    slow_seconds: float = 0.0
    out_of_memory: int = 0


@dataclass
class MpsFaults:
    """What the device's MPS says: faulted from a fault until it is told to recover."""

    faulted: bool = False
    count: int = 0
    suspect_pids: tuple[int, ...] = ()
    ended: set[int] = field(default_factory=set)
    """Engines that the fault ended and that still hold the device."""


class SimulatedGpu:
    """``clock`` gives seconds of any monotonic clock; ``rng`` the noise of step times.

    Engines are numbered by their caller. ``idle_watts``: power while nobody runs.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        idle_watts: float,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.memory_bytes = memory_bytes
        self.meter = PowerMeter(clock, idle_watts)
        self.mps = MpsFaults()
        self.lost_at_seconds: float | None = None
        """Clock at which the GPU was lost; None while it is there."""
        self._idle_watts = idle_watts
        self._clock = clock
        self._rng = rng
        self._engines: dict[int, _Engine] = {}
        self._active: dict[int, _Engine] = {}
        self._starts = _PendingStarts()

    @property
    def memory_used_bytes(self) -> int:
        return sum(engine.memory_bytes for engine in self._engines.values())

    @property
    def pids(self) -> Mapping[int, int]:
        """The process of each attached engine, by its number."""
        return {number: engine.pid for number, engine in self._engines.items()}

    @property
    def process_memory_bytes(self) -> Mapping[int, int]:
        """By process id."""
        memory: dict[int, int] = {}
        for engine in self._engines.values():
            memory[engine.pid] = memory.get(engine.pid, 0) + engine.memory_bytes
        return memory

    def attach(self, number: int, pid: int, pace: Pace, memory_bytes: int) -> float:
        """Reserves memory for an engine; how many seconds more than usual its start takes.

        Raises OutOfMemoryError and NotUsableError.
        """
        if self.lost_at_seconds is not None:
            raise NotUsableError("GpuLost", GPU_LOST_MESSAGE)
        if self.mps.ended:
            raise NotUsableError(
                "MpsNotReady", f"{len(self.mps.ended)} clients of before the fault are still there"
            )
        if self._starts.out_of_memory:
            self._starts.out_of_memory -= 1
            raise OutOfMemoryError("SIMULATED fault: no memory for this start")
        self._reserve(memory_bytes, self.memory_bytes - self.memory_used_bytes)
        self._engines[number] = _Engine(pid, pace, memory_bytes)
        if not self._starts.slow:
            return 0.0
        self._starts.slow -= 1
        return self._starts.slow_seconds

    def is_attached(self, number: int) -> bool:
        return number in self._engines

    def resize(self, number: int, memory_bytes: int) -> None:
        """An attached engine holds this much from now on. Raises OutOfMemoryError."""
        engine = self._engines[number]
        free = self.memory_bytes - self.memory_used_bytes + engine.memory_bytes
        self._reserve(memory_bytes, free)
        engine.memory_bytes = memory_bytes

    def detach(self, number: int) -> None:
        """Frees all that an engine held; nothing for one that is not attached."""
        self.mps.ended.discard(number)
        if self._engines.pop(number, None) is not None:
            self._pause(number)

    def step(self, number: int, running: int) -> Step:
        """An attached engine begins a step with ``running`` sequences.

        Zero sequences mean that the engine pauses until its next step; that takes no time.
        """
        engine, now = self._engines[number], self._clock()
        kv_share = engine.kv_share if now < engine.short_of_kv_until else 1.0
        if not running:
            self._pause(number)
            return Step(0.0, kv_share=kv_share)
        if now < engine.hung_until:
            self._pause(number)
            return Step(min(STALL_POLL_SECONDS, engine.hung_until - now), True, kv_share)
        if engine.running != running:
            engine.running = running
            self._active[number] = engine
            self._change_power()
        batches = [one.running for one in self._active.values()]
        own = list(self._active).index(number)
        seconds = engine.pace.step_seconds(batches, own) * self._noise() * _warm_up(engine.steps)
        engine.steps += 1
        return Step(seconds, kv_share=kv_share)

    def release(self, pids: Collection[int]) -> None:
        """These processes' engines hold nothing from now on."""
        for number in self._numbers(pids):
            self.detach(number)

    def inject(self, injection: Injection) -> Mapping[int, Ending]:
        """Lets a fault happen; which engines have to end by it. Raises NoSuchEngineError."""
        targets = list(self._engines)
        if injection.pid is not None:
            targets = self._numbers([injection.pid])
            if not targets:
                held = sorted(engine.pid for engine in self._engines.values())
                raise NoSuchEngineError(
                    f"pid {injection.pid} is no engine on this GPU: use one of {held}"
                )
        now = self._clock()
        until = math.inf if injection.seconds is None else now + injection.seconds
        match injection.kind:
            case FaultKind.SLOW_START:
                self._starts.slow = injection.starts or 1
                self._starts.slow_seconds = injection.seconds or 0.0
            case FaultKind.START_OUT_OF_MEMORY:
                self._starts.out_of_memory = injection.starts or 1
            case FaultKind.HANG:
                for number in targets:
                    self._engines[number].hung_until = until
            case FaultKind.PREEMPTION_STORM:
                for number in targets:
                    self._engines[number].short_of_kv_until = until
                    self._engines[number].kv_share = injection.kv_share or DEFAULT_KV_SHARE
            case FaultKind.HEAL:
                self._heal()
            case FaultKind.CRASH | FaultKind.OUT_OF_MEMORY:
                return self._end(dict.fromkeys(targets, Ending(injection.kind.value)))
            case FaultKind.MPS_FAULT:
                return self._fault(injection.pid)
            case FaultKind.GPU_LOST:
                self.lost_at_seconds = now
                return self._end(dict.fromkeys(targets, Ending.GPU_LOST))
        return {}

    def recover_mps(self) -> None:
        """Takes new engines again, if those that a fault ended are gone; else nothing."""
        if not self.mps.ended:
            self.mps.faulted, self.mps.suspect_pids = False, ()

    def _fault(self, culprit: int | None) -> Mapping[int, Ending]:
        self.mps.faulted = True
        self.mps.count += 1
        self.mps.suspect_pids = () if culprit is None else (culprit,)
        self.mps.ended = set(self._engines)
        return self._end(
            {
                number: Ending.MPS_CULPRIT if engine.pid == culprit else Ending.MPS_BYSTANDER
                for number, engine in self._engines.items()
            }
        )

    def _end(self, endings: Mapping[int, Ending]) -> Mapping[int, Ending]:
        """Their kernels stop at once; their memory is free when their processes are gone."""
        for number in endings:
            self._engines[number].hung_until = math.inf
            self._pause(number)
        return endings

    def _heal(self) -> None:
        self._starts = _PendingStarts()
        self.lost_at_seconds = None
        for engine in self._engines.values():
            engine.hung_until = engine.short_of_kv_until = -math.inf

    def _numbers(self, pids: Collection[int]) -> list[int]:
        return [number for number, engine in self._engines.items() if engine.pid in pids]

    def _reserve(self, wanted_bytes: int, free_bytes: int) -> None:
        if wanted_bytes > free_bytes:
            raise OutOfMemoryError(
                f"asked for {wanted_bytes:,} bytes, {free_bytes:,} of {self.memory_bytes:,} "
                "are free"
            )

    def _pause(self, number: int) -> None:
        engine = self._active.pop(number, None)
        if engine is not None:
            engine.running = 0
            self._change_power()

    def _noise(self) -> float:
        return 1.0 + min(MAX_NOISE, max(-MAX_NOISE, self._rng.gauss(0.0, STEP_NOISE)))

    def _change_power(self) -> None:
        """Engines of unlike models count for equal parts."""
        active = list(self._active.values())
        batches = [engine.running for engine in active]
        paces = {id(engine.pace): engine.pace for engine in active}
        watts = {key: pace.active_watts(batches) for key, pace in paces.items()}
        mean = sum(watts[id(engine.pace)] for engine in active) / len(active) if active else None
        self.meter.change(self._idle_watts if mean is None else mean, busy=bool(active))


def _warm_up(steps: int) -> float:
    """The factor on an engine's step after it has made ``steps``."""
    return 1.0 + (WARM_UP_FACTOR - 1.0) * max(0.0, 1.0 - steps / WARM_UP_STEPS)
