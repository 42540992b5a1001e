"""What the activator itself answers, in the shape that OpenAI's clients expect."""

from __future__ import annotations

import json

from aiohttp import web

RETRY_SOON_SECONDS = 1
RETRY_LATER_SECONDS = 5
"""As the packs' routers advise: longer when retries at once would only fill the room again."""


def no_pack() -> web.Response:
    text = "No pack of the model runs, and none was ready in time. Try again shortly."
    return _error(503, "service_unavailable", text, RETRY_SOON_SECONDS)


def broken() -> web.Response:
    text = "The pack ended the connection before it answered; it may have taken the request."
    return _error(502, "bad_gateway", text)


def asleep() -> web.Response:
    text = (
        "No pack of the model runs. A completion starts one; a request like this one does not, "
        "and does not wait."
    )
    return _error(503, "service_unavailable", text, RETRY_SOON_SECONDS)


def full() -> web.Response:
    text = f"Too many requests wait already. Try again in {RETRY_LATER_SECONDS} seconds."
    return _error(429, "rate_limit_exceeded", text, RETRY_LATER_SECONDS)


def not_sent() -> web.Response:
    return _error(408, "timeout", "The request was not sent in time.")


def too_large(max_bytes: int) -> web.Response:
    text = f"The request body exceeds {max_bytes} bytes: send a shorter prompt."
    return _error(413, "request_too_large", text)


def headers_too_large(max_bytes: int) -> web.Response:
    text = f"The request's line and headers exceed {max_bytes} bytes: send fewer or shorter ones."
    return _error(431, "request_too_large", text)


def length_required() -> web.Response:
    text = "The request has a body without a Content-Length: send it in one piece, not chunked."
    return _error(411, "length_required", text)


def _error(
    status: int, kind: str, message: str, retry_after_seconds: int | None = None
) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    retry = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
    return web.Response(
        status=status,
        text=json.dumps({"error": error}),
        content_type="application/json",
        headers=retry,
    )
