"""What the operator tells the activator, and what it learns of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from activator_world import BODY, CHAT, HOST, TOKEN, FakePack, Namespaces, free_port
from builders import pack, service
from slm_operator.activator.server import Activator, Settings
from slm_operator.api.models import MAX_PACKS, SLMService
from slm_operator.cluster import activator as client_module
from slm_operator.cluster.activator import (
    HIDDEN_SECONDS,
    REFUSED_SECONDS,
    SILENCE_SECONDS,
    ActivatorClient,
)
from slm_operator.cluster.ports import Ports
from slm_operator.decide.snapshot import Activation, Pack

SLEEPY = service({"autoscaling": {"minPacks": 0, "maxPacks": 2}})
OTHER = SLEEPY.model_copy(update={"name": "other", "uid": "u2"})
READY = pack(None, ready=True, address=HOST)


@dataclass
class World:
    """An operator's client, an activator that can be stopped, and one service's clients."""

    http: aiohttp.ClientSession
    control: int
    client: ActivatorClient
    pack: FakePack
    now: list[float]
    running: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self, token: str = TOKEN) -> None:
        settings = Settings(token, HOST, self.control, router_port=self.pack.port)
        await self.running.enter_async_context(Activator(settings))

    async def fall_silent(self) -> None:
        """Once it has answered."""
        await self.start()
        await self.see()
        await self.running.aclose()

    async def see(self, *packs: Pack, of: SLMService = SLEEPY) -> Activation:
        found = await self.client.activation(of, packs)
        assert found is not None
        return found

    async def look(self) -> list[str]:
        """Names of the services that a look wakes."""
        return [one.name for one in await self.client._look()]

    async def ask(self, port: int) -> int:
        async with self.http.post(f"http://{HOST}:{port}{CHAT}", json=BODY) as answer:
            await answer.read()
            return answer.status

    async def waits(self, port: int) -> None:
        """Until a request waits there, as the activator itself says."""
        url = f"http://{HOST}:{self.control}/v1/held"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with asyncio.timeout(5):
            while True:
                async with self.http.get(url, headers=headers) as answer:
                    doors = (await answer.json())["doors"]
                if any(d["port"] == port and d["waiting"] for d in doors):
                    return
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    control, now = free_port(), [0.0]
    ports = Ports(first := free_port(), first + 1)
    ports.all_known = True
    async with aiohttp.ClientSession() as http:
        url = f"http://{HOST}:{control}"
        client = ActivatorClient(http, url, TOKEN, ports, clock=lambda: now[0])
        found = World(http, control, client, FakePack(), now)
        async with found.running:
            yield found


@contextlib.asynccontextmanager
async def answering(status: int, text: str, to_routes: int | None = None) -> AsyncIterator[str]:
    """The URL of something that answers so, whatever it is asked; ``to_routes``: with another
    status where it is told one."""

    async def handle(request: web.Request) -> web.Response:
        if to_routes is not None and request.method == "PUT":
            return web.Response(status=to_routes, text=text)
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_a_request_at_zero_packs_wakes_its_service_once_and_is_served_by_its_pack() -> None:
    async with world() as here:
        await here.start()
        port = (await here.see()).port
        assert port is not None
        assert await here.look() == []
        request = asyncio.create_task(here.ask(port))
        await here.waits(port)
        assert await here.look() == ["chat"]
        assert await here.look() == [], "its passes look by themselves while a pack starts"
        assert (await here.see()).held == 1
        here.pack.go_on.set()
        async with here.pack.running():
            await here.see(READY)
            assert await request == 200


async def test_what_waits_is_served_though_its_service_scales_to_zero_no_more() -> None:
    async with world() as here:
        await here.start()
        port = (await here.see()).port
        assert port is not None
        request = asyncio.create_task(here.ask(port))
        await here.waits(port)
        assert await here.look() == ["chat"]
        status = SLEEPY.status.model_copy(update={"activator_port": port})
        awake = service({"autoscaling": {"minPacks": 1, "maxPacks": 2}})
        awake = awake.model_copy(update={"status": status})
        assert (await here.see(of=awake)).held == 1
        here.pack.go_on.set()
        async with here.pack.running():
            assert (await here.see(READY, of=awake)).port == port
            assert await request == 200
        assert (
            await here.client.activation(awake.model_copy(update={"status": SLEEPY.status}), ())
            is None
        )


async def test_only_packs_that_are_ready_and_stay_get_requests() -> None:
    async with world() as here:
        await here.start()
        starting = pack(None, 1, address="10.0.0.1")
        ending = pack(None, 2, ready=True, terminating=True, address="10.0.0.2")
        port = (await here.see(READY, starting, ending)).port
        assert port is not None
        assert here.client._doors[port].route.addresses == (HOST,)


async def test_as_many_packs_as_may_be_and_one_that_is_tried_get_requests() -> None:
    async with world() as here:
        await here.start()
        packs = [pack(None, n, ready=True, address=f"10.0.0.{n}") for n in range(MAX_PACKS + 1)]
        told = await here.see(*packs)
        assert told.trouble is None and told.port is not None
        assert len(here.client._doors[told.port].route.addresses) == MAX_PACKS + 1


async def test_an_activator_that_was_started_anew_is_told_again() -> None:
    async with world() as here:
        await here.start()
        port = (await here.see()).port
        assert port is not None
        await here.running.aclose()
        assert await here.look() == []
        await here.start()
        assert await here.look() == ["chat"]
        await here.see()
        request = asyncio.create_task(here.ask(port))
        await here.waits(port)
        request.cancel()


async def test_a_silence_is_told_at_once_and_counts_when_it_lasts() -> None:
    async with world() as here:
        await here.fall_silent()
        assert await here.look() == []
        told = await here.see()
        assert told.trouble is not None and told.trouble.reason == "ActivatorUnreachable"
        assert told.lastingly
        here.now[0] += SILENCE_SECONDS
        assert not (await here.see()).lastingly
        await here.start()
        assert await here.look() == ["chat"]
        assert await here.see() == Activation(told.port, HOST)


async def test_a_silence_that_begins_to_count_wakes_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as here:
        await here.fall_silent()

        async def refused(url: str) -> str:
            here.now[0] += SILENCE_SECONDS
            raise OSError

        monkeypatch.setattr(client_module, "_resolved", refused)
        assert await here.look() == ["chat"]
        assert await here.look() == []


async def test_a_silence_that_begins_to_count_between_two_looks_wakes_services_too() -> None:
    async with world() as here:
        await here.fall_silent()
        assert await here.look() == []
        here.now[0] += SILENCE_SECONDS
        assert await here.look() == ["chat"]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        pytest.param(401, "send the activator's token", id="another token"),
        pytest.param(502, "bad gateway", id="a proxy before it"),
        pytest.param(200, "{}", id="another program"),
    ],
)
async def test_an_activator_that_only_refuses_holds_nothing_once_that_lasts(
    status: int, text: str
) -> None:
    async with world() as here, answering(status, text) as url:
        await here.start()
        port = (await here.see()).port
        assert await here.look() == []
        here.client._url = url
        await here.look()
        assert (await here.see()).lastingly, "it may be over in a moment"
        here.now[0] += SILENCE_SECONDS
        assert await here.look() == ["chat"]
        assert await here.look() == []
        told = await here.see()
        assert (told.port, told.trouble is None, told.lastingly) == (port, False, False)


async def test_a_service_whose_port_cannot_be_opened_gets_a_pack_at_once() -> None:
    async with world() as here:
        await here.start()
        with socket.create_server((HOST, here.client._ports.of(SLEEPY.uid) or 0)):
            told = await here.see()
        assert told.trouble is not None and told.trouble.reason == "ActivatorRefused"
        assert not told.lastingly
        here.now[0] += REFUSED_SECONDS
        assert await here.look() == ["chat"]
        assert await here.see() == Activation(told.port, HOST)


@pytest.mark.parametrize(
    ("status", "text", "to_routes"),
    [
        pytest.param(502, "bad gateway", 502, id="a proxy without its activator"),
        pytest.param(200, '{"doors": []}', 422, id="an activator that takes no such route"),
    ],
)
async def test_another_error_than_a_closed_port_starts_no_pack_before_it_lasts(
    status: int, text: str, to_routes: int
) -> None:
    async with world() as here, answering(status, text, to_routes) as url:
        here.client._url = url
        told = await here.see()
        assert told.trouble is not None and told.trouble.reason == "ActivatorRefused"
        assert told.lastingly
        here.now[0] += SILENCE_SECONDS - 1
        assert (await here.see()).lastingly
        here.now[0] += 1
        await here.look()
        assert not (await here.see()).lastingly


async def test_a_port_that_stays_closed_wakes_its_service_now_and_then_until_it_opens() -> None:
    async with world() as here:
        await here.start()
        with socket.create_server((HOST, here.client._ports.of(SLEEPY.uid) or 0)):
            await here.see()
            woken = 0
            for _ in range(20):
                here.now[0] += 0.5
                for _ in await here.look():
                    woken += 1
                    await here.see()
        assert 1 <= woken <= 2
        here.now[0] += REFUSED_SECONDS
        assert await here.look() == ["chat"]
        assert (await here.see()).trouble is None
        assert await here.look() == []


async def test_another_route_is_told_at_once_though_the_last_was_refused() -> None:
    async with world() as here, answering(200, '{"doors": []}', 409) as url:
        here.client._url = url
        await here.see()
        assert await here.look() == []
        known = here.client._known[SLEEPY.uid]
        route = known.route.model_copy(update={"addresses": (HOST,)})
        here.client._known[SLEEPY.uid] = replace(known, route=route)
        assert await here.look() == ["chat"]


async def test_an_activator_that_nobody_asked_for_long_is_not_taken_for_silent() -> None:
    async with world() as here:
        await here.start()
        here.now[0] += 10 * SILENCE_SECONDS
        assert (await here.see()).lastingly


async def test_a_host_that_cannot_be_resolved_is_one_that_does_not_answer() -> None:
    async with world() as here:
        here.client._url = "http://a..b:8082"
        told = (await here.see()).trouble
        assert told is not None and told.reason == "ActivatorUnreachable"
        assert "http://a..b:8082" in told.message
        assert await here.look() == []


async def test_another_token_is_said_by_name() -> None:
    async with world() as here:
        await here.start(token="x" * 32)
        told = (await here.see()).trouble
        assert told is not None and told.reason == "ActivatorRefusedToken"
        assert "SLM_ACTIVATOR_TOKEN" in told.message


@pytest.mark.parametrize("body", ["<html>", "{", "[]", '{"doors": 1}'])
async def test_another_answer_than_an_activators_is_a_trouble_with_its_remedy(body: str) -> None:
    async with world() as here, answering(200, body) as url:
        here.client._url = url
        told = (await here.see()).trouble
        assert told is not None and told.reason == "ActivatorUnreachable"
        assert "run operator and activator of one release" in told.message
        assert await here.look() == []
        assert here.client._trouble == told


async def test_a_service_that_does_not_scale_to_zero_is_not_told() -> None:
    async with world() as here:
        await here.start()
        assert await here.client.activation(service(), ()) is None


async def test_each_service_has_a_port_of_its_own_and_the_range_ends() -> None:
    async with world() as here:
        await here.start()
        mine, others = (await here.see()).port, (await here.see(of=OTHER)).port
        assert mine != others
        third = SLEEPY.model_copy(update={"uid": "u3"})
        told = await here.see(of=third)
        assert told.port is None and told.trouble is not None
        assert told.trouble.reason == "ActivatorPortsTaken"
        await here.client.forget(OTHER.uid)
        assert (await here.see(of=third)).port == others


async def test_what_still_leads_to_the_port_of_an_orphan_leads_to_no_other_service() -> None:
    async with world() as here:
        await here.start()
        mine, others = (await here.see()).port, (await here.see(of=OTHER)).port
        assert None not in (mine, others)
        await here.client.forget(OTHER.uid, keeps_port=True)
        third = SLEEPY.model_copy(update={"uid": "u3"})
        assert (await here.see(of=third)).port is None
        await here.look()
        assert list(here.client._doors) == [mine], "nothing waits for the orphan any more"


async def test_a_namespace_that_cannot_be_read_is_asked_for_its_ports_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "LOOK_SECONDS", 0.001)
    async with world() as here:
        await here.start()
        here.client._ports.all_known = False
        kube = Namespaces(hidden={"late"})
        following = here.client.follow(kube, lambda *_: None, ("late",))  # type: ignore[arg-type]
        task = asyncio.create_task(following)
        await asyncio.sleep(0.02)
        told = await here.see()
        assert (told.port, kube.asked) == (None, ["late"]), "not at every look"
        kube.hidden.clear()
        here.now[0] += HIDDEN_SECONDS
        await asyncio.sleep(0.02)
        assert (await here.see()).port is not None
        task.cancel()
        assert kube.asked == ["late", "late"]
