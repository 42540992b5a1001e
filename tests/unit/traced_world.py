"""An operator whose spans are kept, with a server that answers as API server and as agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from builders import pack_state
from controller_builders import OBJECT, running_pod
from slm_operator.cluster.agents import Agents, open_session
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.packs import Packs
from slm_operator.cluster.permit import Permit
from slm_operator.cluster.pods import read_pack
from slm_operator.controller import Controller, Settings
from slm_operator.decide.snapshot import Pack
from slm_operator.keys import Keys
from slm_operator.loops import Loops
from slm_operator.metrics import Metrics
from slm_operator.tracing import Tracing

TOKEN = "the-token-of-the-operator"
Answer = Callable[[web.Request], web.StreamResponse | None]


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracing = Tracing(provider)

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._kept.get_finished_spans()

    def names(self) -> list[str]:
        return [span.name for span in self.all()]

    def named(self, name: str) -> ReadableSpan:
        """The last one of this name."""
        return next(span for span in reversed(self.all()) if span.name == name)


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


class TracedWorld:
    """One service with one pack that serves."""

    def __init__(self, kube: Kube, agents: Agents, spans: Spans) -> None:
        self.spans = spans
        self.metrics = Metrics()
        pack = read_pack(_with_address(running_pod(), "127.0.0.1"))
        packs = Packs(lambda *_: None)
        packs.of = lambda *_: [pack]  # type: ignore[method-assign]
        settings = Settings("w", Keys("k" * 32))
        self.controller = Controller(
            kube,
            agents,
            settings,
            self.metrics,
            lambda: "2026-01-01T00:00:00Z",
            tracing=spans.tracing,
        )
        self.loops = Loops(self.controller, packs, self.metrics, spans.tracing)
        self.pack: Pack = pack

    async def one_pass(self, **changes: Any) -> None:
        """Shows the loop the service, and waits until a pass over it has ended."""
        before = self.spans.names().count("reconcile SLMService")
        self.loops.put(json.loads(json.dumps(OBJECT | changes)))
        async with asyncio.timeout(10):
            while self.spans.names().count("reconcile SLMService") == before:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def traced_world(folder: Path, answer: Answer = lambda _: None) -> AsyncIterator[TracedWorld]:
    """``answer`` goes before what the server says otherwise."""

    async def handle(request: web.Request) -> web.StreamResponse:
        found = answer(request)
        if found is not None:
            return found
        if request.path == "/v1/pack":
            return web.Response(text=pack_state().model_dump_json())
        if request.path == "/v1/pack/plan":
            return web.Response(status=204)
        if request.method == "GET":
            return web.json_response(OBJECT)
        body = json.loads(await request.text())
        body["metadata"] = {"uid": "made", **body["metadata"]}
        return web.json_response(body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    spans, permit = Spans(), Permit.unlimited()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
        kubeconfig = write_kubeconfig(folder, str(server.make_url("")))
        seen = spans.tracing.requests("apiserver")
        kube = await Kube.connect(kubeconfig, permit=permit, middlewares=(seen,))
        stack.push_async_callback(kube.close)
        session = await stack.enter_async_context(
            open_session(permit, spans.tracing.requests("agent"))
        )
        assert server.port is not None
        world = TracedWorld(kube, Agents(session, server.port), spans)
        stack.push_async_callback(world.loops.close)
        yield world


def _with_address(pod: dict[str, Any], address: str) -> dict[str, Any]:
    return pod | {"status": pod["status"] | {"podIP": address}}


def write_kubeconfig(folder: Path, server: str) -> Path:
    file = folder / "kubeconfig"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(json.dumps(content))
    return file
