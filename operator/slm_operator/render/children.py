"""Builders of a service's children: the agent's token, the Service in front, one Pod a pack."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from slm_operator.api.models import API_VERSION, GROUP, KIND, Mps, SLMService
from slm_operator.api.pod_rules import TOKEN_MOUNT, TOKEN_SECRET_SUFFIX, TOKEN_VOLUME
from slm_operator.api.pod_template import PodTemplate
from slm_operator.api.rules import PACKS_SUFFIX
from slm_operator.render import model_volume, template
from slm_worker.wire import (
    ADDRESS_VARIABLE,
    AGENT_PORT,
    CONFIG_VARIABLE,
    ROUTER_PORT,
    TOKEN_FILE_VARIABLE,
    EngineConfig,
    GpuConfig,
    ModelRef,
    MpsConfig,
    PackConfig,
)

Object = dict[str, Any]

MANAGED_BY = "slm-operator"
INSTANCE_LABEL = "app.kubernetes.io/instance"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
PACK_LABEL = f"{GROUP}/pack"
TEMPLATE_HASH = f"{GROUP}/template-hash"
TOKEN_KEY = "token"  # noqa: S105 - the key in the Secret, not a token

TERMINATION_GRACE_SECONDS = 120
"""Longer than an agent's end can take: 5 s that it serves on, 25 s of drain, 22 s until the last
engine's process group is gone, 6 s for the router, 20 s for MPS, and a pass that is under way."""
HOME = "/tmp"  # noqa: S108 - inside the container
"""The one place on disk where a pack may write: an hf:// model is downloaded below it, and lives as
long as the Pod."""


def pack_name(service: SLMService, ordinal: int) -> str:
    return f"{service.name}-pack-{ordinal}"


def selector(service: SLMService) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, INSTANCE_LABEL: service.name}


def pack_config(service: SLMService) -> PackConfig:
    """What the agent is told for its lifetime."""
    spec = service.spec
    return PackConfig(
        model=ModelRef(
            uri=model_volume.path_in_pod(spec.model.uri),
            name=spec.model.name or service.name,
            revision=spec.model.revision,
        ),
        engine=EngineConfig(kind=spec.engine.kind, args=spec.engine.args),
        gpu=GpuConfig(
            kind=spec.gpu.kind,
            memory_reserve_bytes=spec.gpu.memory_reserve_bytes,
            mps=_mps_config(spec.gpu.mps),
        ),
    )


def _mps_config(mps: Mps | None) -> MpsConfig:
    if mps is None:
        return MpsConfig()
    return MpsConfig(active_thread_percentage=mps.active_thread_percentage, fallback=mps.fallback)


def token_secret(service: SLMService, token: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": child_metadata(service, secret_name(service.name)),
        "type": "Opaque",
        "stringData": {TOKEN_KEY: token},
    }


def secret_name(service: str) -> str:
    return f"{service}{TOKEN_SECRET_SUFFIX}"


def front_service(service: SLMService) -> Object:
    """The Service that clients use: port 80 to the routers of the ready packs."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(service, service.name),
        "spec": {
            "selector": selector(service),
            "ports": [
                {"name": "http", "port": 80, "targetPort": ROUTER_PORT, "protocol": "TCP"},
            ],
        },
    }


def headless_service(service: SLMService) -> Object:
    """The packs' own addresses: for clients that balance the load themselves, and for scrapers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(service, f"{service.name}{PACKS_SUFFIX}"),
        "spec": {
            "clusterIP": "None",
            "selector": selector(service),
            "ports": [
                {"name": "http", "port": ROUTER_PORT, "protocol": "TCP"},
                {"name": "agent", "port": AGENT_PORT, "protocol": "TCP"},
            ],
        },
    }


def disruption_budget(service: SLMService, packs: int) -> Object:
    """A node's drain evicts one pack at a time of the ``packs`` that have a node, or may get one
    soon: of others none serves, however long it waits. A lone pack may go: a drain that waits for
    ever helps nobody, and so may one that does not serve. The number is counted from above, since
    Kubernetes takes no percentage and no maxUnavailable for Pods whose owner is none of its own
    kinds."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(service, service.name),
        "spec": {
            "minAvailable": max(0, packs - 1),
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(service)},
        },
    }


def pack_pod(service: SLMService, ordinal: int, worker_image: str) -> Object:
    """The Pod of one pack. It owns a whole GPU; replicas come and go inside it."""
    spec = _pod_spec(service, worker_image)
    metadata = child_metadata(service, pack_name(service, ordinal))
    added = service.spec.pod_template or PodTemplate()
    metadata["labels"] = {**(added.labels or {}), **metadata["labels"], PACK_LABEL: str(ordinal)}
    metadata["annotations"] = {
        **(added.annotations or {}),
        TEMPLATE_HASH: template_hash(service, worker_image),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def template_hash(service: SLMService, worker_image: str) -> str:
    """Changes when a running Pod no longer is what the service wants."""
    added = service.spec.pod_template or PodTemplate()
    marks = [each for each in (added.labels, added.annotations) if each]
    text = json.dumps(_pod_spec(service, worker_image), sort_keys=True)
    if marks:
        text += json.dumps([added.labels, added.annotations], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def child_metadata(service: SLMService, name: str) -> Object:
    return {
        "name": name,
        "namespace": service.namespace,
        "labels": {**selector(service), "app.kubernetes.io/name": "slmservice"},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": service.name,
                "uid": service.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def _pod_spec(service: SLMService, worker_image: str) -> Object:
    spec = service.spec
    container: Object = {
        "name": "pack",
        "image": spec.engine.image or worker_image,
        "command": ["python", "-m", "slm_worker"],
        "env": _by_name(
            {"name": "HOME", "value": HOME},
            {"name": CONFIG_VARIABLE, "value": pack_config(service).model_dump_json()},
            {"name": TOKEN_FILE_VARIABLE, "value": f"{TOKEN_MOUNT}/{TOKEN_KEY}"},
            {
                "name": ADDRESS_VARIABLE,
                "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
            },
            *_model_credentials(service),
            *({"name": e.name, "value": e.value} for e in spec.engine.env),
        ),
        "ports": [
            {"name": "http", "containerPort": ROUTER_PORT, "protocol": "TCP"},
            {"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "agent"}, "periodSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        # The agent's log is where it says why it ends.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": HOME},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            # The whole directory: of a single file the kubelet would never bring a newer one.
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_MOUNT, "readOnly": True},
        ],
    }
    if spec.gpu.kind == "NVIDIA":
        container["resources"] = {"limits": {spec.gpu.resource_name: "1"}}
    pod: Object = {
        "containers": [container],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "automountServiceAccountToken": False,
        # Service variables such as VLLM_PORT would be read by vLLM as its own settings.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # So that the end of one node is not that of all packs, where there are others.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(service)},
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            {
                "name": TOKEN_VOLUME,
                "secret": {
                    "secretName": secret_name(service.name),
                    "items": [{"key": TOKEN_KEY, "path": TOKEN_KEY}],
                    "defaultMode": 0o440,
                },
            },
        ],
    }
    model_volume.mount(pod, spec.model.uri)
    if spec.pod_template is not None:
        template.add(pod, spec.pod_template)
    return pod


def _model_credentials(service: SLMService) -> list[Object]:
    ref = service.spec.model.credentials_secret_ref
    if ref is None:
        return []
    source = {"secretKeyRef": {"name": ref.name, "key": ref.key}}
    return [{"name": "HF_TOKEN", "valueFrom": source}]


def _by_name(*variables: Object) -> list[Object]:
    """Each name once, as the API server wants it; the last one, which is the user's, counts."""
    return list({variable["name"]: variable for variable in variables}.values())
