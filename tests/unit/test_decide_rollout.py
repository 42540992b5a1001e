"""A change of the template: one pack is tried, the others follow or stay as they were."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builders import H100_OPT_1_3B, pack, pack_state, service
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.rollout import with_template
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, Trouble
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

    def __init__(self, template: str, energy: float, fails: bool) -> None:
        self.template, self.energy, self.fails = template, energy, fails
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

    def __init__(self, spec: dict[str, Any], gpus: int = 9) -> None:
        self.service = service(spec)
        self.gpus = gpus
        self.seconds = 0.0
        self.memory = Memory()
        self.packs: dict[str, Pack] = {}
        self.servers: dict[str, Server] = {}
        self.events: list[str] = []
        self.energy: dict[str, float] = {}
        self.fails: set[str] = set()
        self.itl: dict[str, float] = {}
        self.fewest_ready = 99
        self.made = 0

    @property
    def now(self) -> str:
        return f"{BEGIN + timedelta(seconds=self.seconds):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def template(self) -> str:
        return children.template_hash(self.service, IMAGE)

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
            problem = Problem(
                reason="EngineArgumentInvalid", message="no such argument", since_seconds=0
            )
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
        snapshot = Snapshot(self.service, self.now, seen, self.memory, IMAGE, seconds=self.seconds)
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
                self._create(ordinal, children.template_hash(made, IMAGE))
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
        server = Server(template, self.energy.get(template, 1.0), template in self.fails)
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


def settled(spec: dict[str, Any] | None = None, gpus: int = 9) -> World:
    world = World({"packs": 2, "engine": ENGINE} | (spec or {}), gpus)
    decision = world.run(90)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    return world


FIXED = {"replicasPerPack": 2, "autoscaling": None}


def test_a_change_is_tried_measured_and_follows_everywhere() -> None:
    world = settled()
    before = world.template
    world.change(CHANGED)
    decision = world.run(4)
    assert progressing(decision)[1] in ("CanaryStarting", "CanaryMeasuring")
    assert world.templates() == {before, world.template}
    assert decision.status.operating_point is not None
    decision = world.run(120)
    assert world.templates() == {world.template}
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.fewest_ready == 2
    assert [e for e in world.events if e.startswith(("Canary", "Rollout"))] == [
        "CanaryPassed",
        "RolloutComplete",
    ]
    rollout = decision.status.rollout
    assert rollout is not None and rollout.stable is not None and rollout.previous is not None
    assert (rollout.stable.hash, rollout.previous.hash) == (world.template, before)
    assert decision.status.condition("Ready").status == "True"  # type: ignore[union-attr]


def test_packs_that_follow_a_canary_start_with_its_layout() -> None:
    world = settled()
    world.change(CHANGED)
    while world.service.status.rollout.phase != "Progressing":  # type: ignore[union-attr]
        world.run(1)
    status = world.service.status
    assert status.calibration is not None and status.calibration.chosen is not None
    assert status.calibration.chosen.replicas_per_pack == 2
    assert [p.replicas_per_pack for p in status.frontier] == [2]


def test_more_energy_than_allowed_rolls_back_and_says_both_numbers() -> None:
    world = settled()
    before = world.template
    world.change(CHANGED)
    world.energy[world.template] = 1.2
    decision = world.run(60)
    status, reason, message = progressing(decision)
    assert (status, reason) == ("False", "RolledBack")
    assert "0.0500 J against 0.0416 J before (+20 %)" in message
    assert "maxEnergyIncreasePercent allows 10 %" in message
    assert world.templates() == {before}
    assert world.fewest_ready == 2
    made = world.made
    world.run(300)
    assert world.made == made, "what was rolled back is not tried again"
    assert world.events.count("RolledBack") == 1
    world.change({"rollout": {"maxEnergyIncreasePercent": 25}})
    decision = world.run(120)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_energy_does_not_compare_across_models() -> None:
    world = settled()
    world.change({"model": {"uri": "hf://facebook/opt-2.7b"}})
    world.energy[world.template] = 2.0
    assert progressing(world.run(150))[:2] == ("True", "RolloutComplete")


def test_a_broken_slo_rolls_back() -> None:
    slo = {"autoscaling": {"maxReplicasPerPack": 4, "slo": {"itlP95": "40ms"}}}
    world = settled(slo)
    before = world.template
    world.change(CHANGED)
    world.itl[world.template] = 0.06
    decision = world.run(60)
    assert progressing(decision)[1] == "RolledBack"
    assert "exceeds the limit of 40.0 ms" in progressing(decision)[2]
    assert world.templates() == {before}


@pytest.mark.parametrize("spec", [{}, FIXED], ids=["found", "fixed"])
def test_an_engine_that_does_not_start_rolls_back_with_its_words(spec: dict[str, Any]) -> None:
    world = settled(spec)
    before = world.template
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    decision = world.run(40)
    assert progressing(decision)[1] == "RolledBack"
    assert "EngineArgumentInvalid: no such argument" in progressing(decision)[2]
    assert world.templates() == {before}
    assert world.fewest_ready == 2
    assert decision.status.condition("Ready").status == "True"  # type: ignore[union-attr]


def test_a_full_cluster_gives_a_packs_place_to_the_canary() -> None:
    world = settled(gpus=2)
    world.change(CHANGED)
    decision = world.run(30)
    assert "Insufficient nvidia.com/gpu" in progressing(decision)[2]
    assert decision.status.condition("GPUAllocated").status == "True"  # type: ignore[union-attr]
    decision = world.run(200)
    assert world.fewest_ready == 1
    assert world.templates() == {world.template}
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert decision.status.ready_packs == 2


def test_a_rollback_on_a_full_cluster_brings_the_place_back() -> None:
    world = settled(gpus=2)
    before = world.template
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    decision = world.run(200)
    assert progressing(decision)[1] == "RolledBack"
    assert world.templates() == {before}
    assert (decision.status.ready_packs, world.fewest_ready) == (2, 1)


def test_a_canary_without_any_gpu_of_its_kind_takes_nobodys_place() -> None:
    world = settled({"gpu": {"kind": "Simulated"}} | FIXED, gpus=2)
    world.change(
        {"gpu": {"kind": "Simulated", "resourceName": "other/gpu"}, **CHANGED}
        | {"rollout": {"progressDeadline": "90s"}}
    )
    decision = world.run(200)
    assert world.fewest_ready == 2
    assert progressing(decision)[1] == "RolledBack"
    assert "got no further for 90s" in progressing(decision)[2]
    assert "Insufficient nvidia.com/gpu" in progressing(decision)[2]


def test_paused_nothing_is_replaced_and_lost_packs_come_back_as_they_were() -> None:
    world = settled(FIXED)
    before = world.template
    world.change({**CHANGED, "rollout": {"paused": True}})
    decision = world.run(20)
    assert progressing(decision)[:2] == ("Unknown", "RolloutPaused")
    lost = next(iter(world.packs))
    del world.packs[lost]
    decision = world.run(20)
    assert world.templates() == {before}
    assert decision.status.ready_packs == 2
    world.change({"rollout": {"paused": False}})
    assert progressing(world.run(60))[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_taking_the_change_back_ends_the_rollout() -> None:
    world = settled(FIXED)
    before = world.service.spec
    world.change({"engine": ENGINE | {"args": ["--broken"]}})
    world.fails.add(world.template)
    world.run(40)
    world.change(before.model_dump(by_alias=True))
    decision = world.run(10)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_the_first_template_is_no_rollout_and_a_broken_one_is_simply_replaced() -> None:
    world = World({"packs": 2, "engine": ENGINE | {"args": ["--broken"]}} | FIXED)
    world.fails.add(world.template)
    world.run(30)
    world.change({"engine": ENGINE})
    decision = world.run(60)
    assert progressing(decision)[:2] == ("True", "RolloutComplete")
    assert world.templates() == {world.template}


def test_the_kept_template_renders_the_same_packs() -> None:
    world = settled(FIXED | CHANGED)
    status = world.service.status.rollout
    assert status is not None and status.stable is not None
    other = service({"packs": 2, "engine": ENGINE} | FIXED)
    assert children.template_hash(with_template(other, status.stable), IMAGE) == status.stable.hash
