"""Clients that ask for chat completions through a pack's router and check every answer."""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

FINISHED = ("stop", "length")
LEAVE_SECONDS = 60.0
PAUSE_AFTER_FAILURE_SECONDS = 0.5
PROMPT = "Name three things that a small language model is good for, and one that it is not."


@dataclass
class Counts:
    """Requests so far. After the clients have left, sent = completed + failed."""

    sent: int = 0
    completed: int = 0
    failed: int = 0
    last_failure: str = ""


class IncompleteAnswerError(Exception):
    """An answer was refused, or ended without a finish_reason."""


class Clients:
    """So many clients at once, each with one request after another; an asynchronous context
    manager. On exit each finishes its request in flight.

    Args:
        url: of the router, such as http://127.64.0.2:8000.
        model: the name that the service serves its model under.
        concurrency: how many clients.
        max_tokens: longest answer, in tokens.
        stream: whether answers are streamed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        concurrency: int = 4,
        max_tokens: int = 48,
        *,
        stream: bool = True,
    ) -> None:
        self.counts = Counts()
        self._url = f"{url}/v1/chat/completions"
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": max_tokens,
            "stream": stream,
        }
        self._concurrency = concurrency
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        )
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._concurrency)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving.set()
        try:
            if kind is None:
                await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._session.close()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _run(self) -> None:
        while not self._leaving.is_set():
            self.counts.sent += 1
            try:
                await self._ask()
            except (aiohttp.ClientError, TimeoutError, OSError, IncompleteAnswerError) as error:
                self.counts.failed += 1
                self.counts.last_failure = f"{type(error).__name__}: {error}"
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            except asyncio.CancelledError:
                self.counts.failed += 1
                self.counts.last_failure = f"not finished {LEAVE_SECONDS:.0f} s after its turn"
                raise
            else:
                self.counts.completed += 1

    async def _ask(self) -> None:
        async with self._session.post(self._url, json=self._body) as answer:
            if answer.status != 200:
                text = (await answer.text())[:300]
                raise IncompleteAnswerError(f"status {answer.status}: {text}")
            if not self._body["stream"]:
                reason, ended = _finish_reason(await answer.text()), True
            else:
                reason, ended = await _read_stream(answer.content)
        if reason not in FINISHED or not ended:
            raise IncompleteAnswerError(f"the answer ended with finish_reason {reason}")


async def _read_stream(content: aiohttp.StreamReader) -> tuple[str | None, bool]:
    """The finish_reason, and whether the end marker came."""
    reason, ended = None, False
    async for line in content:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            ended = True
        elif data:
            reason = _finish_reason(data) or reason
    return reason, ended


def _finish_reason(event: str) -> str | None:
    try:
        message: dict[str, Any] = json.loads(event)
    except ValueError:
        raise IncompleteAnswerError(f"no completion: {event[:300]}") from None
    if "error" in message:
        raise IncompleteAnswerError(f"the answer says {event[:300]}")
    return next((choice.get("finish_reason") for choice in message.get("choices", ())), None)
