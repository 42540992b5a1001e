"""Where the programs listen when nobody says: on Pods' addresses of every family."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable

import aiohttp
import pytest

from activator_world import HOST, TOKEN, free_port
from slm_operator import main
from slm_operator.activator import main as activator_main
from slm_operator.activator.server import Activator, Settings
from slm_operator.cluster.permit import Permit
from slm_operator.metrics import Metrics


def has(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


HOSTS = [
    pytest.param(HOST, id="IPv4"),
    pytest.param(
        "[::1]",
        id="IPv6",
        marks=pytest.mark.skipif(not has("::1"), reason="this machine has no IPv6"),
    ),
]


def default(start: Callable[..., None], name: str) -> str:
    value: str = inspect.signature(start).parameters[name].default
    return value


async def health(host: str, port: int) -> int:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{host}:{port}/healthz") as answer,
    ):
        return answer.status


@pytest.mark.parametrize("host", HOSTS)
async def test_the_operator_answers_probes_of_either_family(host: str) -> None:
    address, port = default(main.start, "health_address"), free_port()
    served = await main._serve_health(Metrics(), Permit(), address, port)
    try:
        assert await health(host, port) == 200
    finally:
        await served.cleanup()


@pytest.mark.parametrize("host", HOSTS)
async def test_the_activator_answers_probes_of_either_family(host: str) -> None:
    address, port = default(activator_main.start, "address"), free_port()
    async with Activator(Settings(TOKEN, address, port)):
        assert await health(host, port) == 200


async def test_a_kernel_without_ipv6_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyIPv4(socket.socket):
        def __init__(self, family: int = -1, *rest: int, **more: int) -> None:
            if family == socket.AF_INET6:
                raise OSError("Address family not supported by protocol")
            super().__init__(family, *rest, **more)

    address, port = default(main.start, "health_address"), free_port()
    monkeypatch.setattr(socket, "socket", OnlyIPv4)
    served = await main._serve_health(Metrics(), Permit(), address, port)
    try:
        assert await health(HOST, port) == 200
    finally:
        await served.cleanup()
