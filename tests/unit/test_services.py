"""Services that went, came or changed while nobody watched are found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import kopf
import pytest
from kopf._cogs.structs.references import Insights

from slm_operator import services as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.reach import Reach


class Api:
    """Stands for the API server: answers with what is there, each in version 1, or refuses."""

    def __init__(self, *there: str) -> None:
        self.there = dict.fromkeys(there, 1)
        self.refusal: KubeError | None = None
        self.refuses_pods_too = False
        self.asked = 0
        self.newest: list[int | KubeError] = []
        self.served: list[bool | KubeError] = [True]

    async def serves(self, api_version: str, kind: str) -> bool:
        answer = self.served.pop(0) if len(self.served) > 1 else self.served[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
        if kind == "Pod":
            if self.refuses_pods_too:
                raise KubeError(404, "NotFound", "404 page not found")
            return 1
        answer = self.newest.pop(0) if len(self.newest) > 1 else self.newest[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def versions(self, api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        self.asked += 1
        if namespace:
            return {uid: at for uid, at in self.there.items() if uid.startswith(f"{namespace}/")}
        if self.refusal is not None:
            raise self.refusal
        return self.there


class Loops:
    def __init__(self, *known: str) -> None:
        self.known = dict.fromkeys(known, 1)
        self.newest_version = 0

    def versions(self, namespace: str = "") -> dict[str, int]:
        return {uid: at for uid, at in self.known.items() if uid.startswith(namespace)}

    def remove(self, uid: str) -> None:
        del self.known[uid]


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
    monkeypatch.setattr(subject, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(subject, "SUSPECT_SECONDS", 0.01)
    monkeypatch.setattr(subject, "VERSION_SECONDS", 0.0)
    monkeypatch.setattr(subject, "SERVED_SECONDS", 0.0)


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


async def test_watching_goes_on_after_a_fault_or_a_restored_store_until_kopf_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[str] = []

    async def run(stop_flag: asyncio.Event) -> None:
        runs.append("run")
        if len(runs) == 1:
            raise RuntimeError("the watch is forbidden")
        if len(runs) == 2:
            stop_flag.set()

    async def spawn(*, stop_flag: asyncio.Event, **_: object) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(run(stop_flag))]

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    monkeypatch.setattr(subject, "RESTART_SECONDS", 0.0)
    api = Api()
    api.newest = [7]
    async with asyncio.timeout(5):
        await subject.follow(api, Loops(), Reach())  # type: ignore[arg-type]
    assert runs == ["run", "run", "run"]


async def test_kopf_is_given_the_namespaces_that_can_be_read_and_begins_anew_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[set[str | None]] = []
    refused = {"b", "c"}

    class Namespaces(Api):
        async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
            if namespace in refused:
                raise KubeError(403, "Forbidden", "no")
            return 7

    async def spawn(
        *, stop_flag: asyncio.Event, insights: Insights, clusterwide: bool, **_: object
    ) -> list[asyncio.Task[object]]:
        assert not clusterwide
        given.append(set(insights.namespaces))
        refused.discard("b")
        last = len(given) == 2
        return [asyncio.create_task(asyncio.sleep(0) if last else stop_flag.wait())]

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    monkeypatch.setattr(subject, "RESTART_SECONDS", 0.0)
    async with asyncio.timeout(5):
        await subject.follow(Namespaces(), Loops(), Reach(("a", "b", "c")))  # type: ignore[arg-type]
    assert given == [{"a"}, {"a", "b"}]


async def test_where_no_namespace_can_be_read_kopf_watches_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the process's signals even so."""
    given: list[tuple[bool, set[str | None]]] = []

    async def spawn(
        *, insights: Insights, clusterwide: bool, **_: object
    ) -> list[asyncio.Task[None]]:
        given.append((clusterwide, set(insights.namespaces)))
        return [asyncio.create_task(asyncio.sleep(0))]

    monkeypatch.setattr(kopf, "spawn_tasks", spawn)
    api, reach = Api(), Reach(("a",), packs_known=lambda _: False)
    api.newest = [7]
    async with asyncio.timeout(5):
        await subject.follow(api, Loops(), reach)  # type: ignore[arg-type]
    assert given == [(False, set())]


AWAY = KubeError(0, "Unreachable", "away")
UNKNOWN = KubeError(404, "NotFound", "the server could not find the requested resource")


async def test_kopf_begins_once_the_resource_is_served() -> None:
    api = Api()
    api.served = [False, AWAY, False, True]
    async with asyncio.timeout(5):
        await subject._until_served(api)  # type: ignore[arg-type]
    assert api.served == [True]


@pytest.mark.parametrize(
    ("served", "begun_anew"),
    [([False, True], True), ([False], False)],
    ids=["back", "not told yet"],
)
async def test_kopf_begins_anew_once_a_resource_that_was_gone_is_served_again(
    served: list[bool | KubeError], begun_anew: bool
) -> None:
    api, told = Api(), asyncio.Event()
    api.newest, api.served = [7, UNKNOWN, 8], served
    noticing = asyncio.create_task(
        subject._notice_breaks(api, Loops(), asyncio.Event(), told, Reach())  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.02)
    assert told.is_set() == begun_anew
    noticing.cancel()
    with suppress(asyncio.CancelledError):
        await noticing


@pytest.mark.parametrize(
    ("seen", "versions", "restored"),
    [
        (0, [7, 7, 9], False),
        (0, [9, AWAY, 7], True),
        (0, [9, AWAY, 9], False),
        (12, [9], True),
        (8, [9], False),
    ],
    ids=["it goes on", "restored in an outage", "restarted", "older than a service", "newer"],
)
async def test_a_version_that_goes_back_tells_that_an_older_copy_was_restored(
    seen: int, versions: list[int | KubeError], restored: bool
) -> None:
    api, loops, told = Api(), Loops(), asyncio.Event()
    api.newest, loops.newest_version = versions, seen
    noticing = asyncio.create_task(
        subject._notice_breaks(api, loops, asyncio.Event(), told, Reach())  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.02)
    assert told.is_set() == restored
    told.clear()
    await asyncio.sleep(0.02)
    assert not told.is_set(), "it is told once"
    noticing.cancel()
    with suppress(asyncio.CancelledError):
        await noticing


async def test_when_a_task_of_kopf_ends_so_do_the_others_and_nobody_elses() -> None:
    async def breaks() -> None:
        raise RuntimeError("a watch was forbidden")

    forever = asyncio.Event().wait
    loop = asyncio.create_task(forever())
    watches = asyncio.create_task(forever())
    with pytest.raises(RuntimeError, match="forbidden"):
        await subject._until_any_ends([watches, asyncio.create_task(breaks())])
    assert watches.cancelled()
    assert not loop.done()
    loop.cancel()
