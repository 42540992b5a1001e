"""Services that went while nobody watched are found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, suppress

import kopf
import pytest

from slm_operator import services as subject
from slm_operator.cluster.kube import KubeError


class Api:
    """Stands for the API server: answers with the UIDs that are there, or refuses."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.refusal: KubeError | None = None
        self.asked = 0

    async def uids(self, api_version: str, kind: str) -> set[str]:
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return self.there


class Loops:
    def __init__(self, *known: str) -> None:
        self.known = set(known)

    def uids(self) -> Set[str]:
        return self.known

    def remove(self, uid: str) -> None:
        self.known.remove(uid)


@asynccontextmanager
async def forgetting(api: Api, loops: Loops) -> AsyncIterator[asyncio.Event]:
    listed = asyncio.Event()
    task = asyncio.create_task(subject._forget(api, loops, listed))  # type: ignore[arg-type]
    yield listed
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SETTLE_SECONDS", 0.0)


async def test_what_is_gone_after_a_new_list_is_ended_and_what_is_there_stays() -> None:
    api, loops = Api("a", "new"), Loops("a", "b")
    async with forgetting(api, loops) as listed:
        await asyncio.sleep(0.02)
        assert loops.known == {"a", "b"}, "nothing was interrupted"
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known == {"a"}


async def test_it_is_looked_at_now_and_then_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "WATCH_SECONDS", 0.01)
    loops = Loops("a")
    async with forgetting(Api(), loops):
        await asyncio.sleep(0.1)
    assert loops.known == set()


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
    async with forgetting(api, loops) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert loops.known == left


async def test_where_no_service_is_known_nothing_is_asked() -> None:
    api = Api("a")
    async with forgetting(api, Loops()) as listed:
        listed.set()
        await asyncio.sleep(0.02)
    assert api.asked == 0


async def test_watching_goes_on_after_a_fault_and_ends_when_kopf_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[str] = []

    async def operator(**_: object) -> None:
        runs.append("run")
        if len(runs) == 1:
            raise RuntimeError("the watch is forbidden")

    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(subject, "RESTART_SECONDS", 0.0)
    async with asyncio.timeout(5):
        await subject.follow(Api(), Loops())  # type: ignore[arg-type]
    assert runs == ["run", "run"]
