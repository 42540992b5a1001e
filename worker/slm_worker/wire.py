"""Models of the agent's HTTP API: what operator and worker say to each other. Longer than a
file may be, since whoever changes one side reads the contract whole.

``GET /v1/pack`` answers :class:`PackState`, ``PUT /v1/pack/plan`` takes a :class:`Plan`; a refusal
is an :class:`ApiError`. Commands reject unknown fields. Reports ignore them, so that an older
operator can read a newer agent.

Time is in seconds of one monotonic clock, the agent's, whose zero means nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slm_worker.planning.memory import KvCapacity, ModelFootprint

MAX_REPLICAS_PER_PACK = 32
MAX_NUM_SEQS = 4096

CONFIG_VARIABLE = "SLM_PACK_CONFIG"
"""Environment variable that holds the pack's :class:`PackConfig` as JSON."""
TOKEN_FILE_VARIABLE = "SLM_AGENT_TOKEN_FILE"  # noqa: S105 - the name of the variable, not a token
"""Environment variable that names the file with the bearer token of the agent's API. The file is
read at each request, so that a new token needs no restart."""
ADDRESS_VARIABLE = "POD_IP"
"""Environment variable that holds the address on which agent and router listen."""
CACHE_VARIABLE = "SLM_ENGINE_CACHE"
"""Environment variable that names a directory, such as a mounted volume, in which engines keep
compiled kernels; by default it lies below HOME and lives as long as the Pod."""
LEADER_EPOCH_HEADER = "SLM-Leader-Epoch"
"""Header in which each request of an operator that was elected names its leadership by a positive
integer, greater than that of each before. Once an agent has heard of one, it takes no plan of an
older one (StaleLeader). Without the header no leadership is claimed, and none is asked for."""
AGENT_PORT = 8080
ROUTER_PORT = 8000
AGENT_PORT_VARIABLE = "SLM_AGENT_PORT"
"""Environment variable that moves the agent's API from AGENT_PORT, on a host that packs share."""
ROUTER_PORT_VARIABLE = "SLM_ROUTER_PORT"
"""Environment variable that moves the router from ROUTER_PORT."""


class Command(BaseModel):
    """Base of what the operator sends: frozen, and strict about field names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Report(BaseModel):
    """Base of what the agent answers: frozen, and lenient about field names."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelRef(Command):
    """Which model a pack serves."""

    uri: Annotated[str, Field(pattern=r"^(hf|file)://.+")]
    name: str
    """The name that clients send."""
    revision: str | None = None


class EngineConfig(Command):
    kind: Literal["vLLM", "Simulated"]
    args: tuple[str, ...] = ()


MpsFallback = Literal["OneReplica", "TimeSlicing"]


class MpsConfig(Command):
    """How replicas share an NVIDIA GPU. None means no cap, as the measurements had it."""

    active_thread_percentage: Annotated[int, Field(ge=1, le=100)] | None = None
    """Of the GPU's SMs, for each replica."""
    fallback: MpsFallback = "OneReplica"
    """Without a working MPS daemon: run one replica only, or let replicas take turns."""


class GpuConfig(Command):
    kind: Literal["NVIDIA", "CPU", "Simulated"]
    memory_reserve_bytes: Annotated[int, Field(ge=0)] | None = None
    """Kept free of replicas; None is a tenth of the device (half of a host's memory)."""
    mps: MpsConfig = MpsConfig()


class PackConfig(Command):
    """What is fixed for a pack's lifetime; a change of it needs a new Pod."""

    model: ModelRef
    engine: EngineConfig
    gpu: GpuConfig


class Layout(Command):
    """How a pack's GPU is divided: equal replicas that share the memory budget evenly."""

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS_PER_PACK)]
    max_num_seqs: Annotated[int, Field(ge=1, le=MAX_NUM_SEQS)]


class Load(Command):
    """A saturating load that the agent sends through its own router while it is wanted, and for a
    minute at the most after the last request of an operator to the agent."""

    prompt_tokens: Annotated[int, Field(ge=1, le=131_072)]
    output_tokens: Annotated[int, Field(ge=1, le=131_072)]


class Routing(Command):
    """How the router spreads requests over the replicas in rotation, and what it holds."""

    mode: Literal["Concentrate", "Spread"] = "Concentrate"
    """Fill a replica to its batch before the next, or always take the least busy."""
    max_queued_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Past it a request is refused with 429 and Retry-After."""
    queue_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 600
    """Past it a request is refused with 503 and Retry-After. A change takes effect when the router
    has nothing to do, since HAProxy has to be started again for it."""


class Plan(Command):
    """What a pack shall be. The agent walks there and says in :class:`PackState` how far it is.

    ``generation`` orders plans: a plan older than the accepted one, or another plan under the same
    generation, is refused (StaleGeneration); the same plan again changes nothing.
    """

    generation: Annotated[int, Field(ge=1)]
    layout: Layout
    rotation: Annotated[int, Field(ge=1, le=MAX_REPLICAS_PER_PACK)]
    """How many of the layout's replicas the router sends requests to."""
    load: Load | None = None
    routing: Routing = Routing()
    standby: Literal["Awake", "Asleep"] = "Awake"
    """What replicas out of rotation do. Asleep ones have given their memory back and join within
    seconds; where the engine cannot sleep they stay awake."""

    @model_validator(mode="after")
    def _rotation_within_layout(self) -> Plan:
        if self.rotation > self.layout.replicas:
            raise ValueError(
                f"rotation {self.rotation} exceeds layout.replicas {self.layout.replicas}: "
                "plan at least as many replicas as take part"
            )
        return self


class Problem(Report):
    """Something that stands in the way, for a condition: a CamelCase reason, cause and remedy."""

    reason: str
    message: str
    since_seconds: float
    """Agent clock at which it was first seen."""


class ReplicaPhase(StrEnum):
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPING = "Stopping"
    FAILED = "Failed"
    """Not running; the agent starts it again after a backoff."""
    ASLEEP = "Asleep"
    """Standby: the process lives, its memory is given back."""
    SET_APART = "SetApart"
    """It faulted the GPU again and again; not started until the layout changes."""


class ReplicaState(Report):
    index: int
    phase: ReplicaPhase
    in_rotation: bool
    max_num_seqs: int
    kv_cache_bytes: int | None
    """KV-cache budget given to the engine; None where the engine chooses."""
    pid: int | None
    starts: int
    """How often this replica was started since the agent began."""
    failures: int = 0
    """How often in a row it died or did not start; minutes of health reset it."""
    start_seconds: float | None = None
    """How long the last successful start took, to the first completion."""
    running: int | None = None
    waiting: int | None = None
    in_flight: int | None = None
    """Requests that the router has given it and that are not answered."""
    problem: Problem | None = None


class Histogram(Report):
    """A cumulative latency histogram, Prometheus style.

    ``bounds_seconds``: shape (n,), ascending finite upper bounds; ``cumulative``: shape (n,), how
    many observations were at most each bound; ``count``: all of them.
    """

    bounds_seconds: tuple[float, ...] = ()
    cumulative: tuple[int, ...] = ()
    count: int = 0
    sum_seconds: float = 0.0


class Counters(Report):
    """Cumulative since the agent began (``PackState.agent_id``), over all replicas it ever ran."""

    sampled_at_seconds: float
    """Agent clock of this sample; differences of it are the length of a window."""
    output_tokens: int = 0
    prompt_tokens: int = 0
    requests_completed: int = 0
    preemptions: int = 0
    energy_millijoules: int | None = None
    """From the device's own counter; None where nobody can measure it."""
    saturated_seconds: float = 0.0
    """Time during which every replica in rotation was full with requests waiting."""
    throttled_seconds: float = 0.0
    """Time during which heat, the board or its supply held the clocks down."""
    power_capped_seconds: float = 0.0
    """Time during which the power limit held them down."""
    replica_starts: int = 0
    """How many engine processes were started; a change inside a window spoils it."""
    missed_samples: int = 0
    """Samples that some replica in rotation did not answer; a change spoils a window."""
    ttft: Histogram = Histogram()
    itl: Histogram = Histogram()


class GpuHealth(Report):
    """Healthy; Degraded: works with errors or throttled by heat or hardware; Unresponsive: the
    driver does not answer; Lost: the GPU is gone, the node has to be mended."""

    state: Literal["Healthy", "Degraded", "Unresponsive", "Lost"] = "Healthy"
    reason: str = ""
    message: str = ""
    since_seconds: float | None = None


class GpuState(Report):
    kind: Literal["NVIDIA", "CPU", "Simulated"]
    name: str
    uuid: str = ""
    driver_version: str = ""
    memory_bytes: int
    memory_used_bytes: int | None = None
    simulated: bool
    power_watts: float | None = None
    energy_source: Literal["Counter", "Integrated", "Unknown"] = "Unknown"
    """The device's own counter, power readings added up by the agent, or nothing."""
    utilization_percent: int | None = None
    """Share of time in which some kernel ran, as NVML defines it."""
    throttle_reasons: tuple[str, ...] = ()
    """What holds the clocks down now: SwPowerCap, HwThermalSlowdown, ..."""
    health: GpuHealth = GpuHealth()
    mps: Literal["NotNeeded", "Running", "Faulted", "Unavailable"]
    """Faulted: a fatal fault ended every client; the set restarts."""
    mps_message: str = ""
    mps_faults: int = 0
    """Fatal faults since the agent began."""


class MemoryLine(Report):
    """One line of the planner's sum."""

    what: str
    size_bytes: int
    source: Literal["measured", "read", "estimated", "configured"]
    """Seen on the device, read from the model's files or the driver, computed, or asked for."""


class Outlook(Report):
    """What the planner expects of a layout; nothing was measured."""

    replicas: int
    max_num_seqs: int
    output_tokens_per_second: float
    power_watts: float
    itl_seconds: float
    """Mean."""


class Packing(Report):
    """What fits on the GPU, by the planner's sum."""

    max_replicas: int
    weights_bytes: int | None
    kv_bytes_per_token: int | None
    message: str
    """The sum in words: budget, weights, KV cache."""
    lines: tuple[MemoryLine, ...] = ()
    """The sum for one replica of the planned layout; while there is none that fits, the least that
    one needs."""
    capacity: KvCapacity | None = None
    """What each replica's KV cache holds in the planned layout."""
    footprint: ModelFootprint | None = None
    """What the sum was made from, for the planner's further questions: with ``reserve_bytes`` (None
    is the planner's own) and ``max_num_seqs``, the batch that it was made for."""
    reserve_bytes: int | None = None
    max_num_seqs: int | None = None
    outlook: tuple[Outlook, ...] = ()
    """What the planner expects; empty where it cannot tell."""


class RoutedReplica(Report):
    """What one replica's place at the router has seen, over all engines that were in it."""

    index: int
    in_flight: int = 0
    """Given to it and not answered, now."""
    served: int = 0
    """Answered with 2xx, whole or not."""
    refused: int = 0
    """Answered with 4xx by the engine."""
    failed: int = 0
    """Answered with 5xx by the engine, or by the router since the engine ended or fell silent."""
    cut: int = 0
    """Ended by the replica after their answer had begun; part of ``served``."""
    left: int = 0
    """Ended by their client before their answer was whole."""
    retried: int = 0
    """Took no connection, and were tried again, here or elsewhere."""


class RouterState(Report):
    """Requests since the agent began, over all clients.

    ``requests`` = ``served`` + ``answered_4xx`` + ``answered_5xx`` + ``unanswered`` + ``lost`` +
    ``in_progress``. The other counts say more of some of these. What the router's process counted
    in the quarter of a second before a sudden end is in none.
    """

    queued: int = 0
    """Waiting now."""
    requests: int = 0
    """Received, for whatever path."""
    in_progress: int = 0
    """Received and not ended, now."""
    served: int = 0
    """Answered with 2xx, whole or not."""
    answered_4xx: int = 0
    """By engine or router. Also requests whose client left after a replica had got them and before
    it answered: HAProxy counts these as 400."""
    answered_5xx: int = 0
    unanswered: int = 0
    """Their client left while they waited or were being sent."""
    lost: int = 0
    """In progress when the router's process was last seen before its sudden end; their clients'
    connections broke."""
    rejected: int = 0
    """Refused with 429, because the queue was full."""
    timed_out: int = 0
    """Refused with 503: no replica took them in time."""
    batchable: int = 0
    """Ended, and had asked for a place in a batch, as completions do, or were refused one. What
    describes a model or goes to a wrong path is left out: it is no work for the GPU."""
    cut: int = 0
    """Ended by their replica after their answer had begun; part of ``served``."""
    left: int = 0
    """Ended by their client after a replica had got them; part of ``served`` when the answer had
    begun, of ``answered_4xx`` when not."""
    retried: int = 0
    """Tried again, here or elsewhere, because a replica took no connection."""
    restarts: int = 0
    """How often the router's process had to be replaced."""
    replicas: tuple[RoutedReplica, ...] = ()


class LoadState(Report):
    """The calibration load's requests since the agent began."""

    sent: int = 0
    completed: int = 0
    failed: int = 0
    turned_away: int = 0
    """Of the failed, those answered 429 or 503: users' requests left the load no room."""
    cancelled: int = 0
    """Ended by the agent itself, when the load was no longer wanted."""
    in_flight: int = 0
    last_failure: str = ""


class PackState(Report):
    agent_id: str
    """Random for each start of the agent: counters compare only within one."""
    version: str
    clock_seconds: float
    gpu: GpuState
    packing: Packing | None
    """None until the model could be read."""
    plan: Plan | None
    settled: bool
    """Whether the pack is what the plan wants: all replicas ready, rotation and load as planned."""
    settled_since_seconds: float | None
    standby_message: str = ""
    """Why replicas out of rotation stay awake although the plan wants them asleep."""
    replicas: tuple[ReplicaState, ...]
    router_queue: int
    """Requests that wait at the router."""
    router: RouterState = RouterState()
    load: LoadState
    load_message: str = ""
    """Why the agent took the load out of the plan; empty again with the next plan."""
    counters: Counters | None
    """None until the first sample."""
    problem: Problem | None
    """What keeps the agent from the plan, the most severe first."""


class ApiError(Report):
    """Body of every refusal. ``reason``: Unauthorized, StaleGeneration, StaleLeader, DoesNotFit,
    InvalidPlan, NotFound."""

    reason: str
    message: str
    max_replicas: int | None = None
    """With DoesNotFit: how many would fit."""
