"""PURE: what the router itself answers, in the shape that OpenAI's clients expect."""

from __future__ import annotations

import json

RETRY_SOON_SECONDS = 1
"""Advice to clients when no replica is there: a replica that is admitted serves at once."""
RETRY_LATER_SECONDS = 5
"""Advice when the queue is full: longer, since retries at once would only fill it again."""

SERVED_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
    "/health",
    "/ping",
    "/version",
)
"""What clients may ask for. Engines also serve paths that change or disclose them: /metrics,
/sleep, /collective_rpc, /v1/load_lora_adapter and more with each release."""


def error_body(message: str, status: int, kind: str) -> str:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error})


NO_REPLICA = error_body(
    "No replica of the model is ready yet. Try again shortly.", 503, "service_unavailable"
)
NOT_SERVED = error_body(
    f"This path is not served. There are {', '.join(SERVED_PATHS)}.", 404, "not_found"
)
LENGTH_REQUIRED = error_body(
    "The request has a body without a Content-Length: send it in one piece, not chunked.",
    411,
    "length_required",
)
QUEUE_FULL = error_body(
    f"Too many requests wait already. Try again in {RETRY_LATER_SECONDS} seconds.",
    429,
    "rate_limit_exceeded",
)


def returned(status: int, body: str, retry_after_seconds: int | None = None) -> str:
    """The arguments of ``http-request return`` or ``http-error`` for an answer with ``body``."""
    retry = "" if retry_after_seconds is None else f" hdr Retry-After {retry_after_seconds}"
    return f"status {status} content-type application/json string '{body}'{retry}"
