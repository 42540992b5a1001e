"""An engine process that costs next to nothing and is scraped like vLLM, run in place of ``vllm``.

It takes vLLM's arguments, answers every completion after 100 ms with the same text, and serves the
metrics that a real vLLM 0.32 wrote, whose counters move with the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path

SERVICE_SECONDS = 0.100
METRICS = Path(__file__).parents[1] / "tests/fixtures/vllm-0.32-cpu-metrics.txt"

_BODY = b'{"choices": [{"text": "' + b"x" * 512 + b'"}]}'
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MOVING = re.compile(r"^(vllm:\S+(?:_total|_count|_bucket|_sum)(?:\{.*\})?) (\S+)$", re.MULTILINE)


class Engine:
    """Counts what it answered and writes it into the metrics."""

    def __init__(self, text: str) -> None:
        self.served = 0
        self._text = text

    def metrics(self) -> bytes:
        served = self.served
        return _MOVING.sub(lambda line: f"{line[1]} {float(line[2]) + served}", self._text).encode()


class _Connection(asyncio.Protocol):
    """One request at a time, as HAProxy and the agent send them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if head.startswith(b"POST"):
            asyncio.get_running_loop().call_later(SERVICE_SECONDS, self._complete)
        else:
            self._answer(self._engine.metrics() if head.startswith(b"GET /metrics") else b"{}")

    def _complete(self) -> None:
        self._engine.served += 1
        self._answer(_BODY)

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )


async def serve(host: str, port: int) -> None:
    """Serve until cancelled."""
    engine = Engine(METRICS.read_text())
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(engine), host, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given, _ = parser.parse_known_args()
    asyncio.run(serve(given.host, given.port))
