"""A Pod's status read as a pack."""

from __future__ import annotations

from typing import Any

import pytest

from slm_operator.cluster.pods import read_pack
from slm_operator.render.children import INSTANCE_LABEL, PACK_LABEL, TEMPLATE_HASH


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    named = {
        "name": "chat-pack-1",
        "uid": "p1",
        "labels": {PACK_LABEL: "1"},
        "annotations": {TEMPLATE_HASH: "t"},
    }
    return {"metadata": named | metadata, "status": status}


def test_a_running_ready_pod() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    status = {
        "phase": "Running",
        "podIP": "127.64.0.2",
        "conditions": ready,
        "containerStatuses": [{"started": True, "state": {"running": {}}}],
    }
    pack = read_pack(pod(status))
    assert (pack.ordinal, pack.address, pack.template_hash, pack.ready) == (
        1,
        "127.64.0.2",
        "t",
        True,
    )
    assert pack.scheduling is pack.container is None


def test_an_unschedulable_pod_says_what_the_scheduler_said() -> None:
    waiting = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }
    trouble = read_pack(pod({"phase": "Pending", "conditions": [waiting]})).scheduling
    assert trouble is not None
    assert trouble.reason == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in trouble.message
    assert "Free a GPU" in trouble.message


@pytest.mark.parametrize(
    ("said", "remedies"),
    [
        ("1 Insufficient nvidia.com/gpu", ["Free a GPU"]),
        ("2 Insufficient memory", ["spec.podTemplate.resources.requests"]),
        (
            "1 node(s) had untolerated taint {nvidia.com/gpu: present}, 2 Insufficient "
            "nvidia.com/gpu",
            ["Free a GPU", "spec.podTemplate.tolerations"],
        ),
        ("1 node(s) didn't match Pod's node affinity/selector", ["spec.podTemplate.nodeSelector"]),
        ('persistentvolumeclaim "models" not found', ["Create or bind the claim"]),
        ("pod has unbound immediate PersistentVolumeClaims", ["Create or bind the claim"]),
        ("1 Too many pods", ["Free a GPU"]),
    ],
)
def test_what_to_do_follows_from_what_the_scheduler_said(said: str, remedies: list[str]) -> None:
    waiting = {"type": "PodScheduled", "status": "False", "message": f"0/3 nodes: {said}."}
    trouble = read_pack(pod({"phase": "Pending", "conditions": [waiting]})).scheduling
    assert trouble is not None
    told = trouble.message.removeprefix(f"0/3 nodes: {said}. ")
    assert [remedy for remedy in remedies if remedy not in told] == []
    assert told.count(". ") == len(remedies) - 1, told


def test_what_to_do_is_a_sentence_of_its_own() -> None:
    said = '0/1 nodes are available: persistentvolumeclaim "models" not found. not found'
    waiting = {"type": "PodScheduled", "status": "False", "message": said}
    trouble = read_pack(pod({"phase": "Pending", "conditions": [waiting]})).scheduling
    assert trouble is not None
    assert trouble.message.startswith(f"{said}. Create or bind the claim")


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("CreateContainerConfigError", "spec.model.credentialsSecretRef"),
        ("ErrImagePull", "spec.engine.image"),
        ("ImagePullBackOff", "spec.podTemplate.imagePullSecrets"),
    ],
)
def test_a_container_that_never_ran_sends_nobody_to_its_log(reason: str, field: str) -> None:
    waiting = {"state": {"waiting": {"reason": reason, "message": "not found"}}}
    trouble = read_pack(pod({"phase": "Pending", "containerStatuses": [waiting]})).container
    assert trouble is not None
    assert trouble.reason == reason
    assert trouble.message.startswith("not found; ")
    assert field in trouble.message
    assert "kubectl logs" not in trouble.message


def test_a_crash_loop_names_the_last_end_and_where_to_look() -> None:
    crashed = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": {"exitCode": 2, "message": "port taken"}},
    }
    trouble = read_pack(pod({"phase": "Running", "containerStatuses": [crashed]})).container
    assert trouble is not None
    assert trouble.reason == "CrashLoopBackOff"
    assert "exit code 2 (port taken)" in trouble.message
    assert "kubectl logs chat-pack-1 --previous" in trouble.message


def test_the_agents_last_error_is_read_from_its_log() -> None:
    log = (
        '{"level": "error", "message": "an earlier one"}\n'
        '{"level": "error", "message": "the API cannot listen"}\n'
        '{"level": "info", "message": "leaving"}\n'
    )
    ended = {"state": {"terminated": {"exitCode": 3, "message": log}}}
    trouble = read_pack(pod({"phase": "Running", "containerStatuses": [ended]})).container
    assert trouble is not None
    assert "exit code 3 (the API cannot listen)" in trouble.message


def test_a_killed_agents_log_gives_no_cause() -> None:
    ended = {"state": {"terminated": {"exitCode": 137, "message": '{"level": "info"}\n'}}}
    trouble = read_pack(pod({"phase": "Running", "containerStatuses": [ended]})).container
    assert trouble is not None
    assert "exit code 137; it" in trouble.message


def test_a_container_that_is_being_created_is_no_trouble() -> None:
    creating = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert read_pack(pod({"containerStatuses": [creating]})).container is None


def test_a_pod_that_goes_is_not_spoken_to() -> None:
    going = pod({"phase": "Running", "podIP": "127.0.0.2"}, deletionTimestamp="2026-01-01")
    assert (read_pack(going).terminating, read_pack(going).address) == (True, "")


def test_an_agent_that_has_not_answered_its_startup_probe_is_not_asked_yet() -> None:
    starting = [{"started": False, "state": {"running": {}}}]
    status = {"phase": "Running", "podIP": "127.64.0.2", "containerStatuses": starting}
    assert read_pack(pod(status)).address == ""


def test_an_evicted_pod_has_ended() -> None:
    assert read_pack(pod({"phase": "Failed"})).ended


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            'Usage of EmptyDir volume "cache" exceeds the limit "50Gi". ',
            "sizeLimit in spec.podTemplate.volumes",
        ),
        (
            'Container pack exceeded its local ephemeral storage limit "20Gi". ',
            "limits.ephemeral-storage",
        ),
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. ",
            "limits.ephemeral-storage",
        ),
        ("The node was low on resource: ephemeral-storage. ", "requests.ephemeral-storage"),
        ("The node was low on resource: memory. ", "requests.memory"),
    ],
)
def test_an_evicted_pod_says_why_and_what_helps_not_that_its_container_ended(
    said: str, remedy: str
) -> None:
    ended = [{"state": {"terminated": {"exitCode": 137}}}]
    status = {"phase": "Failed", "reason": "Evicted", "message": said, "containerStatuses": ended}
    trouble = read_pack(pod(status)).container
    assert trouble is not None
    assert trouble.reason == "Evicted"
    assert said.strip() in trouble.message
    assert remedy in trouble.message


def test_a_pod_that_its_node_ended_for_another_cause_says_which() -> None:
    status = {"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated."}
    trouble = read_pack(pod(status)).container
    assert trouble is not None
    assert trouble.reason == "Terminated"
    assert trouble.message == "chat-pack-1 is over and another takes its place: Pod was terminated."


def conditions(ready: str, containers: str) -> list[dict[str, str]]:
    return [
        {"type": "Ready", "status": ready},
        {"type": "ContainersReady", "status": containers},
    ]


@pytest.mark.parametrize(
    ("ready", "containers", "reason"),
    [("True", "True", None), ("False", "False", None), ("False", "True", "NodeNotReady")],
)
def test_a_pod_that_is_not_ready_though_its_container_is_has_lost_its_node(
    ready: str, containers: str, reason: str | None
) -> None:
    found = pod({"phase": "Running", "conditions": conditions(ready, containers)})
    trouble = read_pack(found | {"spec": {"nodeName": "gpu-7"}}).node
    assert (trouble and trouble.reason) == reason
    assert trouble is None or "kubectl describe node gpu-7" in trouble.message


def test_a_container_that_reached_its_memory_limit_says_so() -> None:
    ended = {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    trouble = read_pack(pod({"phase": "Running", "containerStatuses": [ended]})).container
    assert trouble is not None
    assert "spec.podTemplate.resources.limits.memory" in trouble.message


def test_a_pod_tells_how_long_its_container_took_to_start_unless_it_was_restarted() -> None:
    def placed(**container: Any) -> float | None:
        running = {"state": {"running": {"startedAt": "2026-01-01T00:01:30Z"}}} | container
        found = read_pack(
            pod({"containerStatuses": [running]}, creationTimestamp="2026-01-01T00:00:50Z")
        )
        assert found.created == "2026-01-01T00:00:50Z"
        return found.placing_seconds

    assert placed() == 40.0
    assert placed(restartCount=1) is None
    assert placed(state={"waiting": {"reason": "ContainerCreating"}}) is None


OWNER = {
    "apiVersion": "serving.slm.dev/v1alpha1",
    "kind": "SLMService",
    "name": "chat",
    "uid": "u1",
    "controller": True,
}


@pytest.mark.parametrize(
    ("owners", "uid"),
    [
        pytest.param([OWNER], "u1", id="its service"),
        pytest.param([OWNER | {"apiVersion": "serving.slm.dev/v1"}], "u1", id="another version"),
        pytest.param([], "", id="nobody"),
        pytest.param([OWNER | {"controller": False}], "", id="an owner that does not control it"),
        pytest.param([OWNER | {"apiVersion": "serving.kserve.io/v1"}], "", id="another group"),
        pytest.param([OWNER | {"name": "other"}], "", id="a service that its label does not name"),
        pytest.param(
            [OWNER | {"apiVersion": "apps/v1", "kind": "ReplicaSet"}], "", id="a ReplicaSet"
        ),
    ],
)
def test_only_the_slmservice_that_controls_a_pod_and_is_named_by_its_label_owns_it(
    owners: list[dict[str, Any]], uid: str
) -> None:
    labels = {PACK_LABEL: "1", INSTANCE_LABEL: "chat"}
    assert read_pack(pod({}, labels=labels, ownerReferences=owners)).owner_uid == uid


def test_a_pod_without_a_status_is_a_pack_that_does_nothing_yet() -> None:
    pack = read_pack({"metadata": {"name": "x", "uid": "u"}})
    assert (pack.ordinal, pack.ready, pack.address) == (-1, False, "")
