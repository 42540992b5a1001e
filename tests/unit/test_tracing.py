"""What is traced of a pass and of its requests."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind, StatusCode

from builders import service
from controller_builders import OBJECT
from decide_world import World
from slm_operator.cluster.kube import _PLURALS, path
from slm_operator.decide.decision import Event
from slm_operator.logs import JsonFormatter
from slm_operator.tracing import mark, url_template
from traced_world import TOKEN, Spans, attributes, traced_world

PASS = "reconcile SLMService"
SERVICE = "/apis/serving.slm.dev/v1alpha1/namespaces/{namespace}/slmservices/{name}"
METADATA = OBJECT["metadata"]
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


async def test_a_pass_is_a_span_and_its_requests_are_below_it(tmp_path: Path) -> None:
    async with traced_world(tmp_path) as world:
        await world.one_pass()
    spans = world.spans
    whole = spans.named(PASS)
    assert whole.parent is None
    assert attributes(whole) == {
        "k8s.namespace.name": "default",
        "slm.service.name": "chat",
        "slm.service.uid": "u1",
        "slm.packs.wanted": 1,
        "slm.replicas_per_pack.wanted": 1,
    }
    assert whole.status.status_code is StatusCode.UNSET
    below = [span for span in spans.all() if span is not whole]
    assert {"GET /v1/pack", "PUT /v1/pack/plan", f"PATCH {SERVICE}/status"} <= {
        span.name for span in below
    }
    assert whole.context is not None
    for span in below:
        assert span.parent is not None
        assert span.parent.span_id == whole.context.span_id
        assert span.kind is SpanKind.CLIENT


async def test_a_request_tells_where_it_went_and_what_came_back(tmp_path: Path) -> None:
    async with traced_world(tmp_path) as world:
        await world.one_pass()
    asked = attributes(world.spans.named("GET /v1/pack"))
    port = asked["server.port"]
    assert asked == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "service.peer.name": "agent",
        "url.full": f"http://127.0.0.1:{port}/v1/pack",
        "url.template": "/v1/pack",
    }
    written = attributes(world.spans.named(f"PATCH {SERVICE}/status"))
    assert written["service.peer.name"] == "apiserver"
    where = SERVICE.format(namespace="default", name="chat")
    assert written["url.full"] == f"http://127.0.0.1:{port}{where}/status"


async def test_no_token_body_or_query_is_in_a_span(tmp_path: Path) -> None:
    async with traced_world(tmp_path) as world:
        await world.one_pass()
    told = "".join(span.to_json() for span in world.spans.all())
    for secret in (TOKEN, "Bearer", "fieldManager", "hf://", "stringData"):
        assert secret not in told


async def test_a_pass_that_the_api_server_refuses_fails_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/status"):
            return None
        body = {"reason": "Forbidden", "message": "not allowed"}
        return web.json_response(body, status=403)

    caplog.handler.addFilter(mark)
    async with traced_world(tmp_path, refuse) as world:
        await world.one_pass()
    whole, write = (world.spans.named(name) for name in (PASS, f"PATCH {SERVICE}/status"))
    assert attributes(whole)["error.type"] == "Forbidden"
    assert (whole.status.status_code, whole.status.description) == (StatusCode.ERROR, "not allowed")
    assert attributes(write)["http.response.status_code"] == 403
    assert attributes(write)["error.type"] == "403"
    assert write.status.status_code is StatusCode.ERROR
    logged = [r.__dict__ for r in caplog.records if "not allowed" in r.getMessage()]
    assert whole.context is not None
    assert [(r["trace_id"], r["span_id"]) for r in logged] == [
        (f"{whole.context.trace_id:032x}", f"{whole.context.span_id:016x}")
    ]


async def test_a_silent_agent_shows_below_a_pass_that_goes_on(tmp_path: Path) -> None:
    def hang_up(request: web.Request) -> web.Response | None:
        if request.path == "/v1/pack" and request.transport is not None:
            request.transport.close()
        return None

    async with traced_world(tmp_path, hang_up) as world:
        await world.one_pass()
    asked, whole = world.spans.named("GET /v1/pack"), world.spans.named(PASS)
    assert attributes(asked)["error.type"] == "ServerDisconnectedError"
    assert "http.response.status_code" not in attributes(asked)
    assert asked.status.status_code is StatusCode.ERROR
    assert whole.status.status_code is StatusCode.UNSET


async def test_an_object_that_cannot_be_read_fails_its_pass(tmp_path: Path) -> None:
    async with traced_world(tmp_path) as world:
        await world.one_pass(spec={"model": 1})
    assert world.spans.names() == [PASS]
    assert attributes(world.spans.named(PASS))["error.type"] == "UnreadableObject"


async def test_a_fault_of_the_operators_own_names_its_class_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fault(*_: Any) -> float:
        raise RuntimeError("may hold anything")

    caplog.handler.addFilter(mark)
    async with traced_world(tmp_path) as world:
        monkeypatch.setattr(world.controller, "reconcile", fault)
        await world.one_pass()
    whole = world.spans.named(PASS)
    assert attributes(whole)["error.type"] == "InternalError"
    assert whole.status.description == "RuntimeError"
    assert [r.__dict__.get("trace_id") for r in caplog.records if r.exc_info] == [
        f"{whole.context.trace_id:032x}" if whole.context else ""
    ]


async def test_the_end_of_a_service_is_a_span_of_its_own(tmp_path: Path) -> None:
    async with traced_world(tmp_path) as world:
        await world.one_pass()
        world.loops.remove("u1")
        async with asyncio.timeout(10):
            while "finalize SLMService" not in world.spans.names():
                await asyncio.sleep(0.01)
    deleted = world.spans.named("DELETE /api/v1/namespaces/{namespace}/pods/{name}")
    ended = world.spans.named("finalize SLMService")
    assert deleted.parent is not None
    assert deleted.parent == ended.context


def test_what_a_pass_decided_is_named_as_in_log_and_history() -> None:
    spans, world = Spans(), World(service())
    decision = world.run(60)
    entry = decision.status.history[-1]
    with spans.tracing.one_pass("reconcile", METADATA):
        spans.tracing.decided(service(), decision)
    silent = attributes(spans.named(PASS))
    assert "slm.decision.ids" not in silent, "nothing new was decided in the last pass"
    assert silent["slm.replicas_per_pack.wanted"] == 2
    assert entry.reason == "KneeFound"


def test_a_new_decision_has_its_id_reason_and_rule() -> None:
    spans, world = Spans(), World(service())
    told: list[Event] = []
    while not told:
        decision = world.run(1)
        told = [e for e in decision.events if e.decision]
    with spans.tracing.one_pass("reconcile", METADATA):
        spans.tracing.decided(service(), decision)
    found = attributes(spans.named(PASS))
    assert found["slm.decision.ids"] == tuple(e.decision for e in told)
    assert found["slm.decision.reasons"] == ("Probed",)
    assert found["slm.decision.rules"] == ("NextInRotation",)


async def test_what_is_sent_outside_of_a_pass_is_not_traced() -> None:
    spans = Spans()

    async def ok(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/", ok)
    middleware = spans.tracing.requests("agent")
    async with TestServer(app) as server, aiohttp.ClientSession(middlewares=(middleware,)) as http:
        async with http.get(server.make_url("/")) as answer:
            assert answer.status == 200
        assert spans.names() == []
        with spans.tracing.one_pass("reconcile", METADATA):
            (await http.get(server.make_url("/"))).release()
    assert spans.names() == ["GET /", PASS]


async def test_a_request_that_is_given_up_says_so() -> None:
    spans = Spans()

    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(10)
        return web.Response()

    app = web.Application()
    app.router.add_get("/", silent)
    middleware = spans.tracing.requests("apiserver")
    async with TestServer(app) as server, aiohttp.ClientSession(middlewares=(middleware,)) as http:
        with spans.tracing.one_pass("reconcile", METADATA):
            with pytest.raises(TimeoutError):
                await http.get(server.make_url("/"), timeout=aiohttp.ClientTimeout(total=0.05))
            with pytest.raises(TimeoutError):
                # As when the permit to write ends.
                async with asyncio.timeout(0.05):
                    await http.get(server.make_url("/"))
    asked = [span for span in spans.all() if span.name == "GET /"]
    assert [attributes(span)["error.type"] for span in asked] == ["TimeoutError", "CancelledError"]
    assert {span.status.status_code for span in asked} == {StatusCode.ERROR}


@pytest.mark.parametrize(
    ("given_path", "template"),
    [
        ("/api/v1/namespaces/a/pods/chat-pack-0", "/api/v1/namespaces/{namespace}/pods/{name}"),
        ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/{namespace}/pods"),
        ("/api/v1/namespaces/a", "/api/v1/namespaces/{name}"),
        ("/api/v1/pods", "/api/v1/pods"),
        (SERVICE.format(namespace="a", name="b") + "/status", SERVICE + "/status"),
        ("/k8s/clusters/c1/api/v1/pods", "/k8s/clusters/c1/api/v1/pods"),
        ("/v1/pack", "/v1/pack"),
        ("/v1/pack/plan", "/v1/pack/plan"),
        ("/v1/routes/20001", "/v1/routes/{port}"),
        ("/v1/held", "/v1/held"),
    ],
)
def test_a_template_has_braces_for_what_differs(given_path: str, template: str) -> None:
    assert url_template(given_path) == template


@given(st.sampled_from(sorted(_PLURALS)), NAMES, NAMES)
def test_no_name_of_an_object_is_in_a_template(
    kind: tuple[str, str], namespace: str, name: str
) -> None:
    assert url_template(path(*kind, namespace, name)) == path(*kind, "{namespace}", "{name}")


def test_a_line_of_the_log_outside_of_a_pass_names_no_trace() -> None:
    record = logging.makeLogRecord({"name": "l", "levelname": "INFO", "msg": "m"})
    assert mark(record)
    assert "trace_id" not in json.loads(JsonFormatter().format(record))


def test_a_line_of_the_log_within_a_pass_names_trace_and_span() -> None:
    record = logging.makeLogRecord({"name": "l", "levelname": "INFO", "msg": "m"})
    spans = Spans()
    with spans.tracing.one_pass("reconcile", METADATA):
        mark(record)
    line, context = json.loads(JsonFormatter().format(record)), spans.named(PASS).context
    assert context is not None
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["span_id"] == f"{context.span_id:016x}"


async def test_what_is_documented_is_what_is_traced(tmp_path: Path) -> None:
    """Of a pass that decides, one that is refused, and their requests."""

    def refuse(request: web.Request) -> web.Response | None:
        return web.Response(status=403) if request.path.endswith("/status") else None

    async with traced_world(tmp_path, refuse) as world:
        await world.one_pass()
    spans, decides = world.spans, World(service())
    decision = decides.run(1)
    while not any(e.decision for e in decision.events):
        decision = decides.run(1)
    with spans.tracing.one_pass("reconcile", METADATA):
        spans.tracing.decided(service(), decision)
    found: dict[str, set[str]] = {"pass": set(), "request": set()}
    for span in spans.all():
        found["request" if span.kind is SpanKind.CLIENT else "pass"].update(attributes(span))
    assert {kind: set(names) for kind, names in documented().items()} == found


def documented() -> dict[str, list[str]]:
    """Attributes by the kind of span, from the table of the page."""
    page = (Path(__file__).resolve().parents[2] / "docs/monitoring.md").read_text()
    section = page.partition("\n## Traces\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (pass|request) \| `([a-z0-9_.]+)` \|", section, re.MULTILINE)
    return {kind: [name for of, name in rows if of == kind] for kind in ("pass", "request")}
