"""What the operator saw of one service at one moment. Immutable; decisions read nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm_operator.api.models import SLMService
from slm_operator.api.status import PowerStatus
from slm_operator.decide.live import Overrun
from slm_operator.decide.tally import ServiceTally
from slm_operator.pareto.demand import DemandMemory
from slm_operator.pareto.idle import Idle
from slm_operator.pareto.shift import Watch
from slm_operator.pareto.window import Sample
from slm_worker.wire import PackState


@dataclass(frozen=True)
class Trouble:
    """Something that stands in the way: a CamelCase reason, cause and remedy."""

    reason: str
    message: str


@dataclass(frozen=True)
class Pack:
    """One Pod of the service, and what its agent answered."""

    ordinal: int
    name: str
    uid: str
    address: str
    """Empty until the agent there has answered its startup probe."""
    template_hash: str
    ready: bool
    terminating: bool
    ended: bool = False
    """Evicted, lost with its node, or finished: it will never serve again."""
    scheduling: Trouble | None = None
    """Why no node takes it."""
    container: Trouble | None = None
    """Why its container does not run."""
    node: Trouble | None = None
    """Why its node is not heard of."""
    agent: PackState | None = None
    silence: Trouble | None = None
    """Why the agent could not be read."""
    created: str = ""
    """When its Pod was, RFC 3339, UTC."""
    owner_uid: str = ""
    """Of the SLMService that is its controller; empty where none is, so that it is nobody's pack
    whatever its labels say."""
    placing_seconds: float | None = None
    """From then to the start of its container: scheduling and image; None once that was restarted,
    and until it is known."""
    ends_by: str = ""
    """When its grace is over, RFC 3339, UTC; empty while nobody has deleted it."""

    def belongs_to(self, service_uid: str) -> bool:
        """Not when it was left by a former service of the same name."""
        return self.owner_uid == service_uid

    @property
    def doubts_children(self) -> bool:
        """Whether it shows that what goes with it is not as it was applied."""
        return any(
            trouble is not None
            and trouble.reason in ("CreateContainerConfigError", "AgentRefusedToken")
            for trouble in (self.container, self.silence)
        )


@dataclass(frozen=True)
class Unstartable:
    """A layout that failed."""

    replicas: int
    max_num_seqs: int
    why: str
    until: str
    """RFC 3339, UTC: an open search may try it again then."""


@dataclass(frozen=True)
class DemandKept:
    """What is remembered of the demand; losing it costs one stabilisation period."""

    tally: ServiceTally = field(default_factory=ServiceTally)
    sampled_at_seconds: float | None = None
    memory: DemandMemory = field(default_factory=DemandMemory)
    idle: Idle = field(default_factory=Idle)


@dataclass(frozen=True)
class CanarySamples:
    """Polls of the pack that is tried with a new template, while it is measured."""

    samples: tuple[Sample, ...] = ()
    generation: int = 0
    """Of the plan that they belong to."""


@dataclass(frozen=True)
class Moving:
    """A pack that left a layout in which it served, for another that it does not run yet."""

    uid: str
    since_seconds: float
    """By the snapshots' clock."""


@dataclass(frozen=True)
class Progressed:
    """How far a rollout has come, and since when."""

    attempt: str
    progress: int
    at: str | None
    """As the status has it, by a wall clock that may be set meanwhile."""
    since_seconds: float
    """By the snapshots' clock: when the operator first saw it."""


@dataclass(frozen=True)
class Memory:
    """What the operator remembers of a service between passes; losing it costs one window."""

    explorer: str = ""
    """UID of the Pod on which the search runs; while it is silent the search waits."""
    silent_since_seconds: float | None = None
    """When the first of an unbroken series of passes found no answer of that pack."""
    samples: tuple[Sample, ...] = ()
    """Polls of the exploring pack while it runs what is being measured."""
    measuring_generation: int = 0
    """Generation of the plan that ``samples`` belong to."""
    unstartable: tuple[Unstartable, ...] = ()
    unstartable_for: str = ""
    """Fingerprint and agent under which they failed; another one may start them."""
    bounds: tuple[int, int, int, bool] | None = None
    """Of the last search space: fewest and most replicas, the batch and whether it is free."""
    left_at_seconds: float | None = None
    """The exploring agent's clock when a probe was last left before its window was full (Live)."""
    overrun: Overrun | None = None
    """The probe that users had to wait for, until it is known whether it was to blame."""
    watch: Watch = field(default_factory=Watch)
    """What was seen of the users' traffic."""
    demand: DemandKept = field(default_factory=DemandKept)
    canary: CanarySamples = field(default_factory=CanarySamples)
    moving: tuple[Moving, ...] = ()
    """Losing it hides a lone pack that is held up in a change of its layout."""
    progressed: Progressed | None = None
    """Losing it begins the rollout's deadline anew."""
    ready_since_seconds: float | None = None
    """When a pack was first seen ready, of an unbroken series of passes."""
    through_activator: bool | None = None
    """Whether clients were led to the activator; None: the operator has just begun."""


@dataclass(frozen=True)
class StoredProfile:
    """What was found where services of one configuration leave what they measured."""

    key: str
    text: str | None
    """None: nothing is stored."""
    trouble: str = ""
    """Why it could not be read."""


@dataclass(frozen=True)
class Activation:
    """What the activator said of a service that scales to zero, or once did."""

    port: int | None
    """The service's own; None while there is none."""
    address: str
    """Of the activator, as the cluster's nodes reach it; empty while it is not known."""
    held: int = 0
    """Requests that wait there, or were passed on and are not answered to their end."""
    trouble: Trouble | None = None
    """Why it would hold nothing now."""
    lastingly: bool = True
    """Whether it would hold requests, but for a silence that may be over in a moment."""


@dataclass(frozen=True)
class Snapshot:
    service: SLMService
    now: str
    """RFC 3339, UTC."""
    packs: tuple[Pack, ...]
    """By ordinal."""
    memory: Memory = field(default_factory=Memory)
    worker_image: str = ""
    """What packs run when the spec names no image."""
    power: PowerStatus | None = None
    """The share of the cluster's power budget; None where there is none."""
    seconds: float = 0.0
    """Of a monotonic clock, whose zero means nothing."""
    profile: StoredProfile | None = None
    """None while none is needed."""
    activation: Activation | None = None
    """None for a service that never scaled to zero, or where there is no activator."""
