"""SLMService v1alpha1: what the operator reports."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from slm_operator.api.base import ApiModel


def _cut(limit: int) -> BeforeValidator:
    """Shortens a text, so that someone else's long message never keeps a status unwritten."""

    def cut(value: Any) -> Any:
        if isinstance(value, str) and len(value) > limit:
            return value[: limit - 1] + "…"
        return value

    return BeforeValidator(cut)


Text = Annotated[str, _cut(4096), Field(max_length=4096)]
ShortText = Annotated[str, _cut(253), Field(max_length=253)]
Word = Annotated[str, _cut(64), Field(max_length=64)]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC."""
Duration = Annotated[str, Field(max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(us|ms|s)$")]

INPUTS_KEPT = 24
ALTERNATIVES_KEPT = 8
HISTORY_KEPT = 10
FAILED_LAYOUTS_KEPT = 64

ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


def _keyed_by(field: str) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


class Figures(ApiModel):
    """What one valid window measured."""

    replicas_per_pack: int
    """Replicas in rotation."""
    max_num_seqs: int
    """Sequences that each replica batched."""
    output_tokens_per_second: int
    """Mean throughput of the pack."""
    power_watts: int | None = None
    """Mean power of the GPU; absent where nothing measures it."""
    microjoules_per_output_token: int | None = None
    """Energy of one output token; absent where nothing measures power."""
    ttft_p95: Duration | None = Field(default=None, alias="ttftP95")
    """Time to first token, 95th percentile, as a duration."""
    itl_p95: Duration | None = Field(default=None, alias="itlP95")
    """Time between tokens, 95th percentile, as a duration."""
    measured_at: Timestamp
    """When the window ended."""


class OperatingPointStatus(Figures):
    """The chosen point: what each pack runs now, by its last valid window."""

    joules_per_output_token: Annotated[str | None, Field(max_length=20)] = None
    """The same energy in joules, for reading."""


class WorkloadStatus(ApiModel):
    """What requests are like."""

    prompt_tokens: int
    """Mean prompt length."""
    output_tokens: int
    """Mean output length."""
    arrivals: Literal["Steady", "Bursty"] | None = None
    """Bursty: the arrival rate swings by three quarters or more beyond chance. Absent while it is
    not known, and for a load of the operator's own."""


class Compared(ApiModel):
    """The two numbers that a rule held against each other."""

    quantity: Word
    """What they measure; its name has the unit, such as outputTokensPerSecond."""
    value: int
    """The point's own."""
    bound: int
    """What it was held against: a limit, or what another point made necessary."""


class JudgedPoint(Figures):
    """A measured point and the rule that judged it."""

    layout_replicas: int
    """Replicas that were started; more than replicasPerPack when probed by rotation."""
    confidence_tokens_per_second: int
    """Half width of the throughput's 95 % confidence interval."""
    rule: Word | None = None
    """The rule that decided, by its name; the documentation lists each."""
    compared: Compared | None = None
    """What the rule compared; absent where it compares nothing."""


class FrontierPoint(JudgedPoint):
    """A measured point, and what became of it."""

    window_seconds: int
    """Length of the measurement."""
    windows: int = 1
    """Measurements that were pooled in it."""
    saturated_percent: int
    """Share of the window in which every replica in rotation was full with requests waiting."""
    preemptions_per_hundred_requests: int | None = None
    """How often requests lost their KV cache and were computed again; absent while no request was
    completed."""
    workload: WorkloadStatus | None = None
    """What was served; a point counts for requests like these."""
    power_capped_percent: int | None = None
    """Share of the window in which the power limit held the GPU's clocks down."""
    simulated: bool
    """Whether the figures come from a simulated GPU."""
    on_frontier: bool
    """Whether no other point beats this one by more than the noise."""
    chosen: bool
    """Whether it is the recommended point."""
    why: Text
    """Why it was chosen, or what beat it, with both numbers."""


class MeasuringStatus(ApiModel):
    """The point that is being measured."""

    layout_replicas: int
    """Replicas that are started."""
    replicas_per_pack: int
    """Replicas in rotation."""
    max_num_seqs: int
    """Sequences that each replica batches."""
    since: Timestamp
    """When the measurement began."""
    window_seconds: int
    """Shortest window; a noisy one takes longer."""


class LayoutStatus(ApiModel):
    """How a pack's GPU is divided."""

    replicas_per_pack: int
    """Replicas that are started, all of them in rotation."""
    max_num_seqs: int
    """Sequences that each replica batches."""


class FailedLayout(ApiModel):
    """A layout that could not be started, or that was given up."""

    replicas_per_pack: int
    """Replicas that were to be started."""
    max_num_seqs: int
    """Sequences that each was to batch."""
    why: Text
    """The reason as a word, and the engine's cause."""
    until: Timestamp
    """When an open search may try it again."""


class CalibrationStatus(ApiModel):
    """Where the search stands."""

    fingerprint: ShortText
    """Of model, engine, GPU, arguments and load; points under another one do not count."""
    phase: Literal["Pending", "Fixed", "Off", "Waiting", "Searching", "Confirming", "Done"]
    """Pending: waiting for a pack. Fixed: spec.replicasPerPack gives the count. Off: nothing was
    measured and nothing will be (calibration.when Never). Waiting: the users' requests do not fill
    what is to be measured (Live). Searching: trying replica counts. Confirming: measuring the
    winner in its own layout. Done: the count is known."""
    measuring: MeasuringStatus | None = None
    chosen: LayoutStatus | None = None
    """What was chosen last under this fingerprint. Only a point that is better beyond doubt
    replaces it."""
    expected: LayoutStatus | None = None
    """Where the planner expected the optimum when the search began: what was measured first."""
    searching_since: Timestamp | None = None
    """When this search began; after four hours it settles for what is known, and stays there until
    the spec, the configuration or the traffic change, or for a week."""
    failed_layouts: Annotated[
        tuple[FailedLayout, ...], Field(max_length=FAILED_LAYOUTS_KEPT, json_schema_extra=ATOMIC)
    ] = ()
    """Layouts that are not tried again yet."""
    workload: WorkloadStatus | None = None
    """What points have to have served to count now: the load of the operator's own at first, then
    what the traffic has become."""
    points_since: Timestamp | None = None
    """Points that are older do not count, because the GPU's power limit was changed."""
    too_few_replicas: int | None = None
    """So many in rotation let users wait too long while they were to be measured (Live); no fewer
    than one more are tried under this workload."""


class PowerStatus(ApiModel):
    """This service's entry in the ledger of the cluster's power budget."""

    cluster_budget_watts: int
    """What all services together may draw."""
    allotted_watts: int
    """What all packs of this one are counted with: saturated, at the point that the limit leaves.
    0 while nothing is measured."""
    limit_watts_per_pack: int | None = None
    """Most that one pack may draw; absent while nothing is taken off."""
    given_up_tokens_per_second: int = 0
    """Output tokens/s that all packs together would serve more without that limit."""
    exceeded: bool = False
    """Whether the measured services exceed the budget even with each at its least."""


class TemplateStatus(ApiModel):
    """What packs are made of."""

    hash: ShortText
    """The packs' annotation serving.slm.dev/template-hash."""
    worker_image: Annotated[str, _cut(512), Field(max_length=512)] = ""
    """The image where spec.engine.image is empty."""
    spec: dict[str, Any]
    """The fields of the spec that it comes from."""


class RolloutStatus(ApiModel):
    """How far a change of the packs' template has come."""

    phase: Literal["Complete", "Canary", "Paused", "Progressing", "RolledBack"]
    """Complete: all packs run the spec's template. Canary: one pack is tried with it. Paused:
    spec.rollout.paused keeps packs as they are. Progressing: packs are replaced, one at a time.
    RolledBack: the one that was tried, or one that followed, failed, and packs keep the template
    before or get it back."""
    attempt: ShortText
    """Of the template and of what it is held to; the same is not tried again once rolled back."""
    updated_packs: int = 0
    """Packs that run the spec's template."""
    progress: int = 0
    """How far the pack that is waited for has come; only a higher number is progress."""
    progressed_at: Timestamp | None = None
    """When it last got further."""
    places: int | None = None
    """How many packs found a GPU, once there was none for one more: then an outdated pack goes
    before its successor comes."""
    why: Text = ""
    """Why it was rolled back, or by which figures it passed."""
    stable: TemplateStatus | None = None
    """The last template that proved itself."""
    previous: TemplateStatus | None = None
    """The one before that."""


class Condition(ApiModel):
    """One aspect of the service's state."""

    type: Annotated[str, Field(max_length=316)]
    """Which aspect, such as Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(max_length=1024)]
    """A CamelCase word; the documentation lists each with cause and remedy."""
    message: Text
    """Cause and remedy in words."""
    last_transition_time: Timestamp
    """When the status changed last."""
    observed_generation: int
    """The metadata.generation that this is about."""


class Alternative(JudgedPoint):
    """A point that a decision passed over."""

    why: ShortText
    """What spoke against it, with both numbers."""


class Input(ApiModel):
    """A figure that a decision read, apart from the points."""

    name: Word
    """Its name, with the unit, such as minThroughputGainPercent."""
    value: Word
    """A number, or a word."""


class HistoryEntry(ApiModel):
    """One decision."""

    time: Timestamp
    """When it was taken."""
    from_: ShortText = Field(alias="from")
    """What ran before."""
    to: ShortText
    """What runs from then on."""
    reason: ShortText
    """A CamelCase word: what kind of decision it is."""
    rule: Word | None = None
    """The rule that decided, by its name; the documentation lists each."""
    message: Text
    """The reason in words."""
    inputs: Annotated[
        tuple[Input, ...], Field(max_length=INPUTS_KEPT, json_schema_extra=_keyed_by("name"))
    ] = ()
    """What was asked for when it was taken: objective, tolerances and limits."""
    point: JudgedPoint | None = None
    """The point that was chosen, or the one that was just measured."""
    alternatives: Annotated[
        tuple[Alternative, ...], Field(max_length=ALTERNATIVES_KEPT, json_schema_extra=ATOMIC)
    ] = ()
    """The points that it was chosen among, each with what spoke against it."""
    alternatives_omitted: int = 0
    """How many more there were, with less throughput than these."""


class SLMServiceStatus(ApiModel):
    """What the operator sees and decided."""

    observed_generation: int = 0
    """The metadata.generation that this status is about."""
    packs: int = 0
    """Packs that exist."""
    desired_packs: int | None = None
    """Packs that there shall be: spec.packs, or what demand takes."""
    ready_packs: int = 0
    """Packs that answer requests."""
    activator_port: int | None = None
    """Port of the activator that is this service's, where it scales to zero."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Label selector of the packs, for the scale subresource."""
    replicas: int = 0
    """Engine processes that run, over all packs."""
    ready_replicas: int = 0
    """Engine processes that answer requests, over all packs."""
    recommended_replicas_per_pack: int | None = None
    """The Pareto-optimal count, once it is known."""
    operating_point: OperatingPointStatus | None = None
    frontier: Annotated[
        tuple[FrontierPoint, ...], Field(max_length=64, json_schema_extra=ATOMIC)
    ] = ()
    """Every measured point."""
    calibration: CalibrationStatus | None = None
    power: PowerStatus | None = None
    """The share of the cluster's power budget; absent where the operator has none."""
    rollout: RolloutStatus | None = None
    conditions: Annotated[
        tuple[Condition, ...],
        Field(max_length=16, json_schema_extra=_keyed_by("type")),
    ] = ()
    """Ready and other aspects of the state, each with its cause."""
    history: Annotated[
        tuple[HistoryEntry, ...], Field(max_length=HISTORY_KEPT, json_schema_extra=ATOMIC)
    ] = ()
    """The last ten decisions, oldest first."""

    def to_object(self) -> dict[str, Any]:
        """As the API server stores it: camelCase, nothing that is unknown."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_json(self) -> str:
        """The same, as text."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)
