"""Asks a service for one completion, as soon as it answers: what `helm test` runs in its Pod."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import aiohttp
import typer

PROMPT = "Name one thing that a small language model is good for."
MAX_TOKENS = 16
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""Longest that one answer may take."""


class NoAnswer(Exception):  # noqa: N818 - it says what is so
    """Nothing that counts as a completion came; the text says what came instead."""


async def completion(session: aiohttp.ClientSession, url: str, model: str) -> str:
    """The text that the service completes. Raises NoAnswer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS,
    }
    try:
        async with session.post(f"{url.rstrip('/')}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                raise NoAnswer(f"{answer.status}: {(await answer.text())[:200]}")
            return _text(await answer.json())
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from error


def _text(answer: Any) -> str:
    try:
        choice = answer["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise NoAnswer(f"an answer without a choice: {str(answer)[:200]}") from error
    if not text or reason not in ("stop", "length"):
        raise NoAnswer(f"an answer that is not whole: {str(answer)[:200]}")
    return str(text)


async def until_answered(url: str, model: str, timeout_seconds: float) -> str:
    """Asks until an answer is whole. Raises NoAnswer with the last failure."""
    deadline = time.monotonic() + timeout_seconds
    limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=limit) as session:
        while True:
            try:
                return await completion(session, url, model)
            except NoAnswer:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS)


def ask(
    url: Annotated[str, typer.Option(help="Of the service, such as http://chat.default.svc.")],
    model: Annotated[str, typer.Option(help="The name that it serves its model under.")],
    timeout_seconds: Annotated[float, typer.Option(min=1)] = 300.0,
) -> None:
    """Asks a service for one completion, and waits until it answers."""
    started = time.monotonic()
    try:
        text = asyncio.run(until_answered(url, model, timeout_seconds))
    except NoAnswer as error:
        print(
            f"no completion from {url} within {timeout_seconds:g} s; last: {error}\n"
            f"`kubectl describe slm {model}` says what it waits for"
        )
        raise typer.Exit(1) from error
    print(f"{url} answered after {time.monotonic() - started:.1f} s: {text}")


if __name__ == "__main__":
    typer.run(ask)
