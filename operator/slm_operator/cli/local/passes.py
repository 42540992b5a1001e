"""One pass over a local pack, as the operator makes it, and when to give up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from slm_operator.api.models import SLMService
from slm_operator.api.status import SLMServiceStatus
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, Trouble
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import PackState, ReplicaPhase

PACK = Pack(
    ordinal=0,
    name="local",
    uid="local",
    address="",
    template_hash="",
    ready=False,
    terminating=False,
)
"""Before its agent answers: a Pod of which only one thing matters here, its agent."""

BRING_UP_SECONDS = 5.0
"""A device, model, engine program or router that is missing for so long will not come by itself."""
FAILED_STARTS = 2
"""One may be chance."""
STUCK_SECONDS = 600.0
"""Longer than three starts of a large model."""
SILENT_SECONDS = 60.0
FEWER_MAY_HELP = frozenset(
    {"OutOfMemory", "KVCacheTooSmall", "MpsClientLimit", "EngineKilled", "MemoryNotSteady"}
)
"""Why a replica may fail in a large layout and not in a smaller one, which comes next then."""


@dataclass(frozen=True)
class Local:
    """The service with what is remembered of it between passes."""

    service: SLMService
    memory: Memory = field(default_factory=Memory)
    refused: Trouble | None = None
    """What the agent said no to in the last pass."""

    @property
    def status(self) -> SLMServiceStatus:
        return self.service.status

    @property
    def found(self) -> bool:
        """Whether the knee is known."""
        return self.status.operating_point is not None

    @property
    def serves_it(self) -> bool:
        """Whether the knee's layout runs and answers."""
        ready = self.status.condition("Ready")
        return self.found and ready is not None and ready.reason == "Serving"


def one_pass(
    before: Local, answer: PackState | Trouble, rules: WindowRules, now: str
) -> tuple[Local, Decision]:
    """``answer``: the agent's state, or why it could not be read. ``now``: RFC 3339, UTC."""
    if isinstance(answer, Trouble):
        pack = replace(PACK, silence=answer)
    else:
        pack = replace(PACK, agent=answer, ready=any(r.in_rotation for r in answer.replicas))
    snapshot = Snapshot(before.service, now, (pack,), before.memory)
    decision = decide(snapshot, rules, PACK.template_hash, before.refused)
    service = before.service.model_copy(update={"status": decision.status})
    return Local(service, decision.memory), decision


def hopeless(local: Local, state: PackState | Trouble) -> Trouble | None:
    """What only the user can mend, as ``state`` shows it; None while the search can go on."""
    if isinstance(state, Trouble):
        return None
    feasible = local.status.condition("PackingFeasible")
    if feasible is not None and feasible.status == "False":
        return Trouble(feasible.reason, feasible.message)
    problem = state.problem
    if not state.replicas and problem is not None:
        lasted = state.clock_seconds - problem.since_seconds
        return Trouble(problem.reason, problem.message) if lasted >= BRING_UP_SECONDS else None
    if local.status.frontier or any(r.phase is ReplicaPhase.READY for r in state.replicas):
        return None
    for replica in state.replicas:
        why = replica.problem
        if (
            why is not None
            and replica.failures >= FAILED_STARTS
            and why.reason not in FEWER_MAY_HELP
        ):
            return Trouble(why.reason, why.message)
    fewest = local.service.autoscaling.min_replicas_per_pack
    failed = [u for u in local.memory.unstartable if u.replicas == fewest]
    return Trouble("LayoutFailed", failed[0].why) if failed else None


@dataclass(frozen=True)
class Patience:
    """How long the pack has been in a trouble that might pass."""

    since_seconds: float | None = None

    def after(self, local: Local, now_seconds: float) -> Patience:
        ready = local.status.condition("Ready")
        troubled = ready is not None and ready.status == "False" and ready.reason != "Starting"
        if not troubled:
            return Patience()
        return self if self.since_seconds is not None else Patience(now_seconds)

    def over(self, answer: PackState | Trouble, now_seconds: float) -> bool:
        if self.since_seconds is None:
            return False
        limit = SILENT_SECONDS if isinstance(answer, Trouble) else STUCK_SECONDS
        return now_seconds - self.since_seconds > limit


def window_rules(min_seconds: float | None) -> WindowRules:
    """The operator's own, or shorter and coarser ones where precision is no need."""
    own = WindowRules()
    if min_seconds is None:
        return own
    return replace(
        own,
        min_seconds=min_seconds,
        warmup_seconds=min(own.warmup_seconds, min_seconds),
        interval_width=2 * own.interval_width,
    )
