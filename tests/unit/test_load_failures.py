"""How the calibration load counts requests that fail: not all of them spoil a window."""

from __future__ import annotations

import asyncio
import random

from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_worker.load import SaturatingLoad
from slm_worker.loading import CalibrationLoad
from slm_worker.wire import Load


async def test_failures_for_want_of_room_are_told_from_others_over_all_loads() -> None:
    statuses = [429, 503, 400, 500]
    seen: list[int] = []

    async def complete(request: web.Request) -> web.Response:
        seen.append(statuses[len(seen) % len(statuses)])
        return web.Response(status=seen[-1])

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        load = CalibrationLoad(
            lambda wanted: SaturatingLoad(
                url=str(server.make_url("")),
                model_name="m",
                prompt_tokens=wanted.prompt_tokens,
                output_tokens=wanted.output_tokens,
                rng=random.Random(1),
            )
        )
        await load.match(Load(prompt_tokens=1, output_tokens=1), 1, 1)
        async with asyncio.timeout(60):
            while min(load.state.turned_away, load.state.failed - load.state.turned_away) < 4:
                await asyncio.sleep(0.01)
        await load.match(None, 1, 1)
    state = load.state
    assert state.completed == 0
    assert state.turned_away <= seen.count(429) + seen.count(503)
    assert state.failed - state.turned_away <= seen.count(400) + seen.count(500)
