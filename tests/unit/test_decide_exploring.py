"""On which pack a search runs, where packs have GPUs of several models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import pack, pack_state, service
from decide_world import RULES, World, condition
from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import plan
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.exploring import SILENT_SECONDS
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.points import Probe

SILENT = Trouble("AgentUnreachable", "no answer")
KNEE = plan(Probe(2, 2, 256), None, None)


@pytest.fixture(scope="module")
def settled() -> SLMService:
    """Two packs, whose knee was found on the first one's GPU."""
    world = World(service())
    status = world.run(60).status
    assert status.recommended_replicas_per_pack == 2
    return service({"packs": 2}, status)


def on_another_gpu(ordinal: int) -> Pack:
    state = pack_state(KNEE)
    gpu = state.gpu.model_copy(update={"name": "Simulated B200"})
    return pack(state.model_copy(update={"gpu": gpu}), ordinal)


def look(wanted: SLMService, *packs: Pack, memory: Memory, seconds: float = 0.0) -> Decision:
    now = "2026-01-01T00:01:00Z"
    return decide(Snapshot(wanted, now, packs, memory, seconds=seconds), RULES, "t")


def test_what_is_known_of_one_gpu_goes_on_where_another_pack_has_it(settled: SLMService) -> None:
    """As after a drain that moved the first pack."""
    decision = look(settled, on_another_gpu(0), pack(pack_state(KNEE), 1), memory=Memory())
    assert decision.status.frontier == settled.status.frontier
    assert condition(decision, "Calibrated")[1] == "KneeFound"
    assert decision.memory.explorer == "p1"


@pytest.mark.parametrize(
    "silent",
    [
        pack(None, 0, silence=SILENT),
        pack(None, 0, ready=False, container=Trouble("CrashLoopBackOff", "exit 2")),
    ],
)
def test_a_lost_poll_after_the_operators_start_drops_no_point(
    settled: SLMService, silent: Pack
) -> None:
    first = look(settled, silent, on_another_gpu(1), memory=Memory(), seconds=7.0)
    assert first.status.calibration == settled.status.calibration
    assert first.status.frontier == settled.status.frontier
    assert (first.plans, first.memory.explorer) == ((), "")
    heard = replace(silent, agent=pack_state(KNEE), silence=None, container=None)
    again = look(settled, heard, on_another_gpu(1), memory=first.memory, seconds=9.0)
    assert again.status.frontier == settled.status.frontier
    assert (again.memory.explorer, again.memory.silent_since_seconds) == ("p0", None)


def test_one_that_stays_silent_is_waited_for_no_longer(settled: SLMService) -> None:
    packs, memory = (pack(None, 0, silence=SILENT), on_another_gpu(1)), Memory()
    for seconds in (7.0, 6.9 + SILENT_SECONDS):
        decision = look(settled, *packs, memory=memory, seconds=seconds)
        assert decision.status.frontier == settled.status.frontier
        memory = decision.memory
    decision = look(settled, *packs, memory=memory, seconds=7.0 + SILENT_SECONDS)
    assert decision.status.frontier == ()
    assert decision.memory.explorer == "p1"


def test_nobody_waits_where_no_pack_may_have_the_gpu(settled: SLMService) -> None:
    decision = look(settled, on_another_gpu(0), on_another_gpu(1), memory=Memory())
    assert (decision.status.frontier, decision.memory.explorer) == ((), "p0")
