"""PURE: when to doubt an engine, and how long to wait before starting a failed one again."""

from __future__ import annotations

import math

from slm_worker.engine.metrics import EngineSample

IDLE_PROBE_SECONDS = 15.0
"""Between probes of an engine without requests. A probe makes it write one token, or, while it
sleeps, say so."""
STALLED_PROBE_SECONDS = 5.0
"""An engine that has requests, or does not answer, and makes no progress, is probed sooner."""
PROBE_TIMEOUT_SECONDS = 10.0
FAILED_PROBES_UNTIL_HUNG = 2
BUSY_CORES = 0.5
BUSY_PATIENCE_SECONDS = 120.0
"""A server that answers nobody and uses more than BUSY_CORES has more to do than it can. To kill it
would drop its requests and give the others its load: vLLM's was seen silent for 20 s at a time,
on an H100, with many long answers to put into words. A loop without an end looks the same, hence a
limit."""

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
HEALTHY_RESET_SECONDS = 300.0
"""After that long without failure an engine's earlier failures are forgotten."""


class ProgressWatch:
    """Watches one engine, ready or asleep; real traffic that makes progress is proof enough."""

    def __init__(self, now_seconds: float) -> None:
        self._progress_at_seconds = now_seconds
        self._last: tuple[int, int, int] | None = None
        self._suspicious = False
        self._failed_probes = 0
        self._silent_before: tuple[float, float] | None = None
        """Time and processor time of the last sample, where that had no answer."""
        self._busy = False

    def sampled(
        self, sample: EngineSample | None, now_seconds: float, cpu_seconds: float | None = None
    ) -> None:
        """``sample`` is None where the engine did not answer; ``cpu_seconds`` is then what its
        server has used so far, where that is known."""
        if sample is None:
            self._suspicious = True
            self._weigh(now_seconds, cpu_seconds)
            return
        self._silent_before, self._busy = None, False
        work = (sample.output_tokens, sample.prompt_tokens, sample.steps)
        if self._last is not None and work != self._last:
            self._progressed(now_seconds)
        self._last = work
        self._suspicious = sample.running > 0 or sample.waiting > 0

    def probe_due(self, now_seconds: float) -> bool:
        if self._failed_probes:
            return True
        patience = STALLED_PROBE_SECONDS if self._suspicious else IDLE_PROBE_SECONDS
        return now_seconds - self._progress_at_seconds >= patience

    def probed(self, answered: bool, now_seconds: float) -> None:
        if answered:
            self._progressed(now_seconds)
        else:
            self._failed_probes += 1

    def hung(self, now_seconds: float) -> bool:
        if self._failed_probes < FAILED_PROBES_UNTIL_HUNG:
            return False
        return not self._busy or now_seconds - self._progress_at_seconds >= BUSY_PATIENCE_SECONDS

    def _weigh(self, now_seconds: float, cpu_seconds: float | None) -> None:
        """Whether a silent server was at work since the sample before."""
        before = self._silent_before
        self._silent_before = None if cpu_seconds is None else (now_seconds, cpu_seconds)
        if before is None or cpu_seconds is None:
            self._busy = False
        elif now_seconds > before[0]:
            self._busy = cpu_seconds - before[1] > BUSY_CORES * (now_seconds - before[0])

    def _progressed(self, now_seconds: float) -> None:
        self._progress_at_seconds = now_seconds
        self._failed_probes = 0


def backoff_seconds(failures: int) -> float:
    """Before the start that follows the ``failures``-th failure in a row (from 1)."""
    # The exponent is bounded because 2.0 ** failures overflows after a long time of failing.
    return min(math.ldexp(FIRST_BACKOFF_SECONDS, min(failures - 1, 16)), MAX_BACKOFF_SECONDS)
