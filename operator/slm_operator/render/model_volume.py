"""Models that a volume brings into the Pod: where it is mounted, and what the agent is told."""

from __future__ import annotations

from typing import Any

from slm_operator.api.pod_rules import MODEL_MOUNT

Object = dict[str, Any]

MODEL_VOLUME = "model"


def path_in_pod(uri: str) -> str:
    """``uri`` as the agent knows it: a claim or an image is a directory there."""
    scheme, _, location = uri.partition("://")
    if scheme == "oci":
        return f"file://{MODEL_MOUNT}"
    if scheme == "pvc":
        path = location.partition("/")[2].strip("/")
        return f"file://{MODEL_MOUNT}/{path}".rstrip("/")
    return uri


def mount(pod: Object, uri: str) -> None:
    """Adds the model's volume to the spec ``pod``, where it needs one: read-only, since several
    packs share it."""
    scheme, _, location = uri.partition("://")
    if scheme == "pvc":
        claim = location.partition("/")[0]
        source = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    elif scheme == "oci":
        source = {"image": {"reference": location, "pullPolicy": "IfNotPresent"}}
    else:
        return
    pod["volumes"].append({"name": MODEL_VOLUME, **source})
    pod["containers"][0]["volumeMounts"].append(
        {"name": MODEL_VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True}
    )
