"""Which tokens the prompts of the calibration load are made of."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from slm_worker.load import SaturatingLoad, token_ids


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        pytest.param(None, range(100, 30_000), id="of a model whose vocabulary is not known"),
        pytest.param(151_936, range(100, 30_000), id="of a large one"),
        pytest.param(21_128, range(100, 21_128), id="of a small one"),
        pytest.param(64, range(32, 64), id="of characters"),
        pytest.param(1, range(1), id="of one token"),
    ],
)
def test_tokens_are_above_the_special_ones_and_within_the_vocabulary(
    vocabulary: int | None, expected: range
) -> None:
    assert token_ids(vocabulary) == expected


async def test_a_model_with_a_small_vocabulary_has_every_token_of_the_load() -> None:
    asked: list[dict[str, Any]] = []

    async def complete(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        load = SaturatingLoad(
            url=str(server.make_url("")),
            model_name="m",
            prompt_tokens=500,
            output_tokens=1,
            vocabulary=200,
            rng=random.Random(1),
        )
        await load.set_concurrency(1)
        async with asyncio.timeout(60):
            while len(asked) < 3:
                await asyncio.sleep(0.01)
        await load.stop()
    assert {token for one in asked for token in one["prompt"]} <= set(range(100, 200))
