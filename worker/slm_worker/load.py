"""The saturating load: completions sent through the pack's own router to measure its capacity."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from http import HTTPStatus

import aiohttp

from slm_worker.routing.config import LOAD_HEADER
from slm_worker.wire import LoadState

_FIRST_TOKEN_ID = 100
"""Above the special tokens."""
_MAX_VOCABULARY = 30_000
"""Of a larger one, or one that is not known, these tokens are variety enough."""
REQUEST_TIMEOUT_SECONDS = 3600.0
"""Bounds a request that nobody answers; a full queue before a slow engine takes minutes."""
FIRST_BACKOFF_SECONDS = 0.2
LAST_BACKOFF_SECONDS = 5.0
LOG_EVERY_SECONDS = 60.0
"""How often a failure of one kind is logged at most."""
_NO_ROOM = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_REASON_LENGTH = 300
_LEAST_WAITING = 8

log = logging.getLogger(__name__)


def saturating_concurrency(rotation: int, max_in_flight_per_replica: int) -> int:
    """How many requests in flight keep every replica in rotation full with requests waiting.

    All slots, and an eighth more (at least 8) that wait at the router: sequences that end in the
    same step free several slots at once, and a new request is a round trip away.
    """
    slots = rotation * max_in_flight_per_replica
    return slots + max(_LEAST_WAITING, slots // 8)


class LoadTooLongError(Exception):
    """The model does not take requests of the load's lengths; the message has the remedy."""


def output_lengths(prompt_tokens: int, output_tokens: int, longest_tokens: int | None) -> range:
    """The output lengths that requests are spread over evenly: half of ``output_tokens`` to each
    side, or less where prompt and output would exceed ``longest_tokens``. As much to either side,
    so that their mean stays what was asked for. None: the longest is not known.

    Raises LoadTooLongError where not even the mean fits.
    """
    spread = output_tokens // 2
    if longest_tokens is not None:
        room = longest_tokens - prompt_tokens - output_tokens
        if room < 0:
            raise LoadTooLongError(
                f"spec.autoscaling.calibration.promptTokens {prompt_tokens:,} and outputTokens "
                f"{output_tokens:,} exceed the model's longest sequence of {longest_tokens:,} "
                "tokens: lower one of them, or give spec.engine.args a larger --max-model-len, as "
                "far as the model goes"
            )
        spread = min(spread, room)
    return range(output_tokens - spread, output_tokens + spread + 1)


def token_ids(vocabulary: int | None) -> range:
    """The tokens of prompts, all of which a model with so many has. None: it is not known."""
    end = min(_MAX_VOCABULARY, vocabulary or _MAX_VOCABULARY)
    return range(min(_FIRST_TOKEN_ID, end // 2), end)


class SaturatingLoad:
    """Keeps a number of ``POST /v1/completions`` in flight against the router at ``url``.

    Prompts are ``prompt_tokens`` random token ids, so that prefix caching cannot help. Each asks
    for exactly n tokens, n one of :func:`output_lengths`, so that sequences do not end in step.
    Failures back off and never raise; ``state()`` counts them, and the log has the first of each
    kind. Raises LoadTooLongError when it is made.
    """

    def __init__(
        self,
        *,
        url: str,
        model_name: str,
        prompt_tokens: int,
        output_tokens: int,
        rng: random.Random,
        longest_tokens: int | None = None,
        vocabulary: int | None = None,
        open_session: Callable[[], aiohttp.ClientSession] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/completions"
        self._model_name = model_name
        self._prompt_tokens = prompt_tokens
        self._output_lengths = output_lengths(prompt_tokens, output_tokens, longest_tokens)
        self._token_ids = token_ids(vocabulary)
        self._rng = rng
        self._open_session = open_session or _open_session
        self._session: aiohttp.ClientSession | None = None
        self._senders: list[asyncio.Task[None]] = []
        self._sent = self._completed = self._failed = self._cancelled = self._in_flight = 0
        self._turned_away = 0
        self._last_failure = ""
        self._clock = clock
        self._logged_at_seconds: dict[str, float] = {}

    def state(self) -> LoadState:
        """Counts since this object was made; ``sent`` is the sum of completed, failed, cancelled
        and in flight."""
        return LoadState(
            sent=self._sent,
            completed=self._completed,
            failed=self._failed,
            turned_away=self._turned_away,
            cancelled=self._cancelled,
            in_flight=self._in_flight,
            last_failure=self._last_failure,
        )

    async def set_concurrency(self, concurrency: int) -> None:
        """Keep ``concurrency`` requests in flight from now on; cancels what is too many."""
        if concurrency < 0:
            raise ValueError(f"concurrency {concurrency} is negative: give 0 or more")
        if self._session is None:
            self._session = self._open_session()
        while len(self._senders) < concurrency:
            self._senders.append(asyncio.create_task(self._send_forever(self._session)))
        surplus = self._senders[concurrency:]
        del self._senders[concurrency:]
        for sender in surplus:
            sender.cancel()
        for outcome in await asyncio.gather(*surplus, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def stop(self) -> None:
        """Cancel what is in flight and close the connections."""
        if self._session is None:
            return
        await self.set_concurrency(0)
        await self._session.close()
        self._session = None

    async def _send_forever(self, session: aiohttp.ClientSession) -> None:
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while True:
            failure = await self._send(session)
            if failure is None:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            else:
                self._last_failure = failure
                self._log(failure)
                await asyncio.sleep(backoff_seconds)
                backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)

    def _log(self, failure: str) -> None:
        """Each kind, a status or an exception, now and then: a pack fails by the hundred."""
        kind, now_seconds = failure.partition(":")[0], self._clock()
        before_seconds = self._logged_at_seconds.get(kind)
        if before_seconds is None or now_seconds - before_seconds >= LOG_EVERY_SECONDS:
            self._logged_at_seconds[kind] = now_seconds
            log.warning("a request of the calibration load failed: %s", failure)

    async def _send(self, session: aiohttp.ClientSession) -> str | None:
        """Send one completion; answers why it failed, or None."""
        self._sent += 1
        self._in_flight += 1
        try:
            async with session.post(self._url, data=self._body(), headers=_HEADERS) as response:
                text = await response.read()
            failure = None if response.status == 200 else _refusal(response.status, text)
            self._turned_away += response.status in _NO_ROOM
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failure = f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
        finally:
            self._in_flight -= 1
        if failure is None:
            self._completed += 1
        else:
            self._failed += 1
        return failure

    def _body(self) -> bytes:
        output_tokens = self._rng.choice(self._output_lengths)
        completion = {
            "model": self._model_name,
            "prompt": self._rng.choices(self._token_ids, k=self._prompt_tokens),
            "max_tokens": output_tokens,
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        return json.dumps(completion).encode()


_HEADERS = {"Content-Type": "application/json", LOAD_HEADER: "1"}


def _refusal(status: int, body: bytes) -> str:
    return f"HTTP {status}: {body[:_REASON_LENGTH].decode(errors='replace')}"


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS, sock_connect=10.0),
    )
