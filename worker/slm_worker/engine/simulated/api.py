"""HTTP of the simulated engine: the OpenAI routes, and vLLM's own for health, metrics and sleep."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from slm_worker.engine.simulated.loop import EngineLoop, Generation
from slm_worker.engine.simulated.metrics import EngineMetrics, Exposition
from slm_worker.engine.simulated.requests import (
    GenerationRequest,
    RequestError,
    parse_chat,
    parse_completion,
    prompt_tokens,
    text,
    usage,
)
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.engine.simulated.sleep import SleepMode
from slm_worker.gpu.simulated.client import DeviceRefusedError

MAX_BODY_BYTES = 2**20
STREAM_INTERVAL_SECONDS = 0.1
"""A stream gets its first token at once and then what was written since, this often: a message
for each token of each stream would cost more than the simulation is worth."""
CREATED = 0
"""Unix time of every answer: they are the same in each run."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SimulatedApi:
    """Routes of one engine. After ``draining`` is set, new generations are refused with 500.

    ``sleep_mode`` is None for an engine that was started without it: it has no such routes.
    """

    def __init__(
        self,
        loop: EngineLoop,
        scheduler: Scheduler,
        metrics: EngineMetrics,
        *,
        exposition: Exposition,
        max_model_len: int,
        sleep_mode: SleepMode | None,
    ) -> None:
        self.draining = False
        self._loop = loop
        self._scheduler = scheduler
        self._metrics = metrics
        self._exposition = exposition
        self._model_name = exposition.model_name
        self._max_model_len = max_model_len
        self._sleep_mode = sleep_mode
        self._ids = itertools.count(1)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_openai_errors])
        application.add_routes(
            [
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._complete),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/metrics", self._serve_metrics),
                web.get("/version", self._version),
                web.post("/tokenize", self._tokenize),
            ]
        )
        if self._sleep_mode is not None:
            application.add_routes(_sleep_routes(self._sleep_mode))
        return application

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0+simulated"})

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": self._model_name,
            "object": "model",
            "created": CREATED,
            "owned_by": "simulated",
            "max_model_len": self._max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            text=self._exposition.text(
                self._metrics,
                self._scheduler,
                asleep=self._sleep_mode is not None and self._sleep_mode.asleep,
            ),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _tokenize(self, http: web.Request) -> web.Response:
        count = prompt_tokens(await _json(http), self._model_name)
        tokens = list(range(count))  # there is no tokenizer: only how many there are means anything
        return web.json_response(
            {"count": count, "max_model_len": self._max_model_len, "tokens": tokens}
        )

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        if self.draining:
            raise RequestError(500, "the engine is shutting down: send the request elsewhere")
        body = await _json(http)
        parse = parse_chat if http.path == "/v1/chat/completions" else parse_completion
        request = parse(body, self._model_name, self._max_model_len)
        generation = self._loop.submit(request.prompt_tokens, request.output_tokens, request.reason)
        try:
            if request.stream:
                return await self._stream(http, request, generation)
            await generation.finished.wait()
        finally:
            self._loop.abort(generation)  # where the client went away
        written = self._loop.written(generation)
        choice = _whole_choice(request, text(0, written), generation.reason)
        return web.json_response(
            self._envelope(request, _object_name(request))
            | {"choices": [choice], "usage": usage(request, written)}
        )

    async def _stream(
        self, http: web.Request, request: GenerationRequest, generation: Generation
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        envelope = self._envelope(request, _object_name(request, chunk=True))
        await generation.first_token.wait()
        sent = 0
        while True:
            ended = generation.finished.is_set()
            written = self._loop.written(generation)
            if written > sent or ended:
                reason = generation.reason if ended else None
                choice = _partial_choice(request, text(sent, written), reason, first=sent == 0)
                await _send(response, envelope | {"choices": [choice]})
                sent = written
            if ended:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_INTERVAL_SECONDS):
                    await generation.finished.wait()
        if request.include_usage:
            await _send(response, envelope | {"choices": [], "usage": usage(request, sent)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _envelope(self, request: GenerationRequest, object_name: str) -> dict[str, Any]:
        prefix = "chatcmpl" if request.chat else "cmpl"
        return {
            "id": f"{prefix}-simulated-{next(self._ids)}",
            "object": object_name,
            "created": CREATED,
            "model": self._model_name,
        }


def _sleep_routes(mode: SleepMode) -> list[web.RouteDef]:
    """vLLM's, at level 1 and with its default of ending what runs."""

    async def sleep(http: web.Request) -> web.Response:
        wanted = (http.query.get("level", "1"), http.query.get("mode", "abort"))
        if wanted != ("1", "abort"):
            raise RequestError(400, "the simulated engine sleeps with level=1 and mode=abort only")
        await mode.sleep()
        return web.json_response({"status": "sleeping", "level": 1})

    async def wake_up(http: web.Request) -> web.Response:
        if "tags" in http.query:
            raise RequestError(400, "the simulated engine wakes as a whole: leave tags out")
        try:
            await mode.wake_up()
        except DeviceRefusedError as error:
            raise RequestError(500, f"CUDA out of memory (SIMULATED): {error}") from None
        return web.json_response({"status": "awake", "tags": None})

    async def is_sleeping(_: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": mode.asleep})

    return [
        web.post("/sleep", sleep),
        web.post("/wake_up", wake_up),
        web.get("/is_sleeping", is_sleeping),
    ]


async def _json(http: web.Request) -> Any:
    """The body. Raises RequestError."""
    try:
        return json.loads(await http.read())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON: {error}") from None


def _object_name(request: GenerationRequest, *, chunk: bool = False) -> str:
    if not request.chat:
        return "text_completion"
    return "chat.completion.chunk" if chunk else "chat.completion"


def _whole_choice(request: GenerationRequest, content: str, reason: str | None) -> dict[str, Any]:
    if request.chat:
        body: dict[str, Any] = {"message": {"role": "assistant", "content": content}}
    else:
        body = {"text": content}
    return {"index": 0, **body, "logprobs": None, "finish_reason": reason}


def _partial_choice(
    request: GenerationRequest, content: str, reason: str | None, *, first: bool
) -> dict[str, Any]:
    if not request.chat:
        return _whole_choice(request, content, reason)
    delta = {"role": "assistant", "content": content} if first else {"content": content}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


async def _send(response: web.StreamResponse, message: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(message).encode() + b"\n\n")


@web.middleware
async def _openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal in the shape that OpenAI clients read."""
    try:
        return await handler(request)
    except RequestError as error:
        return _error(error.status, str(error), error.param)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"the body exceeds {MAX_BODY_BYTES} bytes: shorten the prompt", None)
    except web.HTTPException as error:
        return _error(error.status, f"{request.method} {request.path}: {error.reason}", None)


def _error(status: int, message: str, param: str | None) -> web.Response:
    kinds = {404: "NotFoundError", 500: "InternalServerError"}
    kind = kinds.get(status, "BadRequestError")
    body = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": body}, status=status)
