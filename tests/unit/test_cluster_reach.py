"""A watched namespace that cannot be read is left out, and taken up once it can."""

from __future__ import annotations

import logging

import pytest

from slm_operator.api.models import KIND
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.reach import Reach, refuses

FORBIDDEN = KubeError(403, "Forbidden", 'cannot list in namespace "b"')
NOT_FOUND = KubeError(404, "NotFound", "the server could not find the requested resource")
BUSY = KubeError(429, "TooManyRequests", "later")
AWAY = KubeError(0, "Unreachable", "away")
BROKEN = KubeError(503, "Refused", "no etcd")


class Api:
    """Answers with version 7 but for namespaces that are refused."""

    def __init__(self, **refusals: KubeError) -> None:
        self.refusals = refusals
        self.serves_kind = True
        self.asked: list[str] = []

    async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
        assert kind == KIND
        self.asked.append(namespace)
        if namespace in self.refusals:
            raise self.refusals[namespace]
        return 7

    async def serves(self, api_version: str, kind: str) -> bool:
        return self.serves_kind


def sides(reach: Reach) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which namespaces can be read, and which are left out."""
    return reach.readable, reach.left_out


async def look(reach: Reach, api: Api) -> None:
    await reach.look(api, reach.namespaces)  # type: ignore[arg-type]


@pytest.mark.parametrize("refusal", [FORBIDDEN, NOT_FOUND], ids=["no right", "no namespace"])
async def test_a_namespace_that_is_refused_is_left_out_until_it_answers(refusal: KubeError) -> None:
    api, reach = Api(b=refusal), Reach(("a", "b", "c"))
    assert reach.readable == ("a", "b", "c"), "nothing else is known yet"
    await look(reach, api)
    assert sides(reach) == (("a", "c"), ("b",))
    api.refusals.clear()
    await look(reach, api)
    assert sides(reach) == (("a", "b", "c"), ())


async def test_each_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api, reach = Api(b=FORBIDDEN), Reach(("a", "b"))
    for _ in range(3):
        await look(reach, api)
    api.refusals.clear()
    for _ in range(3):
        await look(reach, api)
    assert [record.getMessage() for record in caplog.records] == [
        f"namespace b is left out until it is there and may be read: {FORBIDDEN}",
        "namespace b can be read",
    ]


@pytest.mark.parametrize("trouble", [BUSY, AWAY, BROKEN], ids=["busy", "away", "broken"])
async def test_what_is_no_refusal_changes_nothing(trouble: KubeError) -> None:
    api, reach = Api(b=FORBIDDEN), Reach(("a", "b"))
    await look(reach, api)
    api.refusals = {"a": trouble, "b": trouble}
    with pytest.raises(KubeError):
        await look(reach, api)
    assert sides(reach) == (("a",), ("b",))


async def test_a_kind_that_is_gone_is_no_matter_of_a_namespace() -> None:
    api, reach = Api(a=NOT_FOUND, b=NOT_FOUND), Reach(("a", "b"))
    api.serves_kind = False
    with pytest.raises(KubeError):
        await look(reach, api)
    assert sides(reach) == (("a", "b"), ())


async def test_where_all_are_watched_none_is_left_out() -> None:
    assert not await refuses(Api(), "", FORBIDDEN)  # type: ignore[arg-type]
    reach = Reach()
    with pytest.raises(KubeError):
        await look(reach, Api(**{"": FORBIDDEN}))
    assert sides(reach) == (("",), ())


async def test_services_wait_for_the_packs_of_their_namespace() -> None:
    """One that is looked at before its packs are known seems to have none."""
    known = {"a"}
    api, reach = Api(), Reach(("a", "b"), known.__contains__)
    await look(reach, api)
    assert sides(reach) == (("a",), ("b",))
    assert api.asked == ["a"], "the list of packs asks often enough"
    known.add("b")
    await look(reach, api)
    assert sides(reach) == (("a", "b"), ())


async def test_the_version_of_what_is_stored_is_asked_where_it_is_answered() -> None:
    api, reach = Api(a=FORBIDDEN), Reach(("a", "b"))
    assert await reach.version(api) == 7  # type: ignore[arg-type]
    assert api.asked == ["a", "b"], "that a was lost is not known yet"
    await look(reach, api)
    api.asked.clear()
    assert await reach.version(api) == 7  # type: ignore[arg-type]
    assert api.asked == ["b"]


@pytest.mark.parametrize("trouble", [AWAY, FORBIDDEN])
async def test_where_none_answers_there_is_no_version(trouble: KubeError) -> None:
    with pytest.raises(KubeError):
        await Reach(("a", "b")).version(Api(a=trouble, b=trouble))  # type: ignore[arg-type]
