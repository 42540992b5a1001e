"""What the agent asks of a running engine over HTTP: its health, a token, its counters."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp

from slm_worker.engine.metrics import EngineSample, MetricsError, parse_metrics

SCRAPE_TIMEOUT_SECONDS = 2.0
HEALTH_TIMEOUT_SECONDS = 2.0
MAX_METRICS_BYTES = 4 * 2**20
SLEEP_TIMEOUT_SECONDS = 60.0
"""The weights go to the host's memory: 14 GB take seconds, and longer on a busy host."""
WAKE_TIMEOUT_SECONDS = 60.0
_NO_SUCH_PATH = frozenset({404, 405, 501})


class EngineNotAnsweringError(Exception):
    """The engine did not give the expected answer in time; the message says what it did."""


class SleepUnsupportedError(Exception):
    """The engine runs, and has no path to sleep; the message has its answer."""


class EngineClient:
    """Talks to one engine at ``host:port`` through a session that the caller owns."""

    def __init__(self, http: aiohttp.ClientSession, host: str, port: int, model_name: str) -> None:
        self._http = http
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._model_name = model_name

    async def healthy(self) -> bool:
        try:
            async with self._http.get(
                f"{self._url}/health", timeout=aiohttp.ClientTimeout(HEALTH_TIMEOUT_SECONDS)
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def complete_one_token(self, timeout_seconds: float) -> None:
        """Proves that the engine computes, not only answers. Raises EngineNotAnsweringError."""
        body = {"model": self._model_name, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        try:
            async with self._http.post(
                f"{self._url}/v1/completions",
                json=body,
                timeout=aiohttp.ClientTimeout(timeout_seconds),
            ) as response:
                if response.status == 200:
                    await response.read()
                    return
                answer = (await response.content.read(300)).decode(errors="replace")
        except TimeoutError:
            raise EngineNotAnsweringError(
                f"a one-token completion took longer than {timeout_seconds:.0f} s"
            ) from None
        except aiohttp.ClientError as error:
            raise EngineNotAnsweringError(f"a one-token completion failed: {error}") from None
        raise EngineNotAnsweringError(
            f"a one-token completion was answered with {response.status}: {answer}"
        )

    async def sleep(self) -> None:
        """Gives its memory back: weights to the host, the KV cache is gone. To be called when it
        has no request. Raises SleepUnsupportedError and EngineNotAnsweringError."""
        await self._ask("POST", "/sleep?level=1", SLEEP_TIMEOUT_SECONDS)

    async def wake_up(self) -> None:
        """Takes its memory again. Raises SleepUnsupportedError and EngineNotAnsweringError."""
        await self._ask("POST", "/wake_up", WAKE_TIMEOUT_SECONDS)

    async def answer_asleep(self, timeout_seconds: float) -> None:
        """Proves that an engine that sleeps hears what is asked of it, and so can be woken. vLLM's
        server hands this question on to the process that computes, which it does not for /health.
        A server without the path has answered too. Raises EngineNotAnsweringError."""
        with contextlib.suppress(SleepUnsupportedError):
            await self._ask("GET", "/is_sleeping", timeout_seconds)

    async def _ask(self, method: str, path: str, timeout_seconds: float) -> None:
        try:
            async with self._http.request(
                method, f"{self._url}{path}", timeout=aiohttp.ClientTimeout(timeout_seconds)
            ) as response:
                answer = (await response.content.read(300)).decode(errors="replace")
        except TimeoutError:
            raise EngineNotAnsweringError(
                f"{method} {path} took longer than {timeout_seconds:.0f} s"
            ) from None
        except aiohttp.ClientError as error:
            raise EngineNotAnsweringError(f"{method} {path} failed: {error}") from None
        if response.status in _NO_SUCH_PATH:
            raise SleepUnsupportedError(f"{method} {path} was answered with {response.status}")
        if response.status != 200:
            raise EngineNotAnsweringError(
                f"{method} {path} was answered with {response.status}: {answer}"
            )

    async def scrape(self) -> EngineSample:
        """Its counters now. Raises EngineNotAnsweringError."""
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_SECONDS):
                async with self._http.get(f"{self._url}/metrics") as response:
                    if response.status != 200:
                        raise EngineNotAnsweringError(
                            f"/metrics was answered with {response.status}"
                        )
                    return parse_metrics(await _bounded_text(response))
        except (aiohttp.ClientError, TimeoutError, MetricsError) as error:
            raise EngineNotAnsweringError(
                f"/metrics gave no counters: {str(error) or 'no answer in time'}"
            ) from None


async def _bounded_text(response: aiohttp.ClientResponse) -> str:
    content = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        content += chunk
        if len(content) > MAX_METRICS_BYTES:
            raise MetricsError(f"/metrics is longer than {MAX_METRICS_BYTES} bytes")
    return content.decode(errors="replace")
