"""Stored objects on a real API server: today's CRD keeps them, and the way to the next version is
the one that docs/api-versions.md describes."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kubectl_rig import SERVED_SECONDS, Kubectl
from slm_dev.controlplane import ControlPlane
from slm_operator.api.crd import crd
from slm_operator.api.models import PLURAL
from stored_objects import V1ALPHA1, lost

GROUP = "migration.slm.dev"
"""Another group than that of other tests, since its versions come and go here."""
NAME = f"{PLURAL}.{GROUP}"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    kubectl = Kubectl(control_plane, tmp_path_factory.mktemp("kubectl"))
    kubectl.install_crd()
    return kubectl


def create(kubectl: Kubectl, stored: Object, namespace: str) -> None:
    """With its status, each strictly validated."""
    obj = {key: stored[key] for key in ("apiVersion", "kind", "spec")}
    obj["metadata"] = {"name": stored["metadata"]["name"], "namespace": namespace}
    kubectl("create", "--validate=strict", "-f", "-", stdin=json.dumps(obj))
    if "status" in stored:
        reported = json.dumps(obj | {"status": stored["status"]})
        kubectl(
            *("apply", "--server-side", "--force-conflicts", "--subresource=status"),
            *("--validate=strict", "-f", "-"),
            stdin=reported,
        )


@pytest.mark.parametrize("path", V1ALPHA1, ids=lambda path: path.stem)
def test_todays_crd_keeps_all_that_a_stored_object_says(
    path: Path, kubectl: Kubectl, namespace: str
) -> None:
    stored = json.loads(path.read_text())
    create(kubectl, stored, namespace)
    name = stored["metadata"]["name"]
    now = json.loads(kubectl("get", "slm", name, f"--namespace={namespace}", "-o=json"))
    assert losses(stored, now) == []


def losses(stored: Object, now: Object) -> list[str]:
    """What got lost of spec and status."""
    return [
        loss
        for part in ("spec", "status")
        for loss in lost(stored.get(part) or {}, now.get(part) or {}, part)
    ]


def versions(*names: str, storage: str) -> Object:
    """The CRD with these versions, all of one schema."""
    made = copy.deepcopy(dict(crd()))
    made["metadata"]["name"] = NAME
    made["spec"]["group"] = GROUP
    (schema,) = made["spec"]["versions"]
    made["spec"]["versions"] = [
        schema | {"name": name, "served": True, "storage": name == storage} for name in names
    ]
    return made


def install(kubectl: Kubectl, wanted: Object) -> None:
    kubectl(*("apply", "--server-side", "--force-conflicts", "-f", "-"), stdin=json.dumps(wanted))


def storage_hash(kubectl: Kubectl, version: str) -> str:
    """Tells which version the API server stores by now."""
    answer = json.loads(kubectl.until_served("get", "--raw", f"/apis/{GROUP}/{version}"))
    (found,) = [r["storageVersionHash"] for r in answer["resources"] if r["name"] == PLURAL]
    return str(found)


def test_a_stored_object_moves_to_the_next_version_without_a_loss(
    kubectl: Kubectl, namespace: str
) -> None:
    (path,) = [p for p in V1ALPHA1 if p.stem == "following-demand"]
    stored = json.loads(path.read_text()) | {"apiVersion": f"{GROUP}/v1alpha1"}
    name, where = stored["metadata"]["name"], f"--namespace={namespace}"
    install(kubectl, versions("v1alpha1", storage="v1alpha1"))
    kubectl.until_served("get", f"{PLURAL}.v1alpha1.{GROUP}", where)
    create(kubectl, stored, namespace)

    # Both are served, the old one is stored.
    install(kubectl, versions("v1alpha1", "v1beta1", storage="v1alpha1"))
    next_version = f"{PLURAL}.v1beta1.{GROUP}"
    seen = json.loads(kubectl.until_served("get", next_version, name, where, "-o=json"))
    assert seen["apiVersion"] == f"{GROUP}/v1beta1"
    assert losses(stored, seen) == []

    # The new one is stored, and what is there is written anew.
    before = storage_hash(kubectl, "v1beta1")
    install(kubectl, versions("v1alpha1", "v1beta1", storage="v1beta1"))
    deadline = time.monotonic() + SERVED_SECONDS
    while storage_hash(kubectl, "v1beta1") == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    everything = kubectl("get", next_version, where, "-o=json")
    kubectl("replace", "-f", "-", stdin=everything)
    done = '--patch={"status":{"storedVersions":["v1beta1"]}}'
    kubectl("patch", "crd", NAME, "--subresource=status", "--type=merge", done)

    # The old one is gone.
    install(kubectl, versions("v1beta1", storage="v1beta1"))
    kubectl("wait", f"crd/{NAME}", "--for=condition=Established", "--timeout=60s")
    moved = json.loads(kubectl.until_served("get", next_version, name, where, "-o=json"))
    assert losses(stored, moved) == []
    assert moved["metadata"]["uid"] == seen["metadata"]["uid"]
    kubectl("delete", "crd", NAME, "--timeout=60s")
