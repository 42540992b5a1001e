"""What traces cost the operator: memory, and CPU for each pass over a service with two packs.

Two processes import the operator and make the same passes, which ask two agents that answer at
once; one of them is told of a collector, which is this process. What one takes more than the other
is the cost. Run with ``python -m benchmarks.tracing_cost``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import cast

import aiohttp
import psutil
from yarl import URL

from benchmarks.report import Figure, write

PASSES = 3000
WARMING_PASSES = 300
PASSES_PER_SECOND = 200.0
"""Three times as many as 1,000 services at rest make."""
PACKS = 2
REST_SERVICES = 1000
REST_PASS_SECONDS = 15.0
"""Between two passes of a service at rest."""
CHILD = "--child"
METADATA = {"namespace": "default", "name": "chat", "uid": "3f2b1c7e-8d4a-4c0e-9b6f-5a1d2e3f4a5b"}


@dataclass(frozen=True)
class Run:
    rss_bytes: int
    """When all is imported and before the first pass."""
    worked_rss_bytes: int
    cpu_seconds: float
    """Of all passes but the warming ones, with the sending of their spans."""


async def run() -> Run:
    """Of this process, traced as its environment says."""
    from slm_operator import main, services  # noqa: F401 - all that an operator holds
    from slm_operator.logs import LogFormat

    tracing = main._tracing(LogFormat.JSON)
    process = psutil.Process()
    rss_bytes = process.memory_info().rss
    middleware = tracing.requests("agent") if tracing is not None else None

    async def answer(_: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        return cast(aiohttp.ClientResponse, SimpleNamespace(status=200))

    async def ask(pack: int) -> None:
        url = URL(f"http://10.0.0.{pack}:8080/v1/pack")
        request = cast(aiohttp.ClientRequest, SimpleNamespace(method="GET", url=url))
        await (answer(request) if middleware is None else middleware(request, answer))

    async def one_pass() -> None:
        span = nullcontext() if tracing is None else tracing.one_pass("reconcile", METADATA)
        with span:
            await asyncio.gather(*(ask(pack) for pack in range(PACKS)))

    async def passes(count: int) -> None:
        for _ in range(count):
            await one_pass()
            await asyncio.sleep(1 / PASSES_PER_SECOND)

    await passes(WARMING_PASSES)
    before = time.process_time()
    await passes(PASSES)
    worked_rss_bytes = process.memory_info().rss
    if tracing is not None:
        tracing.close()
    return Run(rss_bytes, worked_rss_bytes, time.process_time() - before)


class Collector(BaseHTTPRequestHandler):
    """Of traces; it counts what it gets."""

    spans = 0
    received_bytes = 0

    def do_POST(self) -> None:
        # Not at the top, since the process that is not traced shall hold nothing of it.
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        body = self.rfile.read(int(self.headers["Content-Length"]))
        Collector.received_bytes += len(body)
        sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        Collector.spans += sum(len(s.spans) for r in sent.resource_spans for s in r.scope_spans)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def child(**variables: str) -> Run:
    command = [sys.executable, "-m", "benchmarks.tracing_cost", CHILD]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        command, env={**kept, **variables}, capture_output=True, text=True, check=True
    )
    return Run(**json.loads(done.stdout))


def measure() -> dict[str, Figure]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    off = child()
    on = child(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    passes = PASSES + WARMING_PASSES
    seconds = (on.cpu_seconds - off.cpu_seconds) / PASSES
    return {
        "passes": passes,
        "spans_each": PACKS + 1,
        "off_rss_mb": off.rss_bytes / 1e6,
        "imported_mb": (on.rss_bytes - off.rss_bytes) / 1e6,
        "at_work_mb": (on.worked_rss_bytes - off.worked_rss_bytes) / 1e6,
        "cpu_microseconds_per_pass": seconds * 1e6,
        "cores_of_1000_services_at_rest": seconds * REST_SERVICES / REST_PASS_SECONDS,
        "sent_bytes_per_pass": Collector.received_bytes / passes,
        "spans_lost": passes * (PACKS + 1) - Collector.spans,
    }


def main() -> None:
    if CHILD in sys.argv:
        print(json.dumps(asdict(asyncio.run(run()))))
        return
    write("tracing_cost", measure(), command="python -m benchmarks.tracing_cost")


if __name__ == "__main__":
    main()
