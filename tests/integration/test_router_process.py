"""HAProxy as the router's child: restart, stop, and what keeps it from starting."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from fake_engine import FakeEngine
from ports import free_port
from router_rig import Client, Rig, four_engines, new_router, queued, until, works_on
from slm_worker.routing.router import Router, RouterError
from slm_worker.wire import Routing


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with four_engines(tmp_path / "router") as rig:
        yield rig


async def test_a_restart_restores_endpoints_and_rotation(rig: Rig) -> None:
    router, _, client = rig
    await router.admit(1)
    await router.admit(2)
    await router.drain(2)
    for child in _haproxies():
        child.send_signal(signal.SIGKILL)

    async def dead() -> bool:
        return not router.alive

    await until(dead)
    with pytest.raises(RouterError, match="does not run"):
        await router.stats()
    await router.restart()
    assert router.alive
    assert await client.complete() == (200, "r1")
    await router.drain(1)
    held = asyncio.create_task(client.complete())
    await queued(router, 1)
    await router.admit(1)
    assert await held == (200, "r1")


async def test_new_connections_wait_while_haproxy_is_dead(rig: Rig) -> None:
    router, engines, client = rig
    await router.admit(0)
    engines[0].gate.clear()
    cut = asyncio.create_task(client.complete())
    await works_on(engines[0], 1)
    assert (await router.tend(Routing())).in_flight[0] == 1
    for child in _haproxies():
        child.send_signal(signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await cut
    engines[0].gate.set()
    waiting = [asyncio.create_task(client.complete()) for _ in range(20)]
    await router.restart()
    assert await asyncio.gather(*waiting) == [(200, "r0")] * 20
    await router.tend(Routing())
    assert (router.state.requests, router.state.served, router.state.lost) == (21, 20, 1)
    assert router.state.restarts == 1


async def test_a_restart_keeps_mode_and_bounds(rig: Rig) -> None:
    router, engines, client = rig
    for engine in engines:
        engine.gate.clear()
    await router.admit(0)
    await router.admit(1)
    await router.tend(Routing(mode="Spread", max_queued_requests=1))
    await router.restart()
    tasks = [asyncio.create_task(client.complete()) for _ in range(2)]
    await works_on(engines[0], 1)
    await works_on(engines[1], 1)
    tasks += [asyncio.create_task(client.complete()) for _ in range(7)]
    await queued(router, 1)
    assert (await client.complete())[0] == 429
    for engine in engines:
        engine.gate.set()
    await asyncio.gather(*tasks)


async def test_a_hung_haproxy_is_replaced(rig: Rig) -> None:
    router, _, client = rig
    await router.admit(0)
    for child in _haproxies():
        child.send_signal(signal.SIGSTOP)
    with pytest.raises(RouterError, match="did not answer"):
        await router.stats()
    await router.restart()
    assert await client.complete() == (200, "r0")


async def test_clients_sent_away_are_told_by_their_next_answer(rig: Rig) -> None:
    router, _, client = rig
    await router.admit(0)

    async def kept() -> bool:
        async with client.session.post(f"{client.base}/v1/completions", data=b"{}") as answer:
            assert (answer.status, await answer.text()) == (200, "r0")
            return answer.headers.get("Connection") != "close"

    assert await kept()
    router.send_clients_away()
    await router.tend(Routing())
    assert not await kept()
    await router.restart()
    assert not await kept()


async def test_an_end_answers_what_is_in_flight_and_refuses_connections(rig: Rig) -> None:
    router, engines, client = rig
    await router.admit(0)
    waits_for_nothing = await _kept_connection(client)
    engines[0].gate.clear()
    asking = [asyncio.create_task(client.complete()) for _ in range(6)]
    await queued(router, 2)
    ending = asyncio.create_task(router.finish(20))
    assert await waits_for_nothing.read() == b""
    await until(lambda: _refuses_connections(client))
    engines[0].gate.set()
    assert await asyncio.gather(*asking) == [(200, "r0")] * 6
    assert await ending
    assert not router.alive


async def test_an_end_cuts_what_takes_too_long_and_says_so(rig: Rig) -> None:
    router, engines, client = rig
    await router.admit(0)
    engines[0].gate.clear()
    asking = asyncio.create_task(client.complete())
    await works_on(engines[0], 1)
    assert not await router.finish(0.2)
    with pytest.raises(aiohttp.ClientError):
        await asking


async def _refuses_connections(client: Client) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(client.base.split(":")[2]))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def _kept_connection(client: Client) -> asyncio.StreamReader:
    """One whose request was answered, and that may have another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(client.base.split(":")[2]))
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: router\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head and b"close" not in head.lower()
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return reader


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    """One that a failed test stops too, lest the next test meets its HAProxy."""
    router = new_router(tmp_path / "router")
    yield router
    await router.stop()


async def test_stop_leaves_no_process_and_no_file(router: Router, tmp_path: Path) -> None:
    run_dir = tmp_path / "router"
    await router.start()
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in run_dir.iterdir()} == {0o600}
    assert len(_haproxies()) == 1
    await router.stop()
    assert list(run_dir.iterdir()) == []
    assert _haproxies() == []
    assert not router.alive
    await router.stop()


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    engine = FakeEngine("other")
    await engine.start()
    router = new_router(tmp_path, engine.port)
    try:
        with pytest.raises(RouterError, match=rf"port taken: .*127\.0\.0\.1:{engine.port}"):
            await router.start()
    finally:
        await engine.kill()
    assert _haproxies() == []
    assert list(tmp_path.iterdir()) == []


async def test_a_foreign_address_is_named(tmp_path: Path) -> None:
    router = Router(
        address="192.0.2.1", port=free_port(), replica_host="127.0.0.1", run_dir=tmp_path
    )
    with pytest.raises(RouterError, match=r"192\.0\.2\.1:\d+ is not one of this host's"):
        await router.start()


async def test_a_missing_haproxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    router = new_router(tmp_path)
    with pytest.raises(RouterError, match="install the haproxy package"):
        await router.start()


async def test_a_too_old_haproxy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "haproxy"
    old.write_text("#!/bin/sh\necho 'HAProxy version 2.4.3 2021/09/07'\n")
    old.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    router = new_router(tmp_path / "r")
    with pytest.raises(RouterError, match=r"haproxy 2\.4 is too old"):
        await router.start()


def _haproxies() -> list[psutil.Process]:
    """Those of this process's routers. A pack of the stack that other tests share has one too, as a
    descendant, which is none of these tests' business."""
    return [
        child
        for child in psutil.Process().children()
        if child.name() in ("haproxy", "setpriv") and child.status() != psutil.STATUS_ZOMBIE
    ]
