"""What the operator counts of the requests that it sends."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_operator.cluster.agents import open_session
from slm_operator.cluster.permit import Permit
from slm_operator.metrics import Metrics


async def test_requests_are_counted_by_whom_they_go_to_and_by_their_answer() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404 if request.method == "GET" else 200)

    app = web.Application()
    app.router.add_route("*", "/", answer)
    metrics = Metrics()
    counted = metrics.registry.get_sample_value
    async with (
        TestServer(app) as server,
        open_session(Permit.unlimited(), metrics.counting("agent")) as session,
    ):
        url = server.make_url("/")
        for method in ("GET", "GET", "PUT"):
            await (await session.request(method, url)).read()
        await server.close()
        with pytest.raises(aiohttp.ClientError):
            await session.post(url)
    sent = {
        ("GET", "404"): 2,
        ("PUT", "200"): 1,
        ("POST", "none"): 1,
    }
    for (method, code), count in sent.items():
        labels = {"to": "agent", "method": method, "code": code}
        assert counted("slm_operator_requests_total", labels) == count
    assert counted("slm_operator_request_seconds_count", {"to": "agent"}) == 3
