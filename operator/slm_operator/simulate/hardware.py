"""What requests cost a GPU: a measured curve, corrected for lengths that it was not measured at.

A curve holds for the lengths of its own requests. Longer prompts take longer to read, and longer
contexts longer to attend to at each step; both are proportional to tokens, and what a token costs
follows from the model's shape and the GPU's peaks (``slm_worker.planning``). Without a known shape
these costs are zero, and the curve is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from slm_operator.simulate.curve import Curve
from slm_worker.planning.workload import Workload, mean_context

LEAST_STEP_SHARE = 0.3
"""Of a curve's step that is left however short the contexts are: the weights are read anyway."""


@dataclass(frozen=True)
class LengthCosts:
    """What tokens cost beyond the curve: GPU time and energy above idle."""

    prompt_seconds: float = 0.0
    """For each prompt token, once."""
    prompt_joules: float = 0.0
    context_seconds: float = 0.0
    """For each token of context, in each step."""
    context_joules: float = 0.0


@dataclass(frozen=True)
class Step:
    """One decode step of one replica with contexts as long as the curve's."""

    seconds: float
    joules: float
    """Above idle."""


@dataclass(frozen=True)
class Hardware:
    """One GPU with one model."""

    curve: Curve
    measured_at: Workload
    """Mean lengths of the requests that the curve was measured with."""
    costs: LengthCosts
    kv_tokens: Mapping[int, int] = field(default_factory=dict)
    """KV cache of each replica in tokens, by replicas of the layout; missing: without bound."""
    kv_shares: Mapping[int, float] = field(default_factory=dict)
    """Where it has none: share of a replica's KV cache that one sequence of the curve took, by
    replicas of the layout."""

    @property
    def idle_watts(self) -> float:
        return self.curve.idle_watts

    @cached_property
    def context_tokens(self) -> float:
        """What a running sequence of the curve held on average."""
        return mean_context(self.measured_at)

    def step(self, running_replicas: int, batch: int) -> Step:
        """Of a replica with ``batch`` sequences while ``running_replicas`` run alike. The prompts
        that were read meanwhile when the curve was measured are taken out of it: they are
        charged one by one."""
        together = running_replicas * batch
        seconds = together / self.curve.tokens_per_second(running_replicas, batch)
        above_idle = self.curve.watts(running_replicas, batch) - self.idle_watts
        joules = above_idle / running_replicas * seconds
        read = together * self.measured_at.prompt_tokens / self.measured_at.output_tokens
        return Step(
            max(LEAST_STEP_SHARE * seconds, seconds - read * self.costs.prompt_seconds),
            max(
                LEAST_STEP_SHARE * joules,
                joules - read / running_replicas * self.costs.prompt_joules,
            ),
        )

    def step_seconds(self, step: Step, replicas: int, batch: float, context_tokens: float) -> float:
        """``step`` with sequences that hold ``context_tokens`` together; ``replicas`` share the
        memory's bandwidth."""
        extra = context_tokens - batch * self.context_tokens
        corrected = step.seconds + replicas * self.costs.context_seconds * extra
        return max(LEAST_STEP_SHARE * step.seconds, corrected)

    def step_joules(self, step: Step, batch: float, context_tokens: float) -> float:
        extra = context_tokens - batch * self.context_tokens
        return max(LEAST_STEP_SHARE * step.joules, step.joules + self.costs.context_joules * extra)

    def kv_usage(self, replicas: int, running: int, context_tokens: float) -> float:
        """Of one of ``replicas``, 0 to 1; 0 where nothing is known of it."""
        held = self.kv_tokens.get(replicas)
        share = context_tokens / held if held else running * self.kv_shares.get(replicas, 0.0)
        return min(1.0, share)

    def saturated_batch(self, replicas: int, max_num_seqs: int, load: Workload) -> int:
        """Sequences that a full replica runs: the batch, or what its KV cache holds."""
        held = self.kv_tokens.get(replicas)
        if held is None:
            return max_num_seqs
        return max(1, min(max_num_seqs, int(held / (load.prompt_tokens + load.output_tokens))))

    def saturated(self, replicas: int, max_num_seqs: int, load: Workload) -> tuple[float, float]:
        """Output tokens/s and watts of a layout that is full of requests like ``load``: what a
        calibration with them would measure."""
        batch = self.saturated_batch(replicas, max_num_seqs, load)
        context = batch * mean_context(load)
        step = self.step(replicas, batch)
        seconds = self.step_seconds(step, replicas, batch, context)
        joules = self.step_joules(step, batch, context)
        per_second = 1 / (
            load.output_tokens * seconds / (replicas * batch)
            + load.prompt_tokens * self.costs.prompt_seconds
        )
        request_joules = (
            load.output_tokens * joules / batch + load.prompt_tokens * self.costs.prompt_joules
        )
        return per_second * load.output_tokens, self.idle_watts + per_second * request_joules
