"""What kopf watches, and when its watching begins anew."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from pathlib import Path

import kopf
import pytest
from kopf._cogs.structs.credentials import Vault
from kopf._cogs.structs.references import Insights
from kopf._core.engines.activities import authenticate

import kubeconfigs
from services_world import AWAY, UNKNOWN, Api, Loops, without_pauses
from slm_operator import services as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.reach import Reach


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)


async def test_watching_goes_on_after_a_fault_or_a_restored_store_until_kopf_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
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
    assert caplog.messages[-1] == "kopf was told to stop: the operator ends"


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


async def logged_in(vault: Vault) -> kopf.ConnectionInfo:
    """What kopf connects by, after it has asked for it."""
    registry = subject.wire(Loops(), asyncio.Event())  # type: ignore[arg-type]
    settings, memo = kopf.OperatorSettings(), kopf.Memo()
    await authenticate(registry=registry, settings=settings, indices={}, vault=vault, memo=memo)  # type: ignore[arg-type]
    found = [info async for _, info in vault]
    assert isinstance(found[0], kopf.ConnectionInfo)
    return found[0]


async def test_kopf_connects_as_the_operators_own_client_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = tmp_path / "team" / "ca.crt"
    kubeconfig = kubeconfigs.written(
        tmp_path / "team" / "config",
        cluster={"certificate-authority": "ca.crt", "proxy-url": "http://proxy:3128"},
        user=kubeconfigs.user_of_a_command(tmp_path / "asked"),
    )
    authority.write_text("the authority's certificate")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    found = await logged_in(Vault())
    assert (found.server, found.proxy_url) == (kubeconfigs.SERVER, "http://proxy:3128")
    assert (found.scheme, found.token) == ("Bearer", "token-1")
    assert found.ca_path == str(authority)


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [({"tls-server-name": "api.test"}, "api.test"), ({}, "127.0.0.1")],
    ids=["named", "not named"],
)
async def test_kopf_expects_the_name_in_the_servers_certificate_that_the_kubeconfig_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cluster: dict[str, str], expected: str
) -> None:
    kubeconfig = kubeconfigs.written(tmp_path / "config", cluster=cluster)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    context = (await logged_in(Vault())).as_ssl_context()
    shaken = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="127.0.0.1")
    assert shaken.server_hostname == expected


async def test_kopf_gets_a_new_token_when_the_api_server_no_longer_knows_the_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user = kubeconfigs.user_of_a_command(tmp_path / "asked")
    kubeconfig = kubeconfigs.written(tmp_path / "config", user=user)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    vault = Vault()
    first = await logged_in(vault)
    (key,) = [key async for key, _ in vault]
    refused = asyncio.create_task(vault.invalidate(key, first))
    assert (await logged_in(vault)).token == "token-2"
    await refused


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
