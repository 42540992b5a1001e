"""When a probe is due and what its results mean. Pure; the caller gives the time."""

from dataclasses import dataclass, replace

from slm_dev.local_node.spec import ProbeSpec


@dataclass(frozen=True)
class ProbeTracker:
    """Counts equal results in a row.

    `verdict` is None until a threshold is reached, and stays until the other one is.
    Times are seconds of one monotonic clock.
    """

    spec: ProbeSpec
    due_at: float
    verdict: bool | None = None
    last_result: bool | None = None
    in_a_row: int = 0

    @classmethod
    def begin(cls, spec: ProbeSpec, now: float) -> "ProbeTracker":
        """A probe of a container that has just started."""
        return cls(spec, due_at=now + spec.initial_delay_seconds)

    def observe(self, succeeded: bool, now: float) -> "ProbeTracker":
        """The state after a check that ended now."""
        in_a_row = self.in_a_row + 1 if succeeded == self.last_result else 1
        threshold = self.spec.success_threshold if succeeded else self.spec.failure_threshold
        return replace(
            self,
            # A check that took longer than the period is followed by the next one at once.
            due_at=max(now, self.due_at + self.spec.period_seconds),
            verdict=succeeded if in_a_row >= threshold else self.verdict,
            last_result=succeeded,
            in_a_row=in_a_row,
        )
