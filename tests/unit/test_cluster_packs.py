"""Which packs are known, through all that can happen to a watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from slm_operator.cluster import following
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object, Page
from slm_operator.cluster.packs import Packs


def pod(name: str, *, uid: str = "", instance: str = "chat", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid or f"uid-{name}",
            "resourceVersion": "7",
            "labels": {"app.kubernetes.io/instance": instance, "serving.slm.dev/pack": "0"}
            | labels,
        },
        "spec": {"containers": ["what nobody needs"]},
        "status": {},
    }


class ScriptedKube:
    """Lists and watches as told, one after the other; after the last it is silent for ever."""

    def __init__(self, *script: Sequence[Page | tuple[str, Object]] | KubeError) -> None:
        self._script = [s if isinstance(s, KubeError) else list(s) for s in script]
        self.watched_since: list[str] = []
        self.versions: list[int] = []
        """Of what is stored, one after the other; then 7."""
        self.idle = asyncio.Event()

    async def pages(
        self, api: str, kind: str, namespace: str, *, labels: str, metadata_only: bool
    ) -> AsyncIterator[Page]:
        pages = self._script.pop(0)
        if isinstance(pages, KubeError):
            raise pages
        for page in pages:
            assert isinstance(page, Page)
            yield page

    async def version(self, api: str, kind: str, namespace: str) -> int:
        return self.versions.pop(0) if self.versions else 7

    async def watch(
        self,
        api: str,
        kind: str,
        namespace: str,
        *,
        labels: str,
        since: str,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[str, Object]]:
        self.watched_since.append(since)
        if not self._script:
            self.idle.set()
            await asyncio.Event().wait()
        events = self._script.pop(0)
        if isinstance(events, KubeError):
            raise events
        for event in events:
            assert isinstance(event, tuple)
            yield event


def page(*pods: dict[str, Any], version: str = "5") -> Page:
    return Page(list(pods), version)


async def follow(kube: ScriptedKube) -> tuple[Packs, list[str]]:
    woken: list[str] = []
    packs = Packs(lambda _, name: woken.append(name))
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(packs.follow(kube))  # type: ignore[arg-type]
        await asyncio.wait_for(kube.idle.wait(), 5)
        following.cancel()
    return packs, woken


class TwoNamespaces(ScriptedKube):
    """Each with a script of its own."""

    def __init__(self, **scripts: ScriptedKube) -> None:
        super().__init__()
        self._scripts = scripts

    def pages(self, api: str, kind: str, namespace: str, **how: Any) -> AsyncIterator[Page]:
        return self._scripts[namespace].pages(api, kind, namespace, **how)

    def watch(
        self, api: str, kind: str, namespace: str, **how: Any
    ) -> AsyncIterator[tuple[str, Object]]:
        return self._scripts[namespace].watch(api, kind, namespace, **how)


def elsewhere(found: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {**found, "metadata": {**found["metadata"], "namespace": namespace}}


async def test_a_list_of_one_namespace_ends_no_packs_of_another() -> None:
    there = ScriptedKube(
        [page(elsewhere(pod("a"), "there"), elsewhere(pod("b"), "there"))],
        KubeError(410, "Gone", ""),
        [page(elsewhere(pod("b"), "there"))],
    )
    here = ScriptedKube([page(elsewhere(pod("a", uid="of here"), "here"))])
    packs = Packs(lambda _, name: None)
    async with asyncio.TaskGroup() as tasks:
        kube = TwoNamespaces(there=there, here=here)
        following = tasks.create_task(packs.follow(kube, ("there", "here")))  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.gather(there.idle.wait(), here.idle.wait()), 5)
        assert packs.listed.is_set()
        following.cancel()
    assert [each.name for each in packs.of("there", "chat")] == ["b"]
    assert [each.name for each in packs.of("here", "chat")] == ["a"]


async def follow_both(here: ScriptedKube, there: ScriptedKube) -> Packs:
    """Until nothing happens in either namespace any more."""
    packs = Packs(lambda _, name: None)
    async with asyncio.TaskGroup() as tasks:
        kube = TwoNamespaces(here=here, there=there)
        task = tasks.create_task(packs.follow(kube, ("here", "there")))  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.gather(here.idle.wait(), there.idle.wait()), 5)
        task.cancel()
    return packs


@pytest.mark.parametrize("status", [403, 404], ids=["no right", "no namespace"])
async def test_a_namespace_that_cannot_be_read_keeps_no_other_waiting(status: int) -> None:
    here, refused = ScriptedKube([page(elsewhere(pod("a"), "here"))]), asyncio.Event()

    class Refused(ScriptedKube):
        async def pages(self, *what: Any, **how: Any) -> AsyncIterator[Page]:
            refused.set()
            raise KubeError(status, "Forbidden", "no")
            yield

    packs = Packs(lambda _, name: None)
    async with asyncio.TaskGroup() as tasks:
        kube = TwoNamespaces(here=here, there=Refused())
        task = tasks.create_task(packs.follow(kube, ("here", "there")))  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.gather(packs.listed.wait(), refused.wait()), 5)
        task.cancel()
    assert (packs.known("here"), packs.known("there")) == (True, False)


async def test_a_namespace_that_can_be_read_again_is_listed() -> None:
    refusal = KubeError(403, "Forbidden", "no")
    there = ScriptedKube(refusal, refusal, [page(elsewhere(pod("b"), "there"))])
    packs = await follow_both(ScriptedKube([page()]), there)
    assert packs.known("there")
    assert [each.name for each in packs.of("there", "chat")] == ["b"]


async def test_what_is_known_of_a_namespace_that_can_be_read_no_more_stays() -> None:
    class Lost(ScriptedKube):
        async def pages(self, *what: Any, **how: Any) -> AsyncIterator[Page]:
            if len(self._script) == 0:
                self.idle.set()
                raise KubeError(403, "Forbidden", "no")
            async for each in super().pages(*what, **how):
                yield each

    there = Lost([page(elsewhere(pod("b"), "there"))], KubeError(403, "Forbidden", "no"))
    packs = await follow_both(ScriptedKube([page()]), there)
    assert [each.name for each in packs.of("there", "chat")] == ["b"]
    assert not packs.known("there"), "some may have come or gone"
    assert packs.listed.is_set()


async def test_a_namespace_that_cannot_be_read_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal = KubeError(403, "Forbidden", "no")
    await follow_both(ScriptedKube([page()]), ScriptedKube(refusal, refusal, refusal, [page()]))
    assert [record.getMessage() for record in caplog.records] == [
        "lost sight of every Pod, listing them again: Forbidden: no"
    ]


async def test_a_namespace_of_which_no_answer_comes_is_waited_for() -> None:
    away = asyncio.Event()

    class Away(ScriptedKube):
        async def pages(self, *what: Any, **how: Any) -> AsyncIterator[Page]:
            away.set()
            raise KubeError(503, "Refused", "no etcd")
            yield

    packs, here = Packs(lambda _, name: None), ScriptedKube([page()])
    async with asyncio.TaskGroup() as tasks:
        kube = TwoNamespaces(here=here, there=Away())
        task = tasks.create_task(packs.follow(kube, ("here", "there")))  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.gather(away.wait(), here.idle.wait()), 5)
        assert not packs.listed.is_set()
        task.cancel()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSES_SECONDS", (0.0,))
    monkeypatch.setattr(following, "REFUSED_PAUSES_SECONDS", (0.0,))


def names(packs: Packs, service: str = "chat") -> list[str]:
    return sorted(p.name for p in packs.of("default", service))


async def test_all_pages_are_known_before_it_counts_as_listed() -> None:
    kube = ScriptedKube([page(pod("a")), page(pod("b"), pod("c", instance="other"))])
    packs, woken = await follow(kube)
    assert packs.listed.is_set()
    assert (names(packs), names(packs, "other")) == (["a", "b"], ["c"])
    assert woken == ["chat", "chat", "other"]
    assert kube.watched_since == ["5"]


async def test_changes_follow_and_what_changes_nothing_wakes_nobody() -> None:
    same = pod("a")
    same["metadata"]["managedFields"] = ["somebody wrote the same"]
    kube = ScriptedKube(
        [page(pod("a"), pod("b"))],
        [("MODIFIED", same), ("DELETED", pod("b")), ("ADDED", pod("c")), ("BOOKMARK", pod("z"))],
    )
    packs, woken = await follow(kube)
    assert names(packs) == ["a", "c"]
    assert woken == ["chat"] * 4
    assert kube.watched_since == ["5", "7"]


@pytest.mark.parametrize("status", [0, 403, 410, 503])
async def test_what_went_during_an_interruption_is_gone(status: int) -> None:
    kube = ScriptedKube([page(pod("a"), pod("b"))], KubeError(status, "Gone", ""), [page(pod("b"))])
    packs, _ = await follow(kube)
    assert names(packs) == ["b"]


async def test_a_list_that_is_refused_is_tried_again() -> None:
    refusal = KubeError(403, "Forbidden", "roles are not read yet")
    packs, _ = await follow(ScriptedKube(refusal, refusal, [page(pod("a"))]))
    assert names(packs) == ["a"]


async def test_a_pod_of_the_same_name_is_another_pack() -> None:
    kube = ScriptedKube(
        [page(pod("a", uid="old"))],
        [("ADDED", pod("a", uid="new")), ("DELETED", pod("a", uid="old"))],
    )
    packs, _ = await follow(kube)
    assert [p.uid for p in packs.of("default", "chat")] == ["new"]


async def test_a_pod_whose_label_is_changed_moves_to_the_other_service() -> None:
    kube = ScriptedKube([page(pod("a"))], [("MODIFIED", pod("a", instance="other"))])
    packs, woken = await follow(kube)
    assert (names(packs), names(packs, "other")) == ([], ["a"])
    assert woken == ["chat", "chat", "other"]


async def test_a_pod_that_cannot_be_read_keeps_nobody_elses_from_being_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = pod("odd", **{"serving.slm.dev/pack": "first"})
    packs, _ = await follow(ScriptedKube([page(odd, pod("a"))]))
    assert names(packs) == ["a"]
    assert "default/odd has the labels of a pack and is none" in caplog.text
    assert "delete it where an SLMService owns it, and else remove its label" in caplog.text


async def test_nothing_is_watched_from_a_version_that_is_still_to_come() -> None:
    """A watch ended as it should, and meanwhile the store was restored from an older copy."""
    kube = ScriptedKube([page(pod("a"), pod("b"))], [], [page(pod("b"), version="3")])
    kube.versions = [5, 3, 3]
    packs, _ = await follow(kube)
    assert kube.watched_since == ["5", "3"]
    assert names(packs) == ["b"]
