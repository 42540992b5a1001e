"""A service whose Pods come and go as it decides while its template changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from builders import H100_OPT_1_3B, pack, pack_state, service
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Activation, Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.window import WindowRules
from slm_operator.render import children
from slm_worker.wire import Counters, Histogram, Plan, Problem, ReplicaPhase

RULES = WindowRules(min_seconds=3, max_seconds=6, warmup_seconds=1)
IMAGE = "w"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ENGINE: dict[str, Any] = {"kind": "Simulated", "maxNumSeqs": 256}
CHANGED = {"engine": ENGINE | {"args": ["--max-model-len=1024"]}}
NO_GPU = Trouble("Unschedulable", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")


class Server:
    """A pack that follows its plans and counts as the published curve says."""

    def __init__(self, template: str, energy: float, fails: str) -> None:
        self.template, self.energy, self.fails = template, energy, fails
        """``fails``: the reason why no replica starts; empty when they do."""
        self.plan: Plan | None = None
        self.settled_since = self.tokens = self.millijoules = self.saturated = 0.0
        self.starts = 0
        self.itl_seconds = 0.03

    def second(self) -> None:
        if self.plan is not None and self.plan.load is not None:
            rate, watts = H100_OPT_1_3B[self.plan.rotation, self.plan.layout.max_num_seqs]
            self.tokens += rate
            self.millijoules += watts * 1000 * self.energy
            self.saturated += 1

    def follow(self, plan: Plan, seconds: float) -> None:
        if self.plan is None or self.plan.layout != plan.layout:
            self.starts += plan.layout.replicas
        self.plan, self.settled_since = plan, seconds


class World:
    """A service whose Pods come and go as it decides, on so many GPUs."""

    def __init__(
        self, spec: dict[str, Any], gpus: int = 9, activation: Activation | None = None
    ) -> None:
        self.service = service(spec)
        self.activation = activation
        self.image = IMAGE
        """The worker image of the operator."""
        self.gpus = gpus
        self.seconds = 0.0
        self.clock_error_seconds = 0.0
        """Of the wall clock."""
        self.memory = Memory()
        self.packs: dict[str, Pack] = {}
        self.servers: dict[str, Server] = {}
        self.events: list[str] = []
        self.energy: dict[str, float] = {}
        self.fails: set[str] = set()
        self.fails_later: dict[str, str] = {}
        """By template: why none but its first pack serves."""
        self.itl: dict[str, float] = {}
        self.fewest_ready = 99
        self.made = 0

    @property
    def now(self) -> str:
        seconds = self.seconds + self.clock_error_seconds
        return f"{BEGIN + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def template(self) -> str:
        return children.template_hash(self.service, self.image)

    def change(self, spec: dict[str, Any]) -> None:
        changed = service({**self.service.spec.model_dump(by_alias=True), **spec}, generation=2)
        self.service = changed.model_copy(update={"status": self.service.status})
        self.fewest_ready = 99

    def _seen(self, p: Pack) -> Pack:
        server = self.servers[p.uid]
        if p.terminating or p.scheduling is not None:
            return p
        state = pack_state(
            server.plan,
            clock_seconds=self.seconds,
            settled_since_seconds=server.settled_since,
            counters=Counters(
                sampled_at_seconds=self.seconds,
                output_tokens=int(server.tokens),
                energy_millijoules=int(server.millijoules),
                saturated_seconds=server.saturated,
                replica_starts=server.starts,
                itl=Histogram(
                    bounds_seconds=(server.itl_seconds * 0.999, server.itl_seconds),
                    cumulative=(0, int(server.tokens)),
                    count=int(server.tokens),
                ),
            ),
        )
        if server.fails and server.plan is not None:
            problem = Problem(reason=server.fails, message="no such argument", since_seconds=0)
            failed = [
                r.model_copy(
                    update={"phase": ReplicaPhase.FAILED, "failures": 3, "problem": problem}
                )
                for r in state.replicas
            ]
            update = {"replicas": tuple(failed), "settled": False, "problem": problem}
            return replace(p, agent=state.model_copy(update=update), ready=False)
        return replace(p, agent=state, ready=server.plan is not None)

    def second(self) -> Decision:
        self.seconds += 1
        for uid in [u for u, p in self.packs.items() if p.terminating]:
            del self.packs[uid]
        used = sum(p.scheduling is None for p in self.packs.values())
        for uid, p in self.packs.items():
            if p.scheduling is not None and used < self.gpus:
                self.packs[uid] = replace(p, scheduling=None, address="a")
                used += 1
            self.servers[uid].second()
        seen = tuple(sorted(map(self._seen, self.packs.values()), key=lambda p: p.ordinal))
        self.fewest_ready = min(self.fewest_ready, sum(p.ready for p in seen))
        snapshot = Snapshot(
            self.service,
            self.now,
            seen,
            self.memory,
            self.image,
            seconds=self.seconds,
            activation=self.activation,
        )
        decision = decide(snapshot, RULES, self.template)
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.events += [e.reason for e in decision.events]
        for gone in decision.pods.delete:
            self.packs[gone.uid] = replace(
                self.packs[gone.uid], terminating=True, ready=False, agent=None
            )
        for made, ordinals in (
            (decision.service, decision.pods.create),
            (self.service, decision.pods.canary),
        ):
            for ordinal in ordinals:
                self._create(ordinal, children.template_hash(made, self.image))
        for followed, plan in decision.plans:
            self.servers[followed.uid].follow(plan, self.seconds)
        return decision

    def _create(self, ordinal: int, template: str) -> None:
        assert ordinal not in {p.ordinal for p in self.packs.values()}
        self.made += 1
        uid = f"p{self.made}"
        self.packs[uid] = pack(
            None,
            ordinal,
            uid=uid,
            template_hash=template,
            created=self.now,
            scheduling=NO_GPU,
            address="",
        )
        fails = "EngineArgumentInvalid" if template in self.fails else ""
        if any(s.template == template for s in self.servers.values()):
            fails = fails or self.fails_later.get(template, "")
        server = Server(template, self.energy.get(template, 1.0), fails)
        server.itl_seconds = self.itl.get(template, 0.03)
        self.servers[uid] = server

    def run(self, seconds: int) -> Decision:
        for _ in range(seconds):
            decision = self.second()
        return decision

    def templates(self) -> set[str]:
        return {p.template_hash for p in self.packs.values() if not p.terminating}


def progressing(decision: Decision) -> tuple[str, str, str]:
    found = decision.status.condition("Progressing")
    assert found is not None
    return found.status, found.reason, found.message


def settled(
    spec: dict[str, Any] | None = None, gpus: int = 9, activation: Activation | None = None
) -> World:
    world = World({"packs": 2, "engine": ENGINE} | (spec or {}), gpus, activation)
    decision = world.run(90)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    return world


FIXED = {"replicasPerPack": 2, "autoscaling": None}
DEADLINE = {"rollout": {"progressDeadline": "90s"}}
