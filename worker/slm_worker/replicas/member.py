"""One replica of the layout over its restarts: what is known of it, and how it is reported."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from slm_worker.engine.metrics import EngineSample
from slm_worker.replicas.health import ProgressWatch
from slm_worker.replicas.planner import Observed, Settings
from slm_worker.replicas.replica import EngineRun
from slm_worker.wire import Problem, ReplicaPhase, ReplicaState

ANSWERING = frozenset({ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.ASLEEP})
"""Phases in which the engine's server answers, if not with tokens."""


@dataclass
class Replica:
    index: int
    settings: Settings
    phase: ReplicaPhase
    starts: int
    run: EngineRun | None = None
    admitted: bool = False
    turning: bool = False
    """Whether it is falling asleep or waking."""
    watch: ProgressWatch | None = None
    last_sample: EngineSample | None = None
    in_flight: int = 0
    """Requests that the router has given it, when it was last asked."""
    problem: Problem | None = None
    failures: int = 0
    failed_in_company: bool = False
    """Since it was last ready: it failed while others started, which counts as no failure of its
    own."""
    start_seconds: float | None = None
    ready_at_seconds: float = 0.0
    drain_until_seconds: float = 0.0
    retry_at_seconds: float = 0.0
    starting: asyncio.Task[None] | None = None
    probing: asyncio.Task[None] | None = None

    @property
    def answering(self) -> bool:
        return self.run is not None and self.phase in ANSWERING

    @property
    def being_probed(self) -> bool:
        return self.probing is not None and not self.probing.done()

    def observed(self) -> Observed:
        return Observed(
            index=self.index,
            phase=self.phase,
            settings=self.settings,
            admitted=self.admitted,
            idle=self.in_flight == 0,
            drain_until_seconds=self.drain_until_seconds,
            starts_alone=self.failures > 0 or self.failed_in_company,
            retry_at_seconds=self.retry_at_seconds,
            turning=self.turning,
        )

    def state(self) -> ReplicaState:
        sample = self.last_sample
        return ReplicaState(
            index=self.index,
            phase=self.phase,
            in_rotation=self.admitted,
            max_num_seqs=self.settings.max_num_seqs,
            kv_cache_bytes=self.settings.kv_cache_bytes,
            pid=self.run.process.pid if self.run else None,
            starts=self.starts,
            failures=self.failures,
            start_seconds=self.start_seconds,
            running=sample.running if sample else None,
            waiting=sample.waiting if sample else None,
            in_flight=self.in_flight if self.answering else None,
            problem=self.problem,
        )
