"""A service that follows demand, on packs that serve at most what one was measured to serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from builders import h100, pack, pack_state, service
from slm_operator.api.models import SLMService
from slm_operator.api.status import CalibrationStatus, LayoutStatus, SLMServiceStatus
from slm_operator.decide import points as shown
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.demand import SAMPLE_SECONDS
from slm_operator.decide.fingerprint import fingerprint
from slm_operator.decide.snapshot import Activation, Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.points import Probe
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import Counters, LoadState, PackState, Plan, RouterState

RULES = WindowRules(min_seconds=5, max_seconds=10, warmup_seconds=1)
PLAN = Plan(generation=1, layout={"replicas": 1, "max_num_seqs": 256}, rotation=1)
POINT = h100(Probe(1, 1, 256))
OUTPUT_TOKENS = 256
CAPACITY = POINT.output_tokens_per_second / OUTPUT_TOKENS
"""Requests a second that one pack serves: 30.8."""
NOW = "2026-01-01T00:00:00Z"
SILENCE = Trouble("AgentUnreachable", "the agent does not answer")


def following(
    least: int | None = 1, most: int = 4, stabilization: str = "5m", measured: bool = True
) -> SLMService:
    """A service whose only layout is measured."""
    packs: dict[str, Any] = {"maxPacks": most, "scaleDownStabilization": stabilization}
    if least is not None:
        packs["minPacks"] = least
    wanted = service({"autoscaling": {"maxReplicasPerPack": 1} | packs})
    if not measured:
        return wanted
    known = SLMServiceStatus(
        frontier=shown.frontier([POINT], None, None),
        calibration=CalibrationStatus(
            fingerprint=fingerprint(wanted, "", pack_state()),
            phase="Done",
            chosen=LayoutStatus(replicas_per_pack=1, max_num_seqs=256),
        ),
    )
    return wanted.model_copy(update={"status": known})


@dataclass
class FakePack:
    """Serves at most its capacity; the rest waits."""

    ordinal: int
    created_at: int
    starts_in: int
    """Looks until it serves."""
    agent: int = 0
    waiting: float = 0.0
    ended: float = 0.0
    load: LoadState = field(default_factory=LoadState)
    plan: Plan = PLAN
    silent: bool = False

    @property
    def ready(self) -> bool:
        return self.starts_in <= 0

    def state(self) -> PackState:
        return pack_state(
            self.plan,
            agent_id=f"{self.ordinal}-{self.agent}",
            load=self.load,
            router_queue=int(self.waiting),
            router=RouterState(batchable=int(self.ended), in_progress=int(self.waiting)),
            counters=Counters(
                sampled_at_seconds=1.0,
                requests_completed=int(self.ended),
                output_tokens=int(self.ended) * OUTPUT_TOKENS,
            ),
        )

    def seen(self) -> Pack:
        changes: dict[str, Any] = {
            "created": f"2026-01-01T00:00:00Z-{self.created_at:06d}",
            "uid": f"p{self.ordinal}-{self.created_at}",
        }
        if self.silent:
            return pack(None, self.ordinal, silence=SILENCE, **changes)
        if not self.ready:
            return pack(None, self.ordinal, address="", **changes)
        return pack(self.state(), self.ordinal, **changes)


class Fleet:
    """A service whose Pods appear and go as decided; clients share the ready ones evenly."""

    def __init__(self, wanted: SLMService, start_looks: int = 4) -> None:
        self.service = wanted
        self.memory = Memory()
        self.looks = 0
        self.start_looks = start_looks
        self.packs: list[FakePack] = [FakePack(0, 0, 0)]
        self.told: list[tuple[str, str]] = []
        self.writes = 0
        self.activation: Activation | None = None

    def look(self, load: float = 0.0) -> Decision:
        """A sampling period passes, in which ``load`` packs' full capacity arrives."""
        self.pass_by(load)
        decision = self.decide()
        for going in decision.pods.delete:
            self.packs = [p for p in self.packs if p.ordinal != going.ordinal]
        for ordinal in decision.pods.create:
            self.packs.append(FakePack(ordinal, self.looks, self.start_looks))
        return decision

    def pass_by(self, load: float) -> None:
        """The same period, at whose end nobody looks."""
        ready = [p for p in self.packs if p.ready]
        for one in ready:
            one.waiting += load * CAPACITY * SAMPLE_SECONDS / len(ready)
            served = min(one.waiting, CAPACITY * SAMPLE_SECONDS)
            one.waiting -= served
            one.ended += served
        for one in self.packs:
            one.starts_in -= 1
        self.looks += 1

    def decide(self) -> Decision:
        packs = tuple(p.seen() for p in sorted(self.packs, key=lambda p: p.ordinal))
        seconds = self.looks * SAMPLE_SECONDS
        snapshot = Snapshot(
            self.service, NOW, packs, self.memory, seconds=seconds, activation=self.activation
        )
        decision = decide(snapshot, RULES, "t")
        self.writes += decision.status != self.service.status
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.told += [
            (e.reason, e.message) for e in decision.events if e.reason.startswith("Packs")
        ]
        return decision

    def run(self, looks: int, load: float = 0.0) -> Decision:
        for _ in range(looks):
            decision = self.look(load)
        return decision

    def ramp(self, load: float) -> Decision:
        """Demand that grows so slowly that packs keep up with it."""
        for tenth in range(3, round(load * 10) + 1):
            decision = self.run(4, tenth / 10)
        return decision

    def until_packs(self, count: int, load: float) -> Decision:
        for _ in range(40):
            decision = self.look(load)
            if len(self.packs) == count:
                return decision
        raise AssertionError(f"never {count} packs, but {self.ordinals}")

    @property
    def ordinals(self) -> list[int]:
        return sorted(p.ordinal for p in self.packs)


def scaling(decision: Decision) -> tuple[str, str]:
    found = decision.status.condition("ScalingActive")
    assert found is not None
    return found.status, found.reason


def message(decision: Decision) -> str:
    found = decision.status.condition("ScalingActive")
    assert found is not None
    return found.message
