"""What packs run once the spec's bounds have been edited around the knee that was found."""

from __future__ import annotations

from typing import Any

import pytest

from builders import h100, pack, pack_state, service
from decide_world import World, condition, look
from slm_operator.api.models import SLMService
from slm_operator.api.status import CalibrationStatus, LayoutStatus, SLMServiceStatus
from slm_operator.decide import points as shown
from slm_operator.decide.calibrate import plan
from slm_operator.decide.fingerprint import fingerprint
from slm_operator.decide.snapshot import Memory
from slm_operator.pareto.points import Probe
from slm_worker.wire import Layout

ROTATED, OWN_LAYOUT, MORE = Probe(3, 2, 256), Probe(3, 3, 256), Probe(4, 4, 256)


@pytest.mark.parametrize(
    ("engine", "bounds", "runs"),
    [
        ({"maxNumSeqs": 64}, {}, (1, 64)),
        ({}, {"minReplicasPerPack": 4}, (4, 256)),
        ({}, {"maxReplicasPerPack": 1}, (1, 256)),
        ({}, {"maxReplicasPerPack": 3}, (2, 256)),
    ],
)
def test_without_measuring_a_knee_outside_the_bounds_gives_way_to_the_fewest(
    engine: dict[str, Any], bounds: dict[str, Any], runs: tuple[int, int]
) -> None:
    world = World(service())
    world.run(60)
    assert world.plan is not None and world.plan.layout == Layout(replicas=2, max_num_seqs=256)
    changes = {"calibration": {"when": "Never"}, **bounds}
    edited = service({"engine": {"kind": "Simulated", **engine}, "autoscaling": changes})
    world.service = edited.model_copy(update={"status": world.service.status, "generation": 2})
    world.run(10)
    assert (world.plan.layout.replicas, world.plan.layout.max_num_seqs) == runs


def found_three(points: list[Probe], too_few: int | None) -> SLMService:
    """Three replicas were the knee under the users' requests; now two are the most."""
    bounds = {"maxReplicasPerPack": 2, "calibration": {"when": "Live"}}
    wanted = service({"autoscaling": bounds}, generation=2)
    status = SLMServiceStatus(
        frontier=shown.frontier([h100(p) for p in points], None, None),
        calibration=CalibrationStatus(
            fingerprint=fingerprint(wanted, "", pack_state()),
            phase="Done",
            too_few_replicas=too_few,
            chosen=LayoutStatus(replicas_per_pack=3, max_num_seqs=256),
        ),
    )
    return wanted.model_copy(update={"status": status})


@pytest.mark.parametrize("too_few", [None, 2])
@pytest.mark.parametrize(
    "points", [[OWN_LAYOUT], [ROTATED, OWN_LAYOUT], [ROTATED, OWN_LAYOUT, MORE]]
)
def test_under_the_users_requests_a_lower_maximum_is_followed(
    points: list[Probe], too_few: int | None
) -> None:
    wanted, memory = found_three(points, too_few), Memory()
    running = plan(OWN_LAYOUT, None, None)
    for second in range(60):
        state = pack_state(running, clock_seconds=float(second))
        decision = look(wanted, pack(state), memory=memory, now=f"2026-01-01T00:00:{second:02d}Z")
        wanted = wanted.model_copy(update={"status": decision.status})
        memory = decision.memory
        for _, running in decision.plans:
            assert running.layout.replicas <= 2
    assert running.layout.replicas == 2
    assert "of 3 started" not in condition(decision, "Calibrated")[2]
