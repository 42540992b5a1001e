"""Which service gets which port of the activator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from activator_world import Namespaces
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Page
from slm_operator.cluster.ports import Ports


def test_a_service_keeps_the_port_that_its_status_has() -> None:
    ports = Ports(1, 3)
    ports.saw("a", 2)
    assert ports.of("a") == 2


def test_nobody_new_gets_one_before_all_are_known() -> None:
    ports = Ports(1, 3)
    assert ports.of("new") is None
    assert ports.trouble.reason == "ActivatorPortsUnknown"
    ports.saw("old", 1)
    ports.all_known = True
    assert ports.of("new") == 2


async def test_all_that_are_taken_are_read_from_the_statuses() -> None:
    class Pages:
        async def pages(self, api: str, kind: str, namespace: str) -> AsyncIterator[Page]:
            for uid, port in (("a", 1), ("b", 2)):
                obj = {"metadata": {"uid": uid}, "status": {"activatorPort": port}}
                yield Page([obj, {"metadata": {"uid": "c"}}], "1")

    ports = Ports(1, 3)
    await ports.learn(Pages())  # type: ignore[arg-type]
    assert [ports.of(uid) for uid in "cba"] == [3, 2, 1]


async def test_nobody_new_gets_one_while_a_namespace_cannot_be_read() -> None:
    """Its services may have any, and their clients may go on calling."""
    kube = Namespaces(hidden={"gone"}, here={"a": 1}, gone={"b": 4})
    ports = Ports(1, 4)
    await ports.learn(kube, ("gone", "here"))  # type: ignore[arg-type]
    assert [ports.of(uid) for uid in ("a", "new")] == [1, None]
    assert ports.trouble.reason == "ActivatorPortsUnknown"
    assert "services of gone may have any port" in ports.trouble.message


async def test_one_whose_status_has_a_port_keeps_it_meanwhile() -> None:
    ports = Ports(1, 4)
    await ports.learn(Namespaces(hidden={"gone"}), ("gone", "here"))  # type: ignore[arg-type]
    ports.saw("here, seen by its pass", 3)
    assert ports.of("here, seen by its pass") == 3


async def test_once_all_can_be_read_new_ones_get_what_none_of_them_has() -> None:
    kube = Namespaces(hidden={"there"}, here={"a": 1}, there={"b": 4, "c": 2})
    ports, watched = Ports(1, 5), ("here", "there")
    await ports.learn(kube, watched)  # type: ignore[arg-type]
    kube.hidden.clear()
    await ports.learn(kube, watched)  # type: ignore[arg-type]
    assert [ports.of(uid) for uid in ("new", "b", "c", "newer")] == [3, 4, 2, 5]
    assert kube.asked == ["here", "there", "there"], "what is known is not asked again"


async def test_no_two_get_the_same_where_namespaces_are_hidden_in_turn() -> None:
    kube, watched = Namespaces(hidden={"a"}, a={}, b={}), ("a", "b")
    for hidden, uid in (("a", "b1"), ("b", "a1")):
        kube.hidden = {hidden}
        just_begun = Ports(1, 4)
        await just_begun.learn(kube, watched)  # type: ignore[arg-type]
        assert just_begun.of(uid) is None


async def test_that_nobody_new_gets_one_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    kube, ports = Namespaces(hidden={"gone"}), Ports(1, 4)
    for _ in range(3):
        await ports.learn(kube, ("gone", "here"))  # type: ignore[arg-type]
    (record,) = caplog.records
    assert "no service gets a new port of the activator" in record.getMessage()


async def test_one_that_does_not_answer_is_waited_for() -> None:
    class Pages:
        async def pages(self, api: str, kind: str, namespace: str) -> AsyncIterator[Page]:
            raise KubeError(503, "Refused", "no etcd")
            yield

    ports = Ports(1, 4)
    with pytest.raises(KubeError):
        await ports.learn(Pages(), ("here",))  # type: ignore[arg-type]
    assert ports.of("new") is None


def test_two_services_never_share_one_whatever_their_statuses_say() -> None:
    ports = Ports(1, 3)
    ports.saw("a", 2)
    ports.saw("b", 2)
    ports.saw("c", 99)
    ports.all_known = True
    assert [ports.of(uid) for uid in "abc"] == [2, 1, 3]


def test_one_that_is_given_back_is_given_again() -> None:
    ports = Ports(1, 1)
    ports.all_known = True
    assert ports.of("a") == 1
    ports.forget("a")
    assert ports.of("b") == 1
