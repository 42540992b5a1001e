"""The simulated GPU's state: who holds memory, who runs, and the energy drawn so far.

No I/O: clock and randomness are injected.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from slm_worker.gpu.curves import Curves

DEFAULT_MEMORY_BYTES = 64 * 2**30
"""The H100 of the measurements has 64 GB."""
MAX_RUNNING = 4096
STEP_NOISE = 0.01
"""Standard deviation of the factor on each step time, so that there is something to average."""
MAX_NOISE = 0.03


class OutOfMemoryError(Exception):
    """The device has less memory left than an engine asked for."""


class SimulatedGpu:
    """``clock`` gives seconds of any monotonic clock; ``rng`` the noise of step times."""

    def __init__(
        self,
        curves: Curves,
        *,
        memory_bytes: int,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.memory_bytes = memory_bytes
        self._curves = curves
        self._clock = clock
        self._rng = rng
        self._memory: dict[int, int] = {}
        self._running: dict[int, int] = {}
        self._watts = curves.active_watts(())
        self._joules = 0.0
        self._integrated_until = clock()

    @property
    def memory_used_bytes(self) -> int:
        return sum(self._memory.values())

    @property
    def power_watts(self) -> float:
        return self._watts

    def attach(self, engine: int, memory_bytes: int) -> None:
        """Reserves memory for an engine. Raises OutOfMemoryError."""
        free = self.memory_bytes - self.memory_used_bytes
        if memory_bytes > free:
            raise OutOfMemoryError(
                f"asked for {memory_bytes:,} bytes, {free:,} of {self.memory_bytes:,} are free"
            )
        self._memory[engine] = memory_bytes

    def is_attached(self, engine: int) -> bool:
        return engine in self._memory

    def detach(self, engine: int) -> None:
        """Frees all that an engine held; nothing for one that is not attached."""
        self._memory.pop(engine, None)
        if self._running.pop(engine, None) is not None:
            self._change_power()

    def step(self, engine: int, running: int) -> float:
        """An attached engine begins a step with ``running`` sequences: how many seconds it takes.

        Zero sequences mean that the engine pauses until its next step; that takes no time.
        """
        if self._running.get(engine, 0) != running:
            if running:
                self._running[engine] = running
            else:
                del self._running[engine]
            self._change_power()
        if not running:
            return 0.0
        own = list(self._running).index(engine)
        noise = min(MAX_NOISE, max(-MAX_NOISE, self._rng.gauss(0.0, STEP_NOISE)))
        return self._curves.step_seconds(list(self._running.values()), own) * (1.0 + noise)

    def energy_millijoules(self) -> int:
        """Energy since the device began, power integrated over time."""
        self._integrate()
        return int(self._joules * 1000)

    def _change_power(self) -> None:
        self._integrate()
        self._watts = self._curves.active_watts(list(self._running.values()))

    def _integrate(self) -> None:
        now = self._clock()
        self._joules += self._watts * (now - self._integrated_until)
        self._integrated_until = now
