"""A Pod, as the API server shows it, read as a pack."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from slm_operator.cluster.kube import Object
from slm_operator.cluster.owners import controller_of, is_service
from slm_operator.decide.snapshot import Pack, Trouble
from slm_operator.render.children import INSTANCE_LABEL, PACK_LABEL, TEMPLATE_HASH

_WAITING_IS_NORMAL = {"ContainerCreating", "PodInitializing"}
_NO_IMAGE = (
    "correct spec.engine.image (the operator's --worker-image where it is empty), or name the "
    "registry's Secret in spec.podTemplate.imagePullSecrets"
)
_NEVER_RAN = {
    "CreateContainerConfigError": "create what is missing in the service's namespace, or correct "
    "what names it, such as spec.model.credentialsSecretRef; the pack goes on by itself",
    "ErrImageNeverPull": _NO_IMAGE,
    "ErrImagePull": _NO_IMAGE,
    "ImagePullBackOff": _NO_IMAGE,
    "InvalidImageName": _NO_IMAGE,
}
"""What to do where a container did not run, so that it has no log: by the kubelet's reasons."""
_NO_GPU = (
    "Free a GPU, add a node, or lower spec.packs (spec.autoscaling.maxPacks where demand decides)."
)
_NO_PLACE = {
    r"Insufficient \S+/": _NO_GPU,
    r"Insufficient (cpu|memory|ephemeral-storage)": "Lower spec.podTemplate.resources.requests, or "
    "add a node.",
    r"untolerated taint": "Bear the taint with spec.podTemplate.tolerations.",
    r"node affinity/selector": "Correct spec.podTemplate.nodeSelector, or label a node.",
    r"persistentvolumeclaim": "Create or bind the claim, or correct spec.model.uri or "
    "spec.podTemplate.volumes.",
}
"""What to do by what the scheduler says (kube-scheduler 1.34: the reasons of its plugins)."""
_MEMORY_LIMIT = (
    " because the container reached its memory limit: raise "
    "spec.podTemplate.resources.limits.memory, or run fewer replicas"
)
_TOO_MUCH_DISK = (
    "See what fills it, and raise the volume's sizeLimit in spec.podTemplate.volumes or "
    "spec.podTemplate.resources.limits.ephemeral-storage."
)
_EVICTED = {
    r"exceed(s|ed) .*limit": _TOO_MUCH_DISK,
    r"low on resource: (ephemeral-storage|inodes)": "Free disk on the node, and ask for what a "
    "pack takes: spec.podTemplate.resources.requests.ephemeral-storage.",
    r"low on resource: memory": "Ask for what a pack takes: "
    "spec.podTemplate.resources.requests.memory.",
}
"""What to do by what the kubelet says when it evicts a Pod (kubelet 1.34, pkg/kubelet/eviction)."""


def read_pack(pod: Object) -> Pack:
    """The pack that ``pod`` is, without its agent's answer."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    phase = status.get("phase")
    started = any(c.get("started") for c in status.get("containerStatuses") or ())
    running = phase == "Running" and started and "deletionTimestamp" not in metadata
    return Pack(
        ordinal=int(metadata.get("labels", {}).get(PACK_LABEL, "-1")),
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=_owner_uid(metadata),
        address=status.get("podIP", "") if running else "",
        template_hash=metadata.get("annotations", {}).get(TEMPLATE_HASH, ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        terminating="deletionTimestamp" in metadata,
        ended=phase in ("Failed", "Succeeded"),
        scheduling=_scheduling(conditions.get("PodScheduled")),
        container=_end_of_pod(metadata["name"], status) or _container(metadata["name"], status),
        node=_node(spec.get("nodeName", ""), conditions),
        created=metadata.get("creationTimestamp", ""),
        placing_seconds=_placing_seconds(metadata, status),
        ends_by=metadata.get("deletionTimestamp", ""),
    )


def _owner_uid(metadata: dict[str, Any]) -> str:
    """The service that the labels name is the one that looks after the Pod."""
    service = metadata.get("labels", {}).get(INSTANCE_LABEL, "")
    owner = controller_of(metadata)
    return str(owner["uid"]) if owner is not None and is_service(owner, service) else ""


def _placing_seconds(metadata: dict[str, Any], status: dict[str, Any]) -> float | None:
    for container in status.get("containerStatuses") or ():
        began = (container.get("state", {}).get("running") or {}).get("startedAt")
        created = metadata.get("creationTimestamp")
        if began and created and not container.get("restartCount"):
            passed = datetime.fromisoformat(began) - datetime.fromisoformat(created)
            return max(0.0, passed.total_seconds())
    return None


def _scheduling(condition: dict[str, Any] | None) -> Trouble | None:
    if condition is None or condition.get("status") != "False":
        return None
    text = (condition.get("message") or "no node takes the pack").rstrip(".") + "."
    remedies = _remedies(_NO_PLACE, text) or [_NO_GPU]
    return Trouble(condition.get("reason") or "Unschedulable", " ".join([text, *remedies]))


def _node(name: str, conditions: dict[str, Any]) -> Trouble | None:
    """The kubelet sets both conditions; only the node controller takes Ready away alone, from the
    Pods of a node that no longer reports. A pack has no readiness gates."""
    ready, containers = (
        conditions.get(kind, {}).get("status") for kind in ("Ready", "ContainersReady")
    )
    if (ready, containers) != ("False", "True"):
        return None
    return Trouble(
        "NodeNotReady",
        f"the node {name} does not report, so the Service sends no requests to its packs, which "
        f"may serve on; see `kubectl describe node {name}`, and that its kubelet runs",
    )


def _end_of_pod(name: str, status: dict[str, Any]) -> Trouble | None:
    """Why a Pod is over for good, which its containers do not know."""
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    text = (status.get("message") or "its node ended it").strip().rstrip(".")
    said = f"{name} is over and another takes its place: {text}."
    return Trouble(status["reason"], " ".join([said, *_remedies(_EVICTED, text)]))


def _remedies(by_words: dict[str, str], text: str) -> list[str]:
    """Those whose words (regular expressions) are in ``text``."""
    return [remedy for said, remedy in by_words.items() if re.search(said, text, re.IGNORECASE)]


def _container(pod: str, status: dict[str, Any]) -> Trouble | None:
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        if waiting and waiting.get("reason") not in _WAITING_IS_NORMAL:
            reason = waiting.get("reason") or "ContainerWaiting"
            remedy = _NEVER_RAN.get(reason, f"see `kubectl logs {pod} --previous`")
            return Trouble(
                reason,
                f"{waiting.get('message') or 'the container does not start'}"
                f"{_last_end(container)}; {remedy}",
            )
        if "terminated" in state:
            return Trouble(
                "AgentEnded",
                f"the agent ended{_end(state['terminated'])}; it is started again; "
                f"see `kubectl logs {pod} --previous`",
            )
    return None


def _last_end(container: dict[str, Any]) -> str:
    terminated = (container.get("lastState") or {}).get("terminated")
    return f"; the last run ended{_end(terminated)}" if terminated else ""


def _end(terminated: dict[str, Any]) -> str:
    if terminated.get("reason") == "OOMKilled":
        return _MEMORY_LIMIT
    said = last_words(terminated.get("message") or "")
    return f" with exit code {terminated.get('exitCode')}" + (f" ({said})" if said else "")


def last_words(log: str) -> str:
    """The last error in the end of an agent's log, or the last line that is none of its own."""
    for line in reversed(log.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            if line.strip():
                return line.strip()
        else:
            if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
                return str(entry.get("message", ""))
    return ""
