"""How long a container that ended waits before it is started again. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartBackoff:
    """The kubelet's rule: at once after the first end, then base, doubled each time, to a cap.

    A container that ran for twice the cap starts afresh. Durations are in seconds; the kubelet's
    own are 10 and 300.
    """

    base_seconds: float = 10
    cap_seconds: float = 300
    delay_seconds: float = 0

    def after_run(self, ran_seconds: float) -> "RestartBackoff":
        """The state after one more run; its `delay_seconds` is the wait for the run after next."""
        if self.delay_seconds == 0 or ran_seconds >= 2 * self.cap_seconds:
            following = self.base_seconds
        else:
            following = min(2 * self.delay_seconds, self.cap_seconds)
        return RestartBackoff(self.base_seconds, self.cap_seconds, following)

    def wait_seconds(self, ran_seconds: float) -> float:
        """The wait before the next run, given how long the last one lasted."""
        return 0 if ran_seconds >= 2 * self.cap_seconds else self.delay_seconds
