"""Which node the development scheduler gives a Pod to, and what it says where none takes it."""

from typing import Any

import pytest

from slm_dev.local_node.scheduling import UnschedulableError, choose_node

GPU = "nvidia.com/gpu"
Object = dict[str, Any]


def pod(gpus: str = "1", phase: str = "Running") -> Object:
    requests = {GPU: gpus, "cpu": "64"}
    containers = [{"name": "main", "resources": {"requests": requests}}]
    return {"spec": {"containers": containers}, "status": {"phase": phase}}


def node(
    name: str = "a", *, gpus: int = 2, pods: int = 9, cordoned: bool = False, ready: bool = True
) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": {GPU: str(gpus), "pods": str(pods), "memory": "24Gi"},
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def refusal(wanted: Object, nodes: list[Object], placed: dict[str, list[Object]]) -> str:
    with pytest.raises(UnschedulableError) as refused:
        choose_node(wanted, nodes, placed)
    return str(refused.value)


@pytest.mark.parametrize(
    "placed",
    [[], [pod()], [pod(), pod("1", "Failed"), pod("1", "Succeeded")]],
    ids=["none", "one", "and two that have finished"],
)
def test_a_pod_goes_where_its_gpu_is_free(placed: list[Object]) -> None:
    assert choose_node(pod(), [node()], {"a": placed}) == "a"


def test_a_device_is_held_until_its_pod_has_finished() -> None:
    assert refusal(pod(), [node()], {"a": [pod(), pod()]}) == (
        f"0/1 nodes are available: 1 Insufficient {GPU}."
    )


def test_a_node_takes_so_many_pods() -> None:
    placed = {"a": [pod("0"), pod("0", "Succeeded")]}
    assert choose_node(pod("0"), [node(pods=2)], placed) == "a"
    assert refusal(pod("0"), [node(pods=1)], placed) == (
        "0/1 nodes are available: 1 Too many pods."
    )


def test_each_lacking_resource_is_named() -> None:
    wanted = pod("1k")
    wanted["spec"]["containers"][0]["resources"]["requests"]["example.com/nic"] = "1"
    assert refusal(wanted, [node()], {}) == (
        f"0/1 nodes are available: 1 Insufficient example.com/nic, 1 Insufficient {GPU}."
    )


@pytest.mark.parametrize(
    ("placed", "chosen"),
    [
        ({}, "a"),
        ({"a": [pod()]}, "b"),
        ({"a": [pod("1", "Failed")], "b": [pod()]}, "a"),
        ({"a": [pod()], "b": [pod("0"), pod("0")]}, "a"),
        ({"a": [pod(), pod()], "b": [pod("0"), pod("0"), pod("0")]}, "b"),
    ],
    ids=["the first", "the empty one", "finished ones are none", "fewest", "with a GPU free"],
)
def test_of_the_nodes_that_take_it_that_with_the_fewest_pods(
    placed: dict[str, list[Object]], chosen: str
) -> None:
    assert choose_node(pod(), [node("b"), node("a")], placed) == chosen


@pytest.mark.parametrize("closed", [node("a", cordoned=True), node("a", ready=False)])
def test_a_node_that_is_cordoned_or_not_ready_takes_none(closed: Object) -> None:
    assert choose_node(pod(), [closed, node("b")], {"b": [pod()]}) == "b"


def test_the_refusal_counts_the_nodes_of_each_reason() -> None:
    nodes = [node("a", cordoned=True), node("b", gpus=0), node("c", gpus=0), node("d", ready=False)]
    assert refusal(pod(), nodes, {}) == (
        f"0/4 nodes are available: 1 node(s) were not ready, 1 node(s) were unschedulable, "
        f"2 Insufficient {GPU}."
    )
