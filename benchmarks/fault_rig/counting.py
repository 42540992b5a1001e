"""A load whose every request is accounted for: completed, refused, lost, or cut.

Half of the requests stream. Each takes a connection of its own, so that "nothing was sent yet" and
"sent, but not answered" can be told apart. Silence, the time in which no client received anything,
is how long a pack's capacity was down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

PAUSE_AFTER_FAILURE_SECONDS = 0.05
NOTABLE_SILENCE_SECONDS = 0.1
"""Shorter ones are not kept: with a few clients that much passes between two answers."""
REQUEST_TIMEOUT_SECONDS = 300.0
PROMPT_TOKENS = 8
KEPT_ANSWER_BYTES = 65_536
_DETAIL_CHARACTERS = 160


class Kind(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    UNREACHABLE = "unreachable"
    """No connection: nothing was sent."""
    REFUSED = "refused"
    """429 or 503: the router took it and gave it to no replica."""
    LOST = "lost"
    """It was sent, and ended before the first byte of its answer: 502, or a closed connection."""
    CUT = "cut"
    """Its answer began and did not end."""
    WRONG = "wrong"
    """Any other answer, or none in time: a fault of the pack whatever else happened."""


@dataclass(frozen=True)
class Outcome:
    """One request that did not complete. Times are of the load's clock."""

    kind: Kind
    began_seconds: float
    ended_seconds: float
    detail: str


@dataclass(frozen=True)
class Silence:
    began_seconds: float
    ended_seconds: float

    @property
    def seconds(self) -> float:
        return self.ended_seconds - self.began_seconds


class CountingLoad:
    """``clients`` that send one request after another to the router at ``url``."""

    def __init__(
        self, *, url: str, model_name: str, clients: int, output_tokens: int, rng: random.Random
    ) -> None:
        self._url = f"{url}/v1/completions"
        self._model_name = model_name
        self.clients = clients
        self._output_tokens = output_tokens
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None
        self._sending = asyncio.Event()
        self._progress_at_seconds = 0.0
        self._silences: list[Silence] = []
        self.sent = 0
        self.ended: Counter[Kind] = Counter()
        self.failures: list[Outcome] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CountingLoad]:
        """Sends until the end of the block, then lets the last requests end."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._session = session
            self.resume()
            self._tasks = [
                asyncio.create_task(self._ask(session, stream=number % 2 == 0))
                for number in range(self.clients)
            ]
            try:
                yield self
                await self.pause()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def now_seconds(self) -> float:
        return time.monotonic()

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended.total()

    def resume(self) -> None:
        self._progress_at_seconds = self.now_seconds()
        self._sending.set()

    async def pause(self) -> None:
        """Sends nothing more and waits until everything that was sent has ended."""
        self._sending.clear()
        while self.in_flight:
            self._check()
            await asyncio.sleep(0.01)

    async def until_completed(self, more: int, seconds: float = 120.0) -> None:
        """Until so many more requests have completed. Raises TimeoutError."""
        enough = self.ended[Kind.COMPLETED] + more
        async with asyncio.timeout(seconds):
            while self.ended[Kind.COMPLETED] < enough:
                self._check()
                await asyncio.sleep(0.01)

    def failures_since(self, seconds: float) -> list[Outcome]:
        """Those that ended after this moment."""
        return [one for one in self.failures if one.ended_seconds >= seconds]

    def longest_silence_seconds(self, since_seconds: float) -> float:
        """Longest time after this moment, up to now, in which nothing was received."""
        now = Silence(self._progress_at_seconds, self.now_seconds())
        return max(
            one.ended_seconds - max(one.began_seconds, since_seconds)
            for one in (*self._silences, now)
        )

    def _check(self) -> None:
        """Raises what ended a client: a mistake of the load itself."""
        for task in self._tasks:
            if task.done():
                task.result()

    def _progressed(self) -> None:
        now_seconds = self.now_seconds()
        silence = Silence(self._progress_at_seconds, now_seconds)
        if silence.seconds >= NOTABLE_SILENCE_SECONDS and self._sending.is_set():
            self._silences.append(silence)
        self._progress_at_seconds = now_seconds

    async def _ask(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        while True:
            await self._sending.wait()
            began_seconds = self.now_seconds()
            self.sent += 1
            kind, detail = await self._send(session, stream)
            self.ended[kind] += 1
            if kind is not Kind.COMPLETED:
                self.failures.append(Outcome(kind, began_seconds, self.now_seconds(), detail))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def _send(self, session: aiohttp.ClientSession, stream: bool) -> tuple[Kind, str]:
        answered = False
        try:
            async with session.post(self._url, json=self._body(stream)) as answer:
                answered = answer.status == 200
                last = b""
                async for chunk in answer.content.iter_any():
                    if answered:
                        self._progressed()
                    last = (last + chunk)[-KEPT_ANSWER_BYTES:]
            return _judge(answer.status, last, stream)
        except aiohttp.ClientConnectorError as error:
            return Kind.UNREACHABLE, repr(error)[:_DETAIL_CHARACTERS]
        except (aiohttp.ClientError, ConnectionError) as error:
            return Kind.CUT if answered else Kind.LOST, repr(error)[:_DETAIL_CHARACTERS]
        except TimeoutError:
            return Kind.WRONG, f"no end within {REQUEST_TIMEOUT_SECONDS:g} s"

    def _body(self, stream: bool) -> dict[str, object]:
        return {
            "model": self._model_name,
            "prompt": [self._rng.randrange(100, 30_000) for _ in range(PROMPT_TOKENS)],
            "max_tokens": self._output_tokens,
            "min_tokens": self._output_tokens,
            "ignore_eos": True,
            "stream": stream,
        }


def _judge(status: int, end: bytes, stream: bool) -> tuple[Kind, str]:
    """From the status of an answer and its last bytes, once the connection has ended."""
    detail = f"{status} {end[:_DETAIL_CHARACTERS].decode(errors='replace')}"
    if status in (429, 503):
        return Kind.REFUSED, detail
    if status == 502:
        return Kind.LOST, detail
    if status != 200:
        return Kind.WRONG, detail
    if stream:
        return (Kind.COMPLETED, "") if end.endswith(b"data: [DONE]\n\n") else (Kind.CUT, detail)
    with contextlib.suppress(ValueError):
        json.loads(end)
        return Kind.COMPLETED, ""
    return Kind.WRONG, detail
