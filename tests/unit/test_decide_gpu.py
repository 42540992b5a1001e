"""What the operator says of the packs' GPUs: their health, and how replicas share them."""

from __future__ import annotations

from typing import Any

import pytest

from builders import pack, pack_state, service
from decide_world import condition, look
from slm_operator.decide.fingerprint import fingerprint
from slm_operator.decide.snapshot import Pack
from slm_worker.wire import Counters, GpuHealth, Problem


def ailing(ordinal: int, **health: Any) -> Pack:
    state = pack_state()
    gpu = state.gpu.model_copy(update={"health": GpuHealth(**health)})
    return pack(pack_state(gpu=gpu), ordinal)


@pytest.mark.parametrize(
    ("health", "status"),
    [("Degraded", "True"), ("Unresponsive", "False"), ("Lost", "False")],
)
def test_a_gpu_in_trouble_is_seen_and_a_degraded_one_still_counts(health: str, status: str) -> None:
    decision = look(
        service(), ailing(0, state=health, reason="RowRemapPending", message="reset it")
    )
    assert condition(decision, "GPUAllocated") == (
        status,
        "RowRemapPending",
        "the GPU of chat-pack-0: reset it",
    )


def test_of_several_gpus_in_trouble_the_worst_is_told() -> None:
    decision = look(
        service({"packs": 3}),
        pack(pack_state()),
        ailing(1, state="Degraded", reason="ThermalSlowdown", message="cool it"),
        ailing(2, state="Lost", reason="GPULost", message="mend the node"),
    )
    assert condition(decision, "GPUAllocated")[:2] == ("False", "GPULost")


def test_a_gpu_that_no_agent_could_open_is_none() -> None:
    problem = Problem(reason="DeviceUnavailable", message="install the driver", since_seconds=0.0)
    decision = look(service(), pack(pack_state(problem=problem)))
    assert condition(decision, "GPUAllocated") == (
        "False",
        "DeviceUnavailable",
        "the GPU of chat-pack-0: install the driver",
    )


def sharing(mps: str, message: str = "") -> Pack:
    state = pack_state()
    return pack(pack_state(gpu=state.gpu.model_copy(update={"mps": mps, "mps_message": message})))


@pytest.mark.parametrize(
    ("mps", "message", "expected"),
    [
        ("Running", "", ("True", "Running", "the packs' MPS daemons answer")),
        (
            "Running",
            "no get_server_status",
            ("True", "Running", "the packs' MPS daemons answer; no get_server_status"),
        ),
        ("NotNeeded", "", ("True", "NotNeeded", "a Simulated device is shared without MPS")),
        ("Faulted", "MMU fault", ("False", "MPSFaulted", "MMU fault")),
        (
            "Unavailable",
            "install it.",
            ("False", "MPSUnavailable", "install it; one replica runs on each GPU"),
        ),
    ],
)
def test_how_replicas_share_the_gpu_is_told(
    mps: str, message: str, expected: tuple[str, str, str]
) -> None:
    assert condition(look(service(), sharing(mps, message)), "MPSReady") == expected


def test_replicas_that_take_turns_because_the_spec_allows_it_are_told() -> None:
    allowed = service({"engine": {}, "gpu": {"mps": {"fallback": "TimeSlicing"}}})
    status, reason, message = condition(look(allowed, sharing("Unavailable", "none.")), "MPSReady")
    assert (status, reason) == ("False", "TimeSlicing")
    assert message == "none; replicas take turns, as spec.gpu.mps.fallback allows"


def test_points_measured_in_turns_do_not_count_under_mps() -> None:
    marks = {
        fingerprint(service(), "w", sharing(mps).agent)
        for mps in ("Unavailable", "Running", "Faulted")
    }
    assert len(marks) == 2


def test_power_that_is_added_up_from_readings_is_told() -> None:
    state = pack_state()
    gpu = state.gpu.model_copy(update={"energy_source": "Integrated"})
    counters = Counters(sampled_at_seconds=1, energy_millijoules=5)
    decision = look(service(), pack(pack_state(gpu=gpu, counters=counters)))
    assert condition(decision, "MetricsAvailable")[:2] == ("True", "PowerIntegrated")
