"""SLMService v1alpha1: what a user may add to the Pods of the packs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from slm_operator.api import pod_rules
from slm_operator.api.base import ApiModel
from slm_operator.api.rules import ruled_by, validations

ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
MOST_ENTRIES = 32


def _keyed_by(field: str, **more: Any) -> dict[str, Any]:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field], **more}


ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, json_schema_extra=validations(pod_rules.OBJECT_NAME)),
]
SecretName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        json_schema_extra=validations(pod_rules.OBJECT_NAME, pod_rules.NOT_A_TOKEN),
    ),
]
LabelValue = Annotated[
    str, Field(max_length=63, json_schema_extra=validations(pod_rules.LABEL_TEXT))
]
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(
        max_length=16,
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            **validations(pod_rules.AMOUNT),
        },
    ),
]
"""As in a Pod, a bare number is one too."""
Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=MOST_ENTRIES, json_schema_extra=validations(*pod_rules.LABELS)),
]
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=MOST_ENTRIES, json_schema_extra=validations(*pod_rules.ANNOTATIONS)),
]
NodeSelector = Annotated[
    dict[str, LabelValue],
    Field(max_length=MOST_ENTRIES, json_schema_extra=validations(pod_rules.NODE_SELECTOR_KEYS)),
]


class Toleration(ApiModel):
    """A taint of nodes that packs bear."""

    model_config = ruled_by(*pod_rules.TOLERATION)

    key: (
        Annotated[str, Field(max_length=316, json_schema_extra=validations(pod_rules.TAINT_KEY))]
        | None
    ) = None
    """The taint's key. Left out, with operator Exists: every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal: the taint's value has to be the one here. Exists: any value."""
    value: LabelValue | None = None
    """The taint's value, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect. Left out: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """How long a pack stays on a node that is tainted with NoExecute. Left out: for ever."""


class Amounts(ApiModel):
    """Amounts of a node's resources, as Kubernetes quantities."""

    cpu: Quantity | None = None
    """Cores, such as 4 or 500m. Replicas need cores of their own."""
    memory: Quantity | None = None
    """Memory of the host, such as 16Gi."""
    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")
    """Disk, such as 20Gi: where hf:// models are downloaded to."""


class Resources(ApiModel):
    """Resources of a pack's container, apart from its GPU."""

    model_config = ruled_by(*pod_rules.REQUESTS_WITHIN_LIMITS)

    requests: Amounts | None = None
    """What the scheduler keeps for the pack."""
    limits: Amounts | None = None
    """What the pack may use at most."""


class ClaimSource(ApiModel):
    """A PersistentVolumeClaim of the service's namespace."""

    claim_name: ObjectName
    """Its name."""


class ConfigMapSource(ApiModel):
    """A ConfigMap of the service's namespace."""

    name: ObjectName
    """Its name."""


class SecretSource(ApiModel):
    """A Secret of the service's namespace."""

    secret_name: SecretName
    """Its name."""


class EmptyDirSource(ApiModel):
    """A directory that lives as long as the Pod."""

    size_limit: Quantity | None = None
    """Most bytes in it, such as 50Gi. Left out: as the node allows."""


class Volume(ApiModel):
    """A volume, and where the engines find it. One of its sources has to be given."""

    model_config = ruled_by(pod_rules.ONE_SOURCE)

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            json_schema_extra=validations(pod_rules.VOLUME_FORM, pod_rules.VOLUME_NAME),
        ),
    ]
    """Name of the volume."""
    mount_path: Annotated[
        str,
        Field(min_length=1, max_length=253, json_schema_extra=validations(*pod_rules.MOUNT_PATH)),
    ]
    """Directory in the container, such as /models: spec.model.uri can be file:///models/NAME."""
    read_only: bool = False
    """Whether the engines may only read it."""
    persistent_volume_claim: ClaimSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    empty_dir: EmptyDirSource | None = None


class PullSecret(ApiModel):
    """A Secret of the service's namespace."""

    name: SecretName
    """Its name."""


class PodTemplate(ApiModel):
    """Added to every pack's Pod. What the operator sets itself (containers, probes, security,
    service account) stays as it is. A change replaces the packs."""

    labels: Labels | None = None
    """Further labels of the Pods."""
    annotations: Annotations | None = None
    """Further annotations of the Pods."""
    node_selector: NodeSelector | None = None
    """Labels that a node must have, such as nvidia.com/gpu.product."""
    tolerations: Annotated[
        tuple[Toleration, ...], Field(max_length=MOST_ENTRIES, json_schema_extra=ATOMIC)
    ] = ()
    """Taints that packs bear, such as those of GPU nodes."""
    resources: Resources | None = None
    """CPU, memory and disk of each pack. Left out: no request and no limit."""
    volumes: Annotated[
        tuple[Volume, ...],
        Field(max_length=16, json_schema_extra=_keyed_by("name", **validations(pod_rules.MOUNTS))),
    ] = ()
    """Further volumes."""
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...], Field(max_length=16, json_schema_extra=_keyed_by("name"))
    ] = ()
    """Secrets with credentials of registries, for engine.image and oci:// models."""
    priority_class_name: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=253,
                json_schema_extra=validations(pod_rules.OBJECT_NAME, pod_rules.NOT_OF_THE_SYSTEM),
            ),
        ]
        | None
    ) = None
    """PriorityClass of the Pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the Pods, such as nvidia."""
