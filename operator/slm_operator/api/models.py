"""SLMService v1alpha1: what a user may ask for. Defaults and rules here are those of the CRD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from slm_operator.api import pod_rules, rules
from slm_operator.api.base import ApiModel
from slm_operator.api.pod_template import PodTemplate, SecretName
from slm_operator.api.status import SLMServiceStatus
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK, MpsFallback

GROUP = "serving.slm.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SLMService"
PLURAL = "slmservices"

MAX_PACKS = 64
MAX_TOKENS = 131_072

_SIZE_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40} | {
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}

_SECONDS = {"s": 1, "m": 60, "h": 3600}

ReplicaCount = Annotated[int, Field(ge=1, le=MAX_REPLICAS_PER_PACK)]
PackCount = Annotated[int, Field(ge=1, le=MAX_PACKS)]
TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Percent = Annotated[int, Field(ge=0, le=100)]
ModelText = Annotated[
    str,
    Field(min_length=1, max_length=128, json_schema_extra=rules.validations(pod_rules.MODEL_TEXT)),
]


class SecretKeyRef(ApiModel):
    """A key of a Secret in the service's namespace."""

    name: SecretName
    """Name of the Secret."""
    key: Annotated[
        str,
        Field(
            min_length=1, max_length=253, json_schema_extra=rules.validations(pod_rules.SECRET_KEY)
        ),
    ]
    """Key inside the Secret."""


class Model(ApiModel):
    """The model to serve."""

    model_config = rules.ruled_by(rules.REVISION_NEEDS_HUB)

    uri: Annotated[
        str,
        Field(min_length=1, max_length=512, json_schema_extra=rules.validations(*rules.MODEL_URI)),
    ]
    """Where the model is: hf://ORGANISATION/NAME on the Hugging Face Hub; pvc://CLAIM/PATH, a
    directory of a PersistentVolumeClaim; oci://REGISTRY/REPOSITORY:TAG, an image that holds the
    model's files at its root (Kubernetes mounts it as an image volume); or file:///PATH, a
    directory inside the worker's container."""
    name: ModelText | None = None
    """The model name that clients send. Default: the name of the SLMService."""
    revision: ModelText | None = None
    """Branch, tag or commit of an hf:// model. Default: its main branch."""
    credentials_secret_ref: SecretKeyRef | None = None
    """Access token for a private or gated hf:// model."""


class EnvVar(ApiModel):
    """An environment variable of the engines."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            json_schema_extra=rules.validations(*rules.ENVIRONMENT_NAME),
        ),
    ]
    """Name of the variable. SLM_* and POD_IP belong to the operator; VLLM_API_KEY is refused as the
    argument --api-key is."""
    value: Annotated[str, Field(max_length=4096)]
    """Value of the variable."""


class Engine(ApiModel):
    """The server that each replica runs."""

    kind: Literal["vLLM", "Simulated"] = "vLLM"
    """vLLM, or Simulated: no model runs; for trying the operator without a GPU."""
    image: Annotated[str, Field(max_length=512, pattern=r"^\S*$")] = ""
    """Container image of the worker. Default (empty): the operator's worker image."""
    args: Annotated[
        tuple[
            Annotated[
                str,
                Field(
                    min_length=1,
                    max_length=1024,
                    json_schema_extra=rules.validations(rules.ENGINE_ARGUMENT),
                ),
            ],
            ...,
        ],
        Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """Further arguments of the engine, such as --max-model-len=2048. What the operator sets itself
    (address, model, memory, batch size, parallelism) is refused."""
    env: Annotated[
        tuple[EnvVar, ...],
        Field(
            max_length=64,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ] = ()
    """Environment variables of the engines."""
    max_num_seqs: Annotated[int, Field(ge=1, le=MAX_NUM_SEQS)] | None = None
    """Most sequences that one replica batches. Left out: 256, and larger batches of one replica are
    part of the search."""


class Mps(ApiModel):
    """How the replicas of a pack share its NVIDIA GPU through MPS."""

    active_thread_percentage: Annotated[int, Field(ge=1, le=100)] | None = None
    """Most of the GPU's multiprocessors that each replica may use, in percent. Left out: all, so
    that replicas fill each other's gaps."""
    fallback: MpsFallback = "OneReplica"
    """What to do on a node without a working MPS daemon. OneReplica: run one replica on the GPU.
    TimeSlicing: run as many as planned, which then take turns and gain little."""


class Gpu(ApiModel):
    """The device that a pack owns."""

    model_config = rules.ruled_by(rules.MPS_NEEDS_NVIDIA)

    kind: Literal["NVIDIA", "CPU", "Simulated"] = "NVIDIA"
    """NVIDIA, CPU (the host's, for development: nothing measures its power), or Simulated (goes
    with engine.kind Simulated)."""
    resource_name: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules.validations(pod_rules.RESOURCE),
        ),
    ] = "nvidia.com/gpu"
    """The resource that stands for one whole NVIDIA GPU; each pack requests one of it."""
    memory_reserve: (
        Annotated[
            str,
            Field(max_length=16, json_schema_extra=rules.validations(rules.MEMORY_RESERVE)),
        ]
        | None
    ) = None
    """Memory of the device that replicas leave free, such as 4Gi. Left out: a tenth of the GPU, or
    half of a CPU host's."""
    mps: Mps | None = None
    """How replicas share the GPU; goes with kind NVIDIA. Left out: no limit, and one replica on a
    node without MPS."""

    @property
    def memory_reserve_bytes(self) -> int | None:
        if self.memory_reserve is None:
            return None
        number = self.memory_reserve.rstrip("".join(_SIZE_UNITS))
        return int(number) * _SIZE_UNITS[self.memory_reserve[len(number) :]]


class CalibrationSpec(ApiModel):
    """How the operating points are measured."""

    when: Literal["OnStart", "Live", "Never"] = "OnStart"
    """OnStart: with a saturating load of the operator's own, before the replica count is known, and
    again when the traffic has become another one or the points are a week old. Live: under the
    users' own requests, whenever they fill the replicas that are to be measured. Never: nothing is
    measured; known points decide, else minReplicasPerPack run."""
    prompt_tokens: TokenCount = 128
    """Prompt length of that load, in tokens. Use the mean of your traffic. Not used with Live."""
    output_tokens: TokenCount = 256
    """Output length of that load, in tokens. Use the mean of your traffic. Not used with Live."""


class Slo(ApiModel):
    """Latencies that a full pack must keep."""

    ttft_p95: (
        Annotated[str, Field(max_length=16, json_schema_extra=rules.validations(rules.TTFT_P95))]
        | None
    ) = None
    """Longest time to the first token, 95th percentile, such as 500ms. Measured while requests
    wait, since only a full pack tells its capacity."""
    itl_p95: (
        Annotated[str, Field(max_length=16, json_schema_extra=rules.validations(rules.ITL_P95))]
        | None
    ) = None
    """Longest time between two tokens, 95th percentile, such as 50ms. Where the batch is left open
    and 256 sequences break it, smaller batches are tried."""


class Autoscaling(ApiModel):
    """How the replica count is found."""

    model_config = rules.ruled_by(
        rules.REPLICA_BOUNDS, rules.MIN_NEEDS_MAX_PACKS, rules.PACK_BOUNDS, rules.PACKS_NEED_AUTO
    )

    mode: Literal["Auto", "Recommend"] = "Auto"
    """Auto: set the replica count. Recommend: measure and report it, and keep the count as it is.
    To measure, Recommend too restarts the replicas of one pack and saturates them, then goes back
    to what ran before."""
    min_replicas_per_pack: ReplicaCount = 1
    """Fewest replicas on one GPU."""
    max_replicas_per_pack: ReplicaCount = 8
    """Most replicas on one GPU. Never more than fit into its memory."""
    objective: Literal["Balanced", "MaxThroughput", "MinEnergyPerToken"] = "Balanced"
    """Which measured point wins. Balanced: the most throughput within the limits of
    maxEnergyIncreasePercent and minThroughputGainPercent. MaxThroughput: the most throughput,
    whatever its energy. MinEnergyPerToken: the least energy per token. Differences within the noise
    go to fewer replicas."""
    min_throughput_gain_percent: Percent = 3
    """What each further replica must add to the throughput, in percent."""
    max_energy_increase_percent: Percent = 5
    """How far energy per token may lie above the least measured, in percent."""
    slo: Slo | None = None
    """Latencies that a point must keep to be chosen. Left out: none. When no point keeps them, the
    one that comes nearest runs, and SLOMet says so."""
    power_budget_watts: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Most power that the GPU of one pack may draw, in watts. Left out: no limit. When no point
    keeps it, the one that comes nearest runs, and PowerBudgetMet says so."""
    power_priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Who keeps its power when the operator has a budget for the whole cluster: a service is held
    back only when all of lower priority are at their least."""
    calibration: CalibrationSpec = CalibrationSpec()
    """How the operating points are measured."""
    min_packs: Annotated[int, Field(ge=0, le=MAX_PACKS)] | None = None
    """Fewest packs that demand leaves; goes with maxPacks. 0: without a request for the whole of
    scaleDownStabilization no pack runs; the operator's activator holds what arrives then, and a
    pack starts. Left out: 1."""
    max_packs: PackCount | None = None
    """Most packs that demand adds: the packs then follow what arrives, by what a pack was measured
    to serve. Goes without spec.packs. Left out: spec.packs gives the number."""
    scale_down_stabilization: Annotated[
        str, Field(max_length=16, json_schema_extra=rules.validations(rules.STABILIZATION))
    ] = "5m"
    """How long fewer packs have to be enough for the demand before packs are removed, in s, m or h,
    such as 5m."""

    @property
    def fewest_packs(self) -> int:
        """What demand leaves, whatever it is."""
        return 1 if self.min_packs is None else self.min_packs

    @property
    def scale_down_stabilization_seconds(self) -> float:
        text = self.scale_down_stabilization
        return float(text[:-1]) * _SECONDS[text[-1]]


class Rollout(ApiModel):
    """How a change of the model, the engine or the GPU reaches the packs. One pack is tried with it
    first; the others follow when that proves itself, and it is rolled back when it does not."""

    paused: bool = False
    """Whether packs stay as they are for now, whatever was changed. New packs beside them get what
    runs."""
    max_energy_increase_percent: Annotated[int, Field(ge=0, le=1000)] = 10
    """How far energy per token of the pack that is tried may lie above that of the same layout
    before the change, in percent. Not judged across a change of model.uri."""
    progress_deadline: Annotated[
        str, Field(max_length=16, json_schema_extra=rules.validations(rules.PROGRESS_DEADLINE))
    ] = "10m"
    """How long the pack that is tried, or those that follow it, may get no further on their way to
    serving, in s, m or h, such as 10m. An engine that starts and has not failed is given the time
    that it takes."""

    @property
    def progress_deadline_seconds(self) -> float:
        return float(self.progress_deadline[:-1]) * _SECONDS[self.progress_deadline[-1]]


class SLMServiceSpec(ApiModel):
    """What shall be served, and on what. Only model.uri is required."""

    model_config = rules.ruled_by(
        rules.FIXED_OR_FOUND, rules.PACKS_FIXED_OR_FOLLOWING, rules.SIMULATED_TOGETHER
    )

    model: Model
    engine: Engine = Engine()
    gpu: Gpu = Gpu()
    packs: PackCount = 1
    """Number of packs. A pack is one Pod that owns one whole GPU and runs replicas of the model on
    it. kubectl scale sets this field. Leave it out where spec.autoscaling.maxPacks lets demand
    decide."""
    replicas_per_pack: ReplicaCount | None = None
    """Fixes the number of replicas on each GPU. Left out: the operator finds the Pareto-optimal
    count."""
    autoscaling: Autoscaling | None = None
    """How the replica count is found. Left out: mode Auto with its defaults."""
    pod_template: PodTemplate | None = None
    """What the packs' Pods have besides. Left out: nothing."""
    rollout: Rollout | None = None
    """How a change reaches the packs. Left out: its defaults."""


class SLMService(ApiModel):
    """A small language model, served by several replicas on each GPU, as many as are worth their
    energy."""

    name: str
    namespace: str
    uid: str
    generation: int
    deleting: bool
    spec: SLMServiceSpec
    status: SLMServiceStatus

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> SLMService:
        """Reads an object of the API server. Raises pydantic.ValidationError when a stored object
        breaks today's schema."""
        metadata = obj["metadata"]
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            deleting="deletionTimestamp" in metadata,
            spec=SLMServiceSpec.model_validate(obj.get("spec", {})),
            status=SLMServiceStatus.model_validate(obj.get("status") or {}),
        )

    @property
    def autoscaling(self) -> Autoscaling:
        """The effective settings: absent means the defaults."""
        return self.spec.autoscaling or Autoscaling()

    @property
    def rollout(self) -> Rollout:
        """The effective settings: absent means the defaults."""
        return self.spec.rollout or Rollout()

    @property
    def follows_demand(self) -> bool:
        """Whether demand decides how many packs there are."""
        return self.autoscaling.max_packs is not None

    @property
    def wanted_packs(self) -> int:
        """spec.packs; or what demand was last decided to take, within the bounds."""
        most = self.autoscaling.max_packs
        if most is None:
            return self.spec.packs
        known = self.status.desired_packs
        if known is None:
            # Before anything was decided, those that are there stay; a new service is measured.
            known = max(self.status.packs, 1)
        return min(max(known, self.autoscaling.fewest_packs), most)

    @property
    def scales_to_zero(self) -> bool:
        """Whether no pack runs while nothing is asked for."""
        return self.follows_demand and self.autoscaling.fewest_packs == 0

    @property
    def model_name(self) -> str:
        """The name that clients send: spec.model.name, or else the service's own."""
        return self.spec.model.name or self.name
