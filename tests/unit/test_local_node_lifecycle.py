"""Restarts, probes, placement and status of the local node's Pods."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_dev.local_node.__main__ import parse_images, parse_resources
from slm_dev.local_node.backoff import RestartBackoff
from slm_dev.local_node.environment import LocalImage
from slm_dev.local_node.probe import ProbeTracker
from slm_dev.local_node.spec import ContainerSpec, Exec, HttpGet, PodSpec, ProbeSpec, parse_pod
from slm_dev.local_node.status import (
    ContainerRecord,
    PodEnd,
    Running,
    Terminated,
    Waiting,
    pod_phase,
    pod_status,
)

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
RUNNING = ContainerRecord(Running(NOW), started=True, ready=True)
CREATING = ContainerRecord(Waiting("ContainerCreating"))


def ended(code: int) -> ContainerRecord:
    return ContainerRecord(Terminated(code, NOW, NOW))


def crash_looping(code: int) -> ContainerRecord:
    return ContainerRecord(Waiting("CrashLoopBackOff"), last=Terminated(code, NOW, NOW))


def waits(runs_seconds: list[float]) -> list[float]:
    backoff, found = RestartBackoff(10, 300), []
    for ran_seconds in runs_seconds:
        found.append(backoff.wait_seconds(ran_seconds))
        backoff = backoff.after_run(ran_seconds)
    return found


def test_restarts_wait_not_at_all_and_then_twice_as_long_each_time_up_to_the_cap() -> None:
    assert waits([1] * 9) == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_long_run_is_forgiven() -> None:
    assert waits([1, 1, 1, 600, 1, 1]) == [0, 10, 20, 0, 10, 20]


PROBE = ProbeSpec(
    Exec(("true",)),
    initial_delay_seconds=3,
    period_seconds=5,
    failure_threshold=3,
    success_threshold=2,
)


def verdicts(results: str) -> str:
    """The verdict after each result, with letters for them: y, n, and - for none yet."""
    tracker, found = ProbeTracker.begin(PROBE, 0), ""
    for result in results:
        tracker = tracker.observe(result == "y", tracker.due_at)
        found += "-" if tracker.verdict is None else "ny"[tracker.verdict]
    return found


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("yy", "-y"),
        ("nnn", "--n"),
        ("ynynn", "-----"),
        ("yynnynnn", "-yyyyyyn"),
        ("nnnyy", "--nny"),
    ],
)
def test_equal_results_in_a_row_make_a_verdict(results: str, expected: str) -> None:
    assert verdicts(results) == expected


@given(st.text("yn", max_size=40))
def test_a_verdict_changes_only_with_a_full_row_of_results(results: str) -> None:
    found = "-" + verdicts(results)
    for index, (before, after) in enumerate(itertools.pairwise(found), start=1):
        if before != after:
            assert results[:index].endswith("yy" if after == "y" else "nnn")


def test_a_probe_is_due_after_its_delay_and_then_each_period() -> None:
    tracker = ProbeTracker.begin(PROBE, now=100)
    assert tracker.due_at == 103
    tracker = tracker.observe(True, now=104)
    assert tracker.due_at == 108


def test_a_check_longer_than_the_period_is_followed_at_once() -> None:
    assert ProbeTracker.begin(PROBE, now=100).observe(True, now=120).due_at == 120


@pytest.mark.parametrize(
    ("policy", "records", "phase"),
    [
        ("Always", [CREATING], "Pending"),
        ("Always", [RUNNING], "Running"),
        ("Always", [RUNNING, CREATING], "Pending"),
        ("Always", [crash_looping(1)], "Running"),
        ("Always", [ended(0)], "Running"),
        ("OnFailure", [ended(0)], "Succeeded"),
        ("OnFailure", [ended(1)], "Running"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
        ("Never", [ended(1), RUNNING], "Running"),
    ],
)
def test_the_phase_follows_from_policy_and_containers(
    policy: str, records: list[ContainerRecord], phase: str
) -> None:
    assert pod_phase(policy, records) == phase


POD = PodSpec("ns", "pack-0", "uid-1", containers=(ContainerSpec("main", "image"),))


def status(record: ContainerRecord, **more: Any) -> dict[str, Any]:
    return pod_status(
        POD, {"main": record}, address="127.64.0.1", started_at=NOW, **{"now": NOW, **more}
    )


def truths(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in found["conditions"]}


def test_a_running_pod_is_ready() -> None:
    found = status(RUNNING)
    assert found["phase"] == "Running"
    assert truths(found)["Ready"] == ("True", "")
    assert found["containerStatuses"][0]["state"] == {
        "running": {"startedAt": "2025-01-02T03:04:05Z"}
    }


def test_a_pod_that_is_being_deleted_is_not_ready_while_it_still_runs() -> None:
    found = status(RUNNING, stopping=True)
    assert found["phase"] == "Running"
    assert truths(found)["Ready"] == ("False", "ContainersNotReady")
    assert not found["containerStatuses"][0]["ready"]


@pytest.mark.parametrize(
    ("record", "phase"),
    [(ended(0), "Succeeded"), (ended(143), "Failed"), (CREATING, "Failed")],
)
def test_a_stopped_pod_has_finished_whatever_its_restart_policy(
    record: ContainerRecord, phase: str
) -> None:
    assert status(record, stopping=True, over=True)["phase"] == phase


def test_a_pod_ended_by_its_node_is_failed_for_that_reason() -> None:
    found = status(ended(0), stopping=True, over=True, end=PodEnd("NodeShutdown", "bye"))
    assert (found["phase"], found["reason"], found["message"]) == ("Failed", "NodeShutdown", "bye")


def test_a_condition_keeps_its_time_until_its_truth_changes() -> None:
    later = NOW + timedelta(minutes=1)
    first = status(RUNNING)["conditions"]
    second = status(RUNNING, now=later, previous_conditions=first)["conditions"]
    assert second == first

    third = status(ended(1), now=later, previous_conditions=second)["conditions"]
    times = {each["type"]: each["lastTransitionTime"] for each in third}
    assert times["Ready"] == "2025-01-02T03:05:05Z"
    assert times["Initialized"] == "2025-01-02T03:04:05Z"


def test_a_container_shows_how_it_ended_before() -> None:
    record = ContainerRecord(
        Running(NOW), last=Terminated(137, NOW, NOW, signal=9), restarts=1, started=True
    )
    shown = status(record)["containerStatuses"][0]
    assert shown["restartCount"] == 1
    assert (
        shown["lastState"]["terminated"] | {"exitCode": 137, "signal": 9, "reason": "Error"}
        == (shown["lastState"]["terminated"])
    )


def api_pod(**spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": "pack-0", "uid": "uid-1"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", **spec}]}}


def test_a_probe_is_read_with_its_named_port_and_defaults() -> None:
    get = {"path": "healthz", "port": "web", "httpHeaders": [{"name": "A", "value": "b"}]}
    pod = api_pod(ports=[{"name": "web", "containerPort": 8080}], readinessProbe={"httpGet": get})
    assert parse_pod(pod).containers[0].readiness == ProbeSpec(
        HttpGet(8080, "/healthz", headers=(("A", "b"),))
    )


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"livenessProbe": {"tcpSocket": {"port": 1}}}, "livenessProbe without httpGet or exec"),
        ({"readinessProbe": {"httpGet": {"port": "nameless"}}}, "readinessProbe"),
        ({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}, "lifecycle.postStart"),
        ({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}, "lifecycle.preStop without exec"),
        ({"env": [{"name": "CPU", "valueFrom": {"resourceFieldRef": {}}}]}, "env[CPU]"),
    ],
)
def test_what_a_container_asks_for_in_vain_is_named(spec: dict[str, Any], named: str) -> None:
    assert named in parse_pod(api_pod(**spec)).unsupported[0]


@pytest.mark.parametrize(
    ("volume", "supported"),
    [
        ({"emptyDir": {}}, True),
        ({"hostPath": {"path": "/models"}}, True),
        ({"hostPath": {"path": "/elsewhere"}}, False),
        ({"secret": {"secretName": "keys"}}, True),
        ({"secret": {"secretName": "keys", "items": [{"key": "a", "path": "a"}]}}, True),
        ({"secret": {"secretName": "keys", "items": [{"key": "a", "path": "b"}]}}, False),
        ({"secret": {"secretName": "keys", "optional": True}}, False),
        ({"persistentVolumeClaim": {"claimName": "models"}}, False),
    ],
)
def test_only_volumes_that_a_process_can_have_without_a_mount_are_supported(
    volume: dict[str, Any], supported: bool
) -> None:
    pod = api_pod(volumeMounts=[{"name": "data", "mountPath": "/models"}])
    pod["spec"]["volumes"] = [{"name": "data", **volume}]
    assert parse_pod(pod).unsupported == (() if supported else ("volumes[data]",))


def test_images_and_resources_are_read_from_the_command_line() -> None:
    assert parse_images(["a=PATH=/bin", "a=X=1=2", "b"]) == {
        "a": LocalImage({"PATH": "/bin", "X": "1=2"}),
        "b": LocalImage({}),
    }
    assert parse_resources(["nvidia.com/gpu=2"]) == {"nvidia.com/gpu": 2}


@pytest.mark.parametrize("text", ["a=PATH", "=X=1"])
def test_a_malformed_image_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME or NAME=VARIABLE=VALUE"):
        parse_images([text])


@pytest.mark.parametrize("text", ["gpu=1", "nvidia.com/gpu", "nvidia.com/gpu=-1"])
def test_a_malformed_resource_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write DOMAIN/NAME=COUNT"):
        parse_resources([text])
