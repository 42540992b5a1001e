"""PURE: what a GPU's own instruments say: an exact energy counter, power and use once a second."""

from __future__ import annotations

from collections.abc import Callable

SAMPLE_SECONDS = 1.0
"""NVML's power reading is a mean over a second, renewed each second (NVIDIA's NVML API reference,
nvmlDeviceGetPowerUsage, Ampere and later): it lags behind the load. The energy counter does not."""


class PowerMeter:
    """Integrates power that is constant between two calls of :meth:`change`.

    ``clock``: seconds of any monotonic clock; ``watts``: what the GPU draws at the start.
    """

    def __init__(self, clock: Callable[[], float], watts: float) -> None:
        self._clock = clock
        self._watts = watts
        self._busy = False
        self._joules = 0.0
        self._busy_seconds = 0.0
        self._until = self._sampled_at = clock()
        self._sampled_joules = self._sampled_busy_seconds = 0.0
        self._sample_watts = watts
        self._sample_busy = 0.0

    def change(self, watts: float, *, busy: bool) -> None:
        """From now on the GPU draws ``watts``, and some kernel runs (or none)."""
        self._advance()
        self._watts, self._busy = watts, busy

    @property
    def joules(self) -> float:
        """Energy since the start, exact to now."""
        self._advance()
        return self._joules

    @property
    def watts(self) -> float:
        """The latest sample: the mean power of the last whole second."""
        self._advance()
        return self._sample_watts

    @property
    def utilization(self) -> float:
        """Share of the last whole second in which some kernel ran, 0 to 1."""
        self._advance()
        return self._sample_busy

    def _advance(self) -> None:
        now = self._clock()
        whole = int((now - self._sampled_at) / SAMPLE_SECONDS)
        if whole:
            self._integrate(self._sampled_at + SAMPLE_SECONDS)
            self._sample()
            if whole > 1:  # seconds in which nothing changed: the last one is like the others
                self._integrate(self._sampled_at + (whole - 2) * SAMPLE_SECONDS)
                self._sampled_at = self._until
                self._sampled_joules, self._sampled_busy_seconds = self._joules, self._busy_seconds
                self._integrate(self._sampled_at + SAMPLE_SECONDS)
                self._sample()
        self._integrate(now)

    def _integrate(self, until: float) -> None:
        seconds = until - self._until
        self._joules += self._watts * seconds
        self._busy_seconds += seconds * self._busy
        self._until = until

    def _sample(self) -> None:
        self._sample_watts = (self._joules - self._sampled_joules) / SAMPLE_SECONDS
        self._sample_busy = (self._busy_seconds - self._sampled_busy_seconds) / SAMPLE_SECONDS
        self._sampled_joules, self._sampled_busy_seconds = self._joules, self._busy_seconds
        self._sampled_at = self._until
