"""The operator's traces as a collector gets them, by OTLP over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from operator_rig import NewService, engine, fixed, until
from slm_dev.program import Program
from slm_dev.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASS = "reconcile SLMService"
SERVICE = "/apis/serving.slm.dev/v1alpha1/namespaces/{namespace}/slmservices/{name}"
POD = "/api/v1/namespaces/{namespace}/pods/{name}"
PROTOBUF = "google/_upb"
"""Of the exporter, a library that a process maps when it imports it."""


class Collector:
    """What a collector of traces takes, and nothing else of one."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.senders: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            self.senders |= {
                a.value.string_value
                for a in resource.resource.attributes
                if a.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    def passes_of(self, service: str) -> list[Span]:
        return [
            span
            for span in self.spans
            if span.name == PASS and attributes(span)["slm.service.name"] == service
        ]

    def below(self, one: Span) -> dict[str, Span]:
        """The spans whose parent is ``one``, by name."""
        return {
            span.name: span
            for span in self.spans
            if (span.trace_id, span.parent_span_id) == (one.trace_id, one.span_id)
        }

    def ways_below(self, service: str) -> set[str]:
        """Names of all requests that passes over ``service`` sent."""
        return {name for one in self.passes_of(service) for name in self.below(one)}


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """One that listens, and its URL."""
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    async with TestServer(app, host="127.0.0.1") as server:
        yield taking, str(server.make_url("")).rstrip("/")


async def test_a_collector_gets_each_pass_with_its_requests(
    operator_stack: Stack, new_service: NewService
) -> None:
    assert not maps_protobuf(operator_stack.operator), "it is told of no collector"
    await operator_stack.operator.stop()
    try:
        async with collector() as (taking, url):
            variables = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            }
            async with operator_stack.another_operator(
                "traced", "--log-format=json", variables=variables
            ) as (program, _):
                program.launch()
                service = await new_service(fixed(1))
                broken = await new_service(fixed(1, **engine(image="elsewhere:1")))

                async def traced() -> bool:
                    program.check()
                    wanted = {f"PATCH {SERVICE}/status", f"PATCH {POD}", "PUT /v1/pack/plan"}
                    return wanted <= taking.ways_below(service.name)

                await until("passes with requests to API server and agent", traced)
                await broken.condition("Ready", "False", "ImagePullBackOff")
                assert maps_protobuf(program)
            logged = {
                line["trace_id"] for line in lines(program.log()) if line.get("name") == broken.name
            }
    finally:
        await operator_stack.start_operator()
    assert taking.senders == {"slm-operator"}
    uid = (await service.now()).uid
    for one in taking.passes_of(service.name):
        assert attributes(one)["slm.service.uid"] == uid
        assert (one.status.code == Status.STATUS_CODE_ERROR) is ("error.type" in attributes(one))
        for name, span in taking.below(one).items():
            assert span.kind == Span.SPAN_KIND_CLIENT
            assert one.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= one.end_time_unix_nano
            assert name.startswith(attributes(span)["http.request.method"] + " ")
    assert logged, "it warns of the other service"
    assert logged <= {one.trace_id.hex() for one in taking.passes_of(broken.name)}


def attributes(span: Span) -> dict[str, Any]:
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def lines(log: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in log.splitlines() if line.startswith("{"))


def maps_protobuf(program: Program) -> bool:
    """Whether the running process has imported what encodes spans."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[1:] == program.command[1:]:
                return any(PROTOBUF in mapped.path for mapped in process.memory_maps())
        except psutil.Error:
            continue
    raise AssertionError(f"no process of {program.name}")
