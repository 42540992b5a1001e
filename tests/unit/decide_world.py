"""A service with one pack that serves the published H100 curve, as the operator looks at it."""

from __future__ import annotations

from builders import H100_OPT_1_3B, pack, pack_state
from slm_operator.api.models import SLMService
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, StoredProfile
from slm_operator.pareto.window import WindowRules
from slm_operator.power_ledger import PowerLedger
from slm_worker.wire import Counters, Histogram, PackState, Plan

RULES = WindowRules(min_seconds=5, max_seconds=10, warmup_seconds=1)


class World:
    """A service with one pack that follows its plans and counts as the published curve says."""

    def __init__(
        self,
        wanted: SLMService,
        max_replicas: int = 8,
        itl_seconds: float | None = None,
        rules: WindowRules = RULES,
    ) -> None:
        self.rules = rules
        self.ledger: PowerLedger | None = None
        self.service = wanted
        self.pace = 1.0
        """Throughput and power, as shares of the published ones."""
        self.profile: StoredProfile | None = None
        self.itl_seconds = itl_seconds
        self.memory = Memory()
        self.max_replicas = max_replicas
        self.plan: Plan | None = None
        self.seconds = 0.0
        self.tokens = 0.0
        self.millijoules = 0.0
        self.saturated = 0.0
        self.starts = 0
        self.settled_since = 0.0
        self.probed: list[tuple[int, int, int]] = []
        self.events: list[str] = []
        self.writes = 0

    def state(self) -> PackState:
        counters = Counters(
            sampled_at_seconds=self.seconds,
            output_tokens=int(self.tokens),
            energy_millijoules=int(self.millijoules),
            saturated_seconds=self.saturated,
            replica_starts=self.starts,
            itl=self.latencies(),
        )
        return pack_state(
            self.plan,
            clock_seconds=self.seconds,
            counters=counters,
            max_replicas=self.max_replicas,
            settled_since_seconds=self.settled_since,
        )

    def latencies(self) -> Histogram:
        if self.itl_seconds is None:
            return Histogram()
        count = int(self.tokens)
        return Histogram(
            bounds_seconds=(self.itl_seconds * 0.999, self.itl_seconds),
            cumulative=(0, count),
            count=count,
        )

    def tick(self) -> Decision:
        """A second passes, then the operator looks."""
        self.seconds += 1
        if self.plan is not None and self.plan.load is not None:
            rate, watts = H100_OPT_1_3B[self.plan.rotation, self.plan.layout.max_num_seqs]
            self.tokens += rate * self.pace
            self.millijoules += watts * self.pace * 1000
            self.saturated += 1
        now = f"2026-01-01T00:{int(self.seconds) // 60:02d}:{int(self.seconds) % 60:02d}Z"
        packs = (pack(self.state()),)
        power = self.ledger.share(self.service) if self.ledger is not None else None
        snapshot = Snapshot(
            self.service, now, packs, self.memory, profile=self.profile, power=power
        )
        decision = decide(snapshot, self.rules, "t")
        self.writes += decision.status != self.service.status
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.events += [e.reason for e in decision.events]
        for _, plan in decision.plans:
            if self.plan is None or plan.layout != self.plan.layout:
                self.starts += plan.layout.replicas
            self.plan = plan
            self.settled_since = self.seconds
            self.probed.append((plan.layout.replicas, plan.rotation, plan.layout.max_num_seqs))
        return decision

    def run(self, seconds: int) -> Decision:
        for _ in range(seconds):
            decision = self.tick()
        return decision


def condition(decision: Decision, kind: str) -> tuple[str, str, str]:
    found = decision.status.condition(kind)
    assert found is not None, kind
    return found.status, found.reason, found.message


def look(
    wanted: SLMService,
    *packs: Pack,
    memory: Memory | None = None,
    now: str = "2026-01-01T00:00:00Z",
) -> Decision:
    return decide(Snapshot(wanted, now, packs, memory or Memory()), RULES, "t")
