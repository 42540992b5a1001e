"""Services that went, came or changed while nobody watched are found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from services_world import AWAY, Api, Loops, without_pauses
from slm_operator import services as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.reach import Reach


@asynccontextmanager
async def comparing(
    api: Api,
    loops: Loops,
    *namespaces: str,
    restored: asyncio.Event | None = None,
    packs_known: Callable[[str], bool] = lambda _: True,
) -> AsyncIterator[asyncio.Event]:
    listed = asyncio.Event()
    comparing = subject._compare(
        api,  # type: ignore[arg-type]
        loops,  # type: ignore[arg-type]
        listed,
        restored or asyncio.Event(),
        Reach(namespaces, packs_known),
    )
    task = asyncio.create_task(comparing)
    yield listed
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


async def test_what_is_gone_after_a_new_list_is_ended_and_what_is_there_stays() -> None:
    api, loops = Api("a"), Loops("a", "b")
    async with comparing(api, loops) as listed:
        await asyncio.sleep(0.02)
        assert loops.known.keys() == {"a", "b"}, "nothing was interrupted"
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == {"a"}


async def test_of_several_namespaces_each_is_asked() -> None:
    api, loops = Api("a/1", "b/1"), Loops("a/1", "a/2", "b/1", "b/2")
    async with comparing(api, loops, "a", "b") as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == {"a/1", "b/1"}


async def test_it_is_looked_at_now_and_then_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "COMPARE_SECONDS", 0.01)
    loops = Loops("a")
    async with comparing(Api(), loops):
        await asyncio.sleep(0.1)
    assert loops.known == {}


@pytest.mark.parametrize(
    ("refusal", "left"),
    [
        (KubeError(404, "NotFound", "no such resource"), set()),
        (KubeError(0, "Unreachable", "away"), {"a"}),
        (KubeError(403, "Forbidden", "no"), {"a"}),
    ],
    ids=["the resource is gone", "an outage", "a lost right"],
)
async def test_only_a_resource_that_is_gone_tells_that_all_are(
    refusal: KubeError, left: set[str]
) -> None:
    api, loops = Api(), Loops("a")
    api.refusal = refusal
    async with comparing(api, loops) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == left


async def test_what_knows_no_pods_either_is_not_an_api_server_without_the_resource() -> None:
    api, loops = Api(), Loops("a")
    api.refusal = KubeError(404, "NotFound", "404 page not found")
    api.refuses_pods_too = True
    async with comparing(api, loops) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == {"a"}


async def test_one_answer_alone_ends_nothing() -> None:
    api, loops = Api("a"), Loops("a")
    api.refusal = KubeError(404, "NotFound", "a proxy that knows no better")

    async def versions(api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        answer, api.refusal = api.refusal, None
        if answer is not None:
            raise answer
        return api.there

    api.versions = versions  # type: ignore[method-assign]
    async with comparing(api, loops) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == {"a"}


async def test_what_a_namespace_had_that_cannot_be_read_any_more_stays() -> None:
    api, loops = Api("a/1"), Loops("a/1", "a/2", "b/1")
    versions = api.versions

    async def refused(api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        if namespace == "b":
            raise KubeError(403, "Forbidden", "no")
        return await versions(api_version, kind, namespace)

    api.versions = refused  # type: ignore[method-assign]
    async with comparing(api, loops, "a", "b") as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known.keys() == {"a/1", "b/1"}


async def test_a_namespace_that_is_left_out_is_not_asked() -> None:
    api, loops = Api(), Loops("b/1")
    async with comparing(api, loops, "b", packs_known=lambda _: False) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known == {"b/1": 1}
    assert api.asked == 0


@pytest.mark.parametrize("known", [(), ("a",)], ids=["a new service", "a change"])
async def test_a_watch_that_stays_silent_begins_anew(known: tuple[str, ...]) -> None:
    api, loops, restored = Api("a"), Loops(*known), asyncio.Event()
    api.there["a"] = 2
    async with comparing(api, loops, restored=restored) as listed:
        listed.set()
        await asyncio.sleep(0.005)
        assert not restored.is_set(), "what was just listed may be on its way"
        async with asyncio.timeout(5):
            await restored.wait()


async def test_a_watch_is_silent_too_where_what_it_hides_is_written_again_and_again() -> None:
    api, loops, restored = Api("a"), Loops("a"), asyncio.Event()
    api.there["a"] = 2
    async with comparing(api, loops, restored=restored) as listed:
        listed.set()
        async with asyncio.timeout(5):
            while not restored.is_set():
                await asyncio.sleep(0.001)
                api.there["a"] += 1


async def test_a_watch_that_shows_one_change_late_goes_on() -> None:
    api, loops, restored = Api("a"), Loops("a"), asyncio.Event()
    api.there["a"] = 2
    async with comparing(api, loops, restored=restored) as listed:
        listed.set()
        for version in range(3, 20):
            await asyncio.sleep(0.004)
            api.there["a"], loops.known["a"] = version, version - 1
    assert not restored.is_set()


async def test_what_has_yet_to_come_is_nothing_to_hurry_for_while_others_come() -> None:
    api, loops = Api("a"), Loops("a")
    api.there["a"] = 2

    async def versions(api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        loops.newest_version += 1
        api.asked += 1
        return api.there

    api.versions = versions  # type: ignore[method-assign]
    async with comparing(api, loops) as listed:
        listed.set()
        await asyncio.sleep(0.1)
    assert api.asked == 1


async def test_after_an_outage_it_is_looked_at_once() -> None:
    api, listed = Api(), asyncio.Event()
    api.newest = [7, AWAY, AWAY, 8]
    noticing = asyncio.create_task(
        subject._notice_breaks(api, Loops(), listed, asyncio.Event(), Reach())  # type: ignore[arg-type]
    )
    async with asyncio.timeout(5):
        await listed.wait()
    assert api.newest == [8]
    noticing.cancel()
    with suppress(asyncio.CancelledError):
        await noticing
