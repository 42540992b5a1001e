"""The operator's side of the agent's HTTP API: read a pack's state, send it a plan."""

from __future__ import annotations

import aiohttp
from pydantic import ValidationError

from slm_operator.cluster.permit import Permit
from slm_operator.gate import waiting_for_others
from slm_operator.keys import Tokens
from slm_worker.wire import AGENT_PORT, ApiError, PackState, Plan

SILENCE_SECONDS = 5.0
"""An agent that takes a connection, or goes on with its answer, after so long does not answer. Only
silence counts, not the whole call: where the operator itself is short of CPU, a call has several
waits, in none of which the agent was to blame."""
CALL_SECONDS = 15.0
"""One that trickles holds up its own service for no longer."""
IDLE_CONNECTION_SECONDS = 5.0
"""A pack that is measured or starts is asked again before; of thousands that are at rest no
connection is kept."""
PATIENCE = aiohttp.ClientTimeout(
    total=CALL_SECONDS, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS
)
ANSWER_BYTES = 4 * 1024 * 1024
"""Largest answer that is read; a pack's state is some ten kilobytes."""


class AgentError(Exception):
    """An agent refused or did not answer. ``reason`` is a CamelCase word for a condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def open_session(
    permit: Permit, *middlewares: aiohttp.ClientMiddlewareType
) -> aiohttp.ClientSession:
    """For `Agents`; plans are sent only while ``permit`` holds, and ``middlewares`` see what is
    sent. It has as many connections as are asked for: with a bound, those to agents that do not
    answer would be waited for by all others, and their timeouts would run out."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS)
    return aiohttp.ClientSession(connector=connector, middlewares=(permit.fence, *middlewares))


class Agents:
    """One HTTP session to all packs. Every call raises AgentError."""

    def __init__(self, session: aiohttp.ClientSession, port: int = AGENT_PORT) -> None:
        self._session = session
        self._port = port

    async def state(self, address: str, tokens: Tokens) -> PackState:
        with waiting_for_others():
            text = await self._call("GET", address, "/v1/pack", tokens)
        try:
            return PackState.model_validate_json(text)
        except ValidationError as error:
            raise AgentError(
                "AgentUnreadable",
                f"the agent at {address} answered something else than a pack's state "
                f"({error.error_count()} errors): run worker and operator of one release",
            ) from error

    async def put_plan(self, address: str, tokens: Tokens, plan: Plan) -> None:
        with waiting_for_others():
            await self._call("PUT", address, "/v1/pack/plan", tokens, plan.model_dump_json())

    async def _call(
        self, method: str, address: str, path: str, tokens: Tokens, body: str | None = None
    ) -> str:
        name = f"[{address}]" if ":" in address else address
        host = f"{name}:{self._port}"
        status, text = await self._exchange(method, host, path, tokens.current, body)
        if status == 401 and tokens.former is not None:
            status, text = await self._exchange(method, host, path, tokens.former, body)
        if status == 401:
            raise AgentError(
                "AgentRefusedToken",
                f"the agent at {host} refused the operator's token: its Secret was changed, or the "
                "operator's key while the operator did not run; the Secret is written again, and "
                "the agent reads it within two minutes",
            )
        if status >= 300:
            raise _refusal(status, text)
        return text

    async def _exchange(
        self, method: str, host: str, path: str, token: str, body: str | None
    ) -> tuple[int, str]:
        """Status and text of the answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                f"http://{host}{path}",
                data=body,
                headers=headers,
                # An agent redirects to nobody, and the token must not go elsewhere.
                allow_redirects=False,
                timeout=PATIENCE,
            ) as answer:
                text = await answer.content.read(ANSWER_BYTES)
                while not answer.content.at_eof() and len(text) < ANSWER_BYTES:
                    text += await answer.content.read(ANSWER_BYTES)
                # Not before it is whole: its pieces may end inside a character.
                return answer.status, text.decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise AgentError(
                "AgentUnreachable",
                f"the agent at {host} does not answer ({type(error).__name__}): see the pack's log",
            ) from error


def _refusal(status: int, text: str) -> AgentError:
    try:
        refusal = ApiError.model_validate_json(text)
    except ValidationError:
        return AgentError("AgentFailed", f"the agent answered {status}: {text[:200]}")
    return AgentError(refusal.reason, refusal.message)
