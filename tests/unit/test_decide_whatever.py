"""Whatever is edited, fails or falls silent: each pass decides, and within the spec's bounds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from builders import pack, pack_state, service
from slm_operator.api.models import SLMService
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Activation, Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import Counters, PackState, Plan, Problem, ReplicaPhase, RouterState

RULES = WindowRules(min_seconds=2, max_seconds=3, warmup_seconds=0)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
PASSES = 250
ALMOST_ALWAYS = 0.99


def drawn_spec(draw: random.Random) -> dict[str, Any]:
    """What a user may ask for."""
    most = draw.randint(1, 6)
    autoscaling: dict[str, Any] = {
        "maxReplicasPerPack": most,
        "minReplicasPerPack": draw.choice([1, 1, draw.randint(1, most)]),
        "mode": draw.choice(["Auto", "Auto", "Recommend"]),
        "calibration": {"when": draw.choice(["OnStart", "OnStart", "Live", "Never"])},
    }
    if draw.random() < 0.4:
        autoscaling["powerBudgetWatts"] = draw.choice([300, 440])
    engine: dict[str, Any] = {"kind": "Simulated"}
    if draw.random() < 0.5:
        engine["maxNumSeqs"] = draw.choice([32, 64, 256, 512])
    if draw.random() < 0.1:
        return {"engine": engine, "replicasPerPack": most, "autoscaling": None}
    if draw.random() < 0.5:
        return {"engine": engine, "packs": draw.randint(1, 3), "autoscaling": autoscaling}
    bounds = {"minPacks": draw.choice([0, 1]), "maxPacks": draw.randint(1, 3)}
    return {"engine": engine, "autoscaling": autoscaling | bounds}


@dataclass
class Served:
    """A pack that follows its plans, saturated most of the time."""

    uid: str
    fits: int
    plan: Plan | None = None
    since_seconds: float = 0.0
    tokens: float = 0.0
    saturated_seconds: float = 0.0
    starts: int = 0
    failing: str = ""

    def state(self, seconds: float, draw: random.Random) -> PackState:
        if self.plan is not None and (self.plan.load or draw.random() < 0.9):
            gained = 11_000 * (1 - 0.4**self.plan.rotation) * draw.gauss(1, 0.02)
            self.tokens += gained
            self.saturated_seconds += 1
        counters = Counters(
            sampled_at_seconds=seconds,
            output_tokens=int(self.tokens),
            energy_millijoules=int(self.tokens * 40),
            saturated_seconds=self.saturated_seconds,
            replica_starts=self.starts,
            requests_completed=int(self.tokens / 256),
        )
        state = pack_state(
            self.plan,
            agent_id=self.uid,
            clock_seconds=seconds,
            settled_since_seconds=self.since_seconds,
            max_replicas=self.fits,
            counters=counters,
            router=RouterState(batchable=int(self.tokens / 256), in_progress=0),
        )
        if self.plan is None or not self.failing:
            return state
        problem = Problem(reason=self.failing, message="so it is", since_seconds=0.0)
        failed = {"phase": ReplicaPhase.FAILED, "failures": 3, "problem": problem}
        replicas = tuple(r.model_copy(update=failed) for r in state.replicas)
        return state.model_copy(update={"replicas": replicas, "settled": False})

    def told(self, plan: Plan, seconds: float) -> None:
        if self.plan is None or self.plan.layout != plan.layout:
            self.starts += plan.layout.replicas
        self.plan, self.since_seconds = plan, seconds


class Anything:
    """A service of which everything changes at times, by a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.service = service(drawn_spec(self.draw))
        self.memory, self.seconds, self.made = Memory(), 0.0, 0
        self.packs: dict[int, Served] = {}

    def rarely(self, chance: float = 1 - ALMOST_ALWAYS) -> bool:
        return self.draw.random() < chance

    def tick(self) -> Decision:
        self.seconds += self.draw.choice([1, 1, 1, 1, 15, 600 if self.rarely(0.05) else 1])
        self.seconds += 90_000 if self.rarely(0.002) else 0
        if self.rarely(0.02):
            status, generation = self.service.status, self.service.generation + 1
            edited = service(drawn_spec(self.draw), generation=generation)
            self.service = edited.model_copy(update={"status": status})
        if self.rarely():
            self.memory = Memory()
        now = f"{BEGAN + timedelta(seconds=self.seconds):%Y-%m-%dT%H:%M:%SZ}"
        seen = tuple(self.seen(ordinal) for ordinal in sorted(self.packs))
        activation = Activation(port=20000, address="10.0.0.9")
        follows = activation if self.service.follows_demand else None
        snapshot = Snapshot(
            self.service, now, seen, self.memory, seconds=self.seconds, activation=follows
        )
        decision = decide(snapshot, RULES, "t")
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.follow(decision)
        return decision

    def seen(self, ordinal: int) -> Pack:
        served = self.packs[ordinal]
        if self.rarely():
            served.failing = self.draw.choice(["OutOfMemory", "EngineExited"])
        elif self.rarely(0.1):
            served.failing = ""
        found = pack(served.state(self.seconds, self.draw), ordinal, uid=served.uid)
        if self.rarely(0.02):
            found = replace(found, agent=None, silence=Trouble("AgentUnreachable", "it is silent"))
        return replace(found, ready=served.plan is not None, created="2026-01-01T00:00:00Z")

    def follow(self, decision: Decision) -> None:
        for one, plan in decision.plans:
            self.packs[one.ordinal].told(plan, self.seconds)
        for going in decision.pods.delete:
            self.packs.pop(going.ordinal, None)
        for ordinal in decision.pods.create:
            self.made += 1
            self.packs[ordinal] = Served(f"u{self.made}", self.draw.choice([8, 8, 8, 3]))


def wrong(wanted: SLMService, plan: Plan, fits: int) -> list[str]:
    """What of a plan the spec or the GPU does not allow."""
    bounds, layout = wanted.autoscaling, plan.layout
    fixed = wanted.spec.replicas_per_pack
    fewest = fixed or bounds.min_replicas_per_pack
    most = min(fixed or bounds.max_replicas_per_pack, fits)
    given = wanted.spec.engine.max_num_seqs
    checks = {
        f"fewer than {fewest}": layout.replicas < fewest,
        f"more than {most}": layout.replicas > most,
        f"another batch than {given}": given is not None and layout.max_num_seqs != given,
        "more in rotation than started": plan.rotation > layout.replicas,
    }
    return [what for what, so in checks.items() if so]


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_each_pass_decides_and_plans_stay_within_the_spec(seed: int) -> None:
    world = Anything(seed)
    for _ in range(PASSES):
        fits = {p.uid: p.fits for p in world.packs.values()}
        decision = world.tick()
        for one, plan in decision.plans:
            assert wrong(world.service, plan, fits[one.uid]) == []
