"""Operating points: what can be tried on a pack, and what a valid window said of it."""

from __future__ import annotations

from dataclasses import dataclass

from slm_operator.pareto.workload import Workload


@dataclass(frozen=True, order=True)
class Probe:
    """A layout and rotation that can be measured."""

    layout_replicas: int
    """Replicas that are started and share the memory."""
    replicas: int
    """Replicas in rotation; with ``layout_replicas`` equal, the probe is a committed layout."""
    max_num_seqs: int

    @property
    def committed(self) -> bool:
        """Whether all started replicas take part, so that none holds memory for nothing."""
        return self.layout_replicas == self.replicas

    def __str__(self) -> str:
        name = f"{self.replicas} replica{'s' if self.replicas > 1 else ''} x {self.max_num_seqs}"
        return name if self.committed else f"{name} (of {self.layout_replicas} started)"


@dataclass(frozen=True)
class OperatingPoint:
    """One probe's measured throughput, power and latency, over one valid window."""

    probe: Probe
    output_tokens_per_second: float
    confidence_tokens_per_second: float
    """Half width of the 95 % confidence interval of the throughput."""
    power_watts: float | None
    """Mean power of the device; None where nobody can measure it."""
    ttft_p95_seconds: float | None
    itl_p95_seconds: float | None
    window_seconds: float
    saturated_fraction: float
    """Share of the window in which every replica in rotation was full with requests waiting."""
    measured_at: str
    """RFC 3339, UTC."""
    simulated: bool
    itl_p99_seconds: float | None = None
    """Known of published runs; windows measure p95."""
    preemptions_per_request: float | None = None
    """How often a request lost its KV cache and was computed again, on average."""
    energy_confidence: float | None = None
    """Half width of the 95 % confidence interval of the energy per token, as a share of it; None:
    as uncertain as the throughput."""
    workload: Workload | None = None
    """What was served in the window; None of published runs."""
    power_capped_fraction: float | None = None
    """Share of the window in which the power limit held the clocks down."""
    runs: int = 1
    """Measurements that were pooled into this one."""

    @classmethod
    def without_window(
        cls,
        probe: Probe,
        output_tokens_per_second: float,
        power_watts: float | None,
        *,
        simulated: bool,
        itl_p95_seconds: float | None = None,
        itl_p99_seconds: float | None = None,
        preemptions_per_request: float | None = None,
    ) -> OperatingPoint:
        """A point that no window of the operator's measured: published or predicted figures, taken
        as exact and saturated."""
        return cls(
            probe=probe,
            output_tokens_per_second=output_tokens_per_second,
            confidence_tokens_per_second=0.0,
            power_watts=power_watts,
            ttft_p95_seconds=None,
            itl_p95_seconds=itl_p95_seconds,
            itl_p99_seconds=itl_p99_seconds,
            window_seconds=0.0,
            saturated_fraction=1.0,
            measured_at="",
            simulated=simulated,
            preemptions_per_request=preemptions_per_request,
        )

    @property
    def joules_per_output_token(self) -> float | None:
        if self.power_watts is None or self.output_tokens_per_second <= 0:
            return None
        return self.power_watts / self.output_tokens_per_second
