"""Which troubles of a pack that follows the canary are held against its template."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import pack, pack_state
from slm_operator.decide.followers import PLACE_TROUBLES, template_trouble
from slm_operator.decide.snapshot import Pack, Trouble
from slm_worker.wire import GpuHealth, Problem


def with_problem(reason: str, **gpu: object) -> Pack:
    state = pack_state()
    problem = Problem(reason=reason, message="why", since_seconds=0)
    update = {"problem": problem, "gpu": state.gpu.model_copy(update=gpu)}
    return pack(state.model_copy(update=update), ready=False)


def with_container(reason: str) -> Pack:
    return pack(None, address="", container=Trouble(reason, "why"))


@pytest.mark.parametrize(
    "failing",
    [
        with_problem("EngineArgumentInvalid"),
        with_problem("OutOfMemory"),
        with_problem("EngineExited", health=GpuHealth(state="Degraded", reason="PowerBrake")),
        with_container("CrashLoopBackOff"),
        with_container("ImagePullBackOff"),
        with_container("CreateContainerConfigError"),
    ],
)
def test_what_the_template_may_cause(failing: Pack) -> None:
    trouble = template_trouble([pack(pack_state()), failing])
    assert trouble is not None and trouble.message == "why"


@pytest.mark.parametrize(
    "waiting",
    [
        pack(None, scheduling=Trouble("Unschedulable", "no free GPU")),
        pack(None, silence=Trouble("AgentUnreachable", "a network policy")),
        pack(pack_state()),
        with_problem("EngineExited", health=GpuHealth(state="Lost", reason="GPULost")),
        with_problem("EngineExited", mps="Faulted"),
        replace(with_problem("EngineExited"), node=Trouble("NodeNotReady", "a silent node")),
        with_container("RunContainerError"),
        *map(with_problem, sorted(PLACE_TROUBLES)),
    ],
)
def test_what_the_template_before_would_meet_too(waiting: Pack) -> None:
    assert template_trouble([replace(waiting, ready=False)]) is None
