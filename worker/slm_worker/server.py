"""The agent's HTTP API: the pack's state and plan, its health, and metrics for Prometheus."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import ValidationError

from slm_worker.agent import PlanRefusedError
from slm_worker.pack_metrics import CONTENT_TYPE, exposition
from slm_worker.wire import LEADER_EPOCH_HEADER, ApiError, PackState, Plan

MAX_BODY_BYTES = 64 * 1024
MAX_EPOCH_DIGITS = 20
"""Microseconds since 1970 have 16."""
MAX_QUOTED_VALUE_CHARACTERS = 100
PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class PackAgent(Protocol):
    """What the API needs of the agent."""

    @property
    def alive(self) -> bool: ...
    @property
    def not_ready(self) -> str | None: ...
    def attend(self) -> None:
        """Whoever asks has the token."""

    def state(self) -> PackState: ...
    def accept(self, plan: Plan) -> None:
        """Raises PlanRefusedError."""


def make_app(agent: PackAgent, token: Callable[[], str]) -> web.Application:
    """Everything but health and metrics needs as bearer what ``token`` gives then."""
    admit = _bearer(token, agent)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[admit, _as_error])
    api = _Api(agent)
    app.router.add_get("/v1/pack", api.get_pack)
    app.router.add_put("/v1/pack/plan", api.put_plan)
    app.router.add_get("/healthz", api.healthz)
    app.router.add_get("/readyz", api.readyz)
    app.router.add_get("/metrics", api.metrics)
    return app


def _refusal(status: int, error: ApiError, **headers: str) -> web.Response:
    return web.Response(
        status=status,
        text=error.model_dump_json(),
        content_type="application/json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def _bearer(token: Callable[[], str], agent: PackAgent) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in PUBLIC_PATHS:
            return await handler(request)
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(given, f"Bearer {token()}".encode()):
            agent.attend()
            return await handler(request)
        return _refusal(
            401,
            ApiError(
                reason="Unauthorized",
                message="send the agent's token: Authorization: Bearer <token>",
            ),
            WWW_Authenticate="Bearer",
        )

    return check


@web.middleware
async def _as_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals of aiohttp itself (no such path, too large) in the API's own shape."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        message = f"the body is larger than {MAX_BODY_BYTES} bytes: a plan needs a few hundred"
        return _refusal(413, ApiError(reason="InvalidPlan", message=message))
    except web.HTTPException as error:
        message = f"{request.method} {request.path}: {error.reason}"
        return _refusal(error.status, ApiError(reason="NotFound", message=message))


class _Api:
    def __init__(self, agent: PackAgent) -> None:
        self._agent = agent
        self._newest_epoch = 0

    async def get_pack(self, request: web.Request) -> web.Response:
        self._is_led_by(request)
        return self._pack()

    async def put_plan(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self._is_led_by(request):
            message = (
                f"epoch {request.headers[LEADER_EPOCH_HEADER]} is over, {self._newest_epoch} has "
                "begun: another operator leads"
            )
            return _refusal(409, ApiError(reason="StaleLeader", message=message))
        try:
            plan = Plan.model_validate_json(body)
        except ValidationError as error:
            return _refusal(422, ApiError(reason="InvalidPlan", message=_faults(error)))
        try:
            self._agent.accept(plan)
        except PlanRefusedError as refused:
            return _refusal(refused.status, refused.error)
        return self._pack()

    def _is_led_by(self, request: web.Request) -> bool:
        """Whether nobody is known to have led since. What is no number claims nothing newer."""
        text = request.headers.get(LEADER_EPOCH_HEADER)
        if text is None:
            return True
        epoch = int(text) if text.isdecimal() and len(text) < MAX_EPOCH_DIGITS else 0
        self._newest_epoch = max(self._newest_epoch, epoch)
        return epoch == self._newest_epoch

    async def healthz(self, _: web.Request) -> web.Response:
        if self._agent.alive:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the agent's loop does not advance\n")

    async def readyz(self, _: web.Request) -> web.Response:
        why = self._agent.not_ready
        if why is None:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"{why}\n")

    async def metrics(self, _: web.Request) -> web.Response:
        text = exposition(self._agent.state())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    def _pack(self) -> web.Response:
        state = self._agent.state()
        return web.Response(text=state.model_dump_json(), content_type="application/json")


def _faults(error: ValidationError) -> str:
    """Field, value and what is wrong with it, for every fault."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, fault["loc"])) or "plan"
        value = repr(fault.get("input"))[:MAX_QUOTED_VALUE_CHARACTERS]
        faults.append(f"{field}: {fault['msg']} (got {value})")
    return "; ".join(faults)
