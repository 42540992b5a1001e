"""What the API server checks beyond types: CEL rules, whose messages name field, value and remedy.

How they work: Kubernetes, "CustomResourceDefinitions", validation rules.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict

from slm_worker.owned_arguments import (
    ENGINE_API_KEY,
    NOT_OWNED_ENGINE_ARGUMENTS,
    OWNED_ENGINE_ARGUMENTS,
)
from slm_worker.wire import ADDRESS_VARIABLE

Rule = dict[str, Any]

VALIDATIONS = "x-kubernetes-validations"
MAX_NAME_LENGTH = 50
"""Of metadata.name: leaves room in a DNS label (63) for the suffixes of the children's names."""


def validations(*rules: Rule) -> dict[str, Any]:
    """Schema extension of one field with the given rules."""
    return {VALIDATIONS: list(rules)}


def ruled_by(*rules: Rule) -> ConfigDict:
    """Settings of a model with the given rules."""
    return ConfigDict(json_schema_extra=validations(*rules))


def rule(condition: str, message: str, *, path: str | None = None, knows_old: bool = False) -> Rule:
    """Refuses the object when ``condition`` is false, with ``message``: CEL text of a string.

    The message can name strings of bounded length but no numbers: the API server takes the text of
    a number for unbounded, and rejects the whole CRD for its cost. ``path``: the field to blame,
    relative to where the rule is attached. ``knows_old``: the condition reads `oldSelf`, which has
    no value while an object is created.
    """
    found: Rule = {"rule": condition, "messageExpression": message}
    if knows_old:
        found["optionalOldSelf"] = True
    return found if path is None else {**found, "fieldPath": path}


def text(words: str) -> str:
    """``words`` as a CEL string."""
    return json.dumps(words)


def about(field: str, words: str) -> str:
    """CEL text of a message about the string field that the rule is attached to."""
    return f"{text(f'{field} is {chr(39)}')} + self + {text(f'{chr(39)}: {words}')}"


SERVICE_NAME = rule(
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && "
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "'metadata.name is ' + self.metadata.name + "
    + text(
        f": Services and Pods are named after it: use at most {MAX_NAME_LENGTH} lower case "
        "letters, digits and dashes, with a letter first and no dash last"
    ),
)

PACKS_SUFFIX = "-packs"
"""Ends the name of the Service with the packs' own addresses."""

NO_PACKS_SUFFIX = rule(
    # One that is stored already stays as it can be edited: a name cannot be mended.
    f"oldSelf.hasValue() || !self.metadata.name.endsWith('{PACKS_SUFFIX}')",
    "'metadata.name is ' + self.metadata.name + "
    + text(
        f": it must not end in {PACKS_SUFFIX}, as the Services do that lead to the packs of an "
        "SLMService of the name before it: use another ending"
    ),
    knows_old=True,
)

API_SERVERS_NAME = "kubernetes"
"""Of the Service by which Pods reach the API server."""

NOT_THE_API_SERVERS = rule(
    # In every namespace, since a rule cannot read which it is.
    f"oldSelf.hasValue() || self.metadata.name != '{API_SERVERS_NAME}'",
    text(
        f"metadata.name is {API_SERVERS_NAME}, as is that of the Service by which Pods reach the "
        "API server: use another name"
    ),
    knows_old=True,
)

MODEL_URI = (
    rule(
        "['hf://', 'pvc://', 'oci://', 'file://'].exists(scheme, self.startsWith(scheme))",
        about(
            "spec.model.uri",
            "use hf://ORGANISATION/NAME, pvc://CLAIM/PATH, oci://REGISTRY/REPOSITORY:TAG or "
            "file:///PATH",
        ),
    ),
    rule(
        "!self.startsWith('hf://') || "
        "self.matches('^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$')",
        about(
            "spec.model.uri", "write it as hf://ORGANISATION/NAME, such as hf://facebook/opt-1.3b"
        ),
    ),
    rule(
        "!self.startsWith('file://') || (self.matches('^file://(/[A-Za-z0-9._@+=-]+)+/?$') && "
        "!self.contains('/../') && !self.endsWith('/..'))",
        about(
            "spec.model.uri",
            "write it as file:// and an absolute path without .. in the worker's container, such "
            "as file:///models/opt-1.3b",
        ),
    ),
    rule(
        "!self.startsWith('pvc://') || (self.matches("
        "'^pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
        "(/[A-Za-z0-9._@+=-]+)*/?$') && self.size() <= 259 && !self.contains('/../') && "
        "!self.endsWith('/..'))",
        about(
            "spec.model.uri",
            "write it as pvc:// with a PersistentVolumeClaim of the namespace and the path in it "
            "without .., such as pvc://models/opt-1.3b, at most 259 characters",
        ),
    ),
    rule(
        "!self.startsWith('oci://') || self.matches("
        "'^oci://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
        "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$')",
        about(
            "spec.model.uri",
            "write it as oci:// and an image that holds the model's files at its root, such as "
            "oci://registry.example.com/models/opt-1.3b:v1",
        ),
    ),
)

REVISION_NEEDS_HUB = rule(
    "!has(self.revision) || self.uri.startsWith('hf://')",
    "'spec.model.revision is ' + self.revision + ' but spec.model.uri is ' + self.uri + "
    "': only hf:// models have revisions: remove spec.model.revision'",
    path=".revision",
)

_ARGUMENT = "(self + '=').substring(0, (self + '=').indexOf('='))"
"""CEL text of the argument that the rule is attached to, without its value."""
_ARGUMENT_NAME = _ARGUMENT.replace("self", "self.replace('.', '=')") + ".replace('_', '-')"
"""The same without the key after its dot, too, and as vLLM writes it."""

ENGINE_ARGUMENT = rule(
    # vLLM takes _ for -, any unambiguous beginning of an argument for the whole, of a short one the
    # value that is glued on, and --x.key=value for --x. The agent's own check is
    # owned_arguments.owned_argument.
    f"[{_ARGUMENT_NAME}].all(name, name.size() < 2 || "
    f"name in {json.dumps(NOT_OWNED_ENGINE_ARGUMENTS)} || "
    f"!{json.dumps(list(OWNED_ENGINE_ARGUMENTS))}.exists(owned, owned.startsWith(name) || "
    "(!name.startsWith('--') && name.startsWith(owned))))",
    # Its value stays out of the message: it may be a secret.
    f"'spec.engine.args has ' + {_ARGUMENT} + "
    + text(
        ", which the operator sets itself or which would break the pack: remove it (these have "
        "fields: spec.model.uri, name, revision and credentialsSecretRef; spec.engine.maxNumSeqs)"
    ),
)

ENVIRONMENT_NAME = (
    rule(
        "self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",
        about(
            "spec.engine.env name",
            "use letters, digits and underscores, and do not begin with a digit",
        ),
    ),
    rule(
        f"!self.startsWith('SLM_') && self != '{ADDRESS_VARIABLE}'",
        about(
            "spec.engine.env name",
            f"SLM_* and {ADDRESS_VARIABLE} belong to the operator: use another name",
        ),
    ),
    rule(
        f"self != '{ENGINE_API_KEY}'",
        about(
            "spec.engine.env name",
            "with a key engines would refuse the agent, which measures them: remove it, and "
            f"{OWNED_ENGINE_ARGUMENTS['--api-key']}",
        ),
    ),
)

MPS_NEEDS_NVIDIA = rule(
    "!has(self.mps) || self.kind == 'NVIDIA'",
    "'spec.gpu.mps is set but spec.gpu.kind is ' + self.kind + "
    "': only NVIDIA GPUs have MPS: remove spec.gpu.mps'",
    path=".mps",
)

MEMORY_RESERVE = rule(
    "self.matches('^(0|[1-9][0-9]{0,11})(Ki|Mi|Gi|Ti|k|M|G|T)?$')",
    about(
        "spec.gpu.memoryReserve",
        "write a whole number of bytes, or one with Ki, Mi, Gi, Ti, k, M, G or T, such as 4Gi",
    ),
)


def _latency(field: str) -> Rule:
    """Of a duration above zero, in seconds or milliseconds."""
    return rule(
        "self.matches('^[0-9]{1,6}([.][0-9]{1,3})?(ms|s)$') && !self.matches('^[0.]+(ms|s)$')",
        about(field, "write a duration above zero in ms or s, such as 50ms or 0.5s"),
    )


TTFT_P95 = _latency("spec.autoscaling.slo.ttftP95")
ITL_P95 = _latency("spec.autoscaling.slo.itlP95")

REPLICA_BOUNDS = rule(
    "self.minReplicasPerPack <= self.maxReplicasPerPack",
    text(
        "spec.autoscaling.minReplicasPerPack is more than spec.autoscaling.maxReplicasPerPack "
        "(8 when left out): lower the one or raise the other"
    ),
    path=".minReplicasPerPack",
)

PACK_BOUNDS = rule(
    "!has(self.minPacks) || !has(self.maxPacks) || self.minPacks <= self.maxPacks",
    text(
        "spec.autoscaling.minPacks is more than spec.autoscaling.maxPacks: lower the one or raise "
        "the other"
    ),
    path=".minPacks",
)

MIN_NEEDS_MAX_PACKS = rule(
    "!has(self.minPacks) || has(self.maxPacks)",
    text(
        "spec.autoscaling.minPacks is set without spec.autoscaling.maxPacks, so packs do not "
        "follow demand: set maxPacks too, or remove minPacks and set spec.packs"
    ),
    path=".minPacks",
)

PACKS_NEED_AUTO = rule(
    "!has(self.maxPacks) || self.mode == 'Auto'",
    "'spec.autoscaling.maxPacks lets demand add and remove packs but spec.autoscaling.mode is ' + "
    "self.mode + ', which changes nothing: remove minPacks and maxPacks, or set mode to Auto'",
    path=".maxPacks",
)

STABILIZATION = rule(
    "self.matches('^(0|[1-9][0-9]{0,4})(s|m|h)$')",
    about(
        "spec.autoscaling.scaleDownStabilization",
        "write a whole number of s, m or h, such as 90s or 5m",
    ),
)

PROGRESS_DEADLINE = rule(
    "self.matches('^[1-9][0-9]{0,4}(s|m|h)$')",
    about(
        "spec.rollout.progressDeadline",
        "write a whole number above zero of s, m or h, such as 90s or 10m",
    ),
)

PACKS_FIXED_OR_FOLLOWING = rule(
    # 1 is what the API server writes where the field is left out; the scale subresource needs it.
    "self.packs == 1 || !has(self.autoscaling) || !has(self.autoscaling.maxPacks)",
    text(
        "spec.packs fixes the number of packs but spec.autoscaling.maxPacks lets demand decide it: "
        "remove spec.packs (kubectl scale and a HorizontalPodAutoscaler set it), or remove "
        "spec.autoscaling.minPacks and maxPacks"
    ),
    path=".packs",
)

FIXED_OR_FOUND = rule(
    "!has(self.replicasPerPack) || !has(self.autoscaling) || self.autoscaling.mode == 'Recommend'",
    text(
        "spec.replicasPerPack fixes the replica count but spec.autoscaling.mode is Auto, which "
        "finds it: remove spec.replicasPerPack or spec.autoscaling, or set spec.autoscaling.mode "
        "to Recommend"
    ),
    path=".replicasPerPack",
)

SIMULATED_TOGETHER = rule(
    "(self.engine.kind == 'Simulated') == (self.gpu.kind == 'Simulated')",
    "'spec.engine.kind is ' + self.engine.kind + ' but spec.gpu.kind is ' + self.gpu.kind + "
    "': set both to Simulated, or neither'",
)
