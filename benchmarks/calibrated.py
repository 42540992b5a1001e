"""The status of a service whose knee is found, as the operator's own passes come to it.

So that a benchmark of many services need not calibrate each: the decisions are real, and the pack
serves as published (OPT-1.3B on an H100, 256 sequences a replica), second by second, simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.standin_packs import settled_state
from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cli.local.passes import Local, one_pass
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import Counters, Histogram, LoadState, PackState, Plan

PUBLISHED = ((7886.7, 335.1), (10641.9, 443.1), (10660.0, 457.0), (10678.7, 471.0))
"""Output tokens/s and W of 1 to 4 replicas; three lie between two and four."""
MOST_SECONDS = 3600


def calibrated_status(spec: Mapping[str, Any], ends: datetime) -> SLMServiceStatus:
    """What the status says once a service with ``spec`` has found its knee, at ``ends``.

    Raises TimeoutError when the search does not end.
    """
    service = SLMService.from_object(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": "calibrated", "namespace": "default", "uid": "", "generation": 1},
            "spec": spec,
        }
    )
    local, pack = Local(service), _Serving()
    for second in range(MOST_SECONDS):
        now = ends - timedelta(seconds=MOST_SECONDS - second)
        local, decision = one_pass(local, pack.state(), WindowRules(), _text(now))
        for _, plan in decision.plans:
            pack.plan = plan
        if local.found and not decision.plans:
            return local.status
        pack.second()
    raise TimeoutError(f"the search has not ended after {MOST_SECONDS} s")


@dataclass
class _Serving:
    """A pack that follows its plan at once and serves what its replicas can while it is loaded."""

    plan: Plan | None = None
    seconds: int = 0
    tokens: float = 0.0
    joules: float = 0.0
    loaded_seconds: int = 0

    def second(self) -> None:
        self.seconds += 1
        if self.plan is None or self.plan.load is None:
            return
        tokens, watts = PUBLISHED[min(self.plan.rotation, len(PUBLISHED)) - 1]
        self.loaded_seconds += 1
        self.tokens += tokens
        self.joules += watts

    def state(self) -> PackState:
        state = settled_state("stand-in", self.plan, float(self.seconds))
        load = self.plan.load if self.plan else None
        requests = int(self.tokens / (load.output_tokens if load else 1))
        return state.model_copy(
            update={
                "load": LoadState(in_flight=2048 if load else 0),
                "counters": Counters(
                    sampled_at_seconds=self.seconds,
                    output_tokens=int(self.tokens),
                    prompt_tokens=requests * (load.prompt_tokens if load else 0),
                    requests_completed=requests,
                    energy_millijoules=int(1000 * self.joules),
                    saturated_seconds=self.loaded_seconds,
                    ttft=Histogram(bounds_seconds=(0.5,), cumulative=(requests,), count=requests),
                    itl=Histogram(
                        bounds_seconds=(0.05,),
                        cumulative=(int(self.tokens),),
                        count=int(self.tokens),
                    ),
                ),
            }
        )


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
