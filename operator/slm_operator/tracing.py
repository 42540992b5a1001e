"""OpenTelemetry traces: a span for each pass over a service, and below it one for each request
that the pass sends.

An operator that is not told where traces go does not import this module, nor anything else of
OpenTelemetry. Names follow its semantic conventions (HTTP client spans, Kubernetes and service
attributes); what they have no name for begins with ``slm``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode

from slm_operator.api.models import KIND, SLMService
from slm_operator.decide.calibrate import resting_probe
from slm_operator.decide.decision import Decision
from slm_operator.decide.explanation import decision_id

PROTOCOL = "http/protobuf"
CLOSE_SECONDS = 5.0
"""Longest that the end of the operator waits until the last spans are sent."""
_OF_THE_API_SERVER = re.compile(
    r"(?P<root>.*/api/v1|.*/apis/[^/]+/[^/]+)"
    r"(?P<namespace>/namespaces/[^/]+)?(?P<plural>/[a-z]+)(?P<name>/[^/]+)?(?P<part>/[a-z]+)?"
)
_OF_THE_ACTIVATOR = re.compile(r"(?P<root>/v1/routes)/[0-9]+")


class TracingError(ValueError):
    """A variable of OpenTelemetry says what cannot be done; the text has its name and value."""


class Tracing:
    """Spans are the current one's, so what a pass starts in tasks of its own is below it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("slm_operator", version("slm-operator"))

    @classmethod
    def from_environment(cls) -> Tracing:
        """Sends spans by OTLP, as OpenTelemetry's standard variables say. Raises TracingError."""
        for variable in (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT):
            _check_endpoint(variable, os.environ.get(variable, ""))
        for variable in (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL):
            protocol = os.environ.get(variable) or PROTOCOL
            if protocol != PROTOCOL:
                raise TracingError(
                    f"{variable}={protocol}: only {PROTOCOL} is spoken; set it so, or unset it, "
                    "and name the collector's port for HTTP, by default 4318"
                )
        own = {
            "service.name": "slm-operator",
            "service.version": version("slm-operator"),
            "service.instance.id": socket.gethostname(),
        }
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before.
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        try:
            exporter = OTLPSpanExporter()
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(exporter))
        except ValueError as error:
            raise TracingError(f"a variable of OpenTelemetry (OTEL_...): {error}") from error
        return cls(provider)

    def close(self) -> None:
        """Sends what is left, but lets nobody wait for a collector that does not answer."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)

    @contextmanager
    def one_pass(self, what: str, metadata: Mapping[str, Any]) -> Iterator[None]:
        """A span around a pass over the service that ``metadata`` are of; ``what`` it does to it
        is a verb."""
        attributes = {
            "k8s.namespace.name": metadata["namespace"],
            "slm.service.name": metadata["name"],
            "slm.service.uid": metadata["uid"],
        }
        with self._tracer.start_as_current_span(f"{what} {KIND}", attributes=attributes):
            yield

    def decided(self, service: SLMService, decision: Decision) -> None:
        """Says in the span of this pass what it decided."""
        status, told = decision.status, [e for e in decision.events if e.decision]
        rules = {decision_id(service.uid, entry): entry.rule for entry in status.history}
        calibration = status.calibration
        chosen = calibration.chosen if calibration is not None else None
        wanted = chosen.replicas_per_pack if chosen is not None else resting_probe(service).replicas
        span = trace.get_current_span()
        if status.desired_packs is not None:
            span.set_attribute("slm.packs.wanted", status.desired_packs)
        span.set_attribute("slm.replicas_per_pack.wanted", wanted)
        if told:
            span.set_attribute("slm.decision.ids", [e.decision for e in told])
            span.set_attribute("slm.decision.reasons", [e.reason for e in told])
            span.set_attribute("slm.decision.rules", [rules.get(e.decision) or "" for e in told])

    def failed(self, reason: str, message: str) -> None:
        """Says in the span of this pass why it failed; ``reason`` is that of the metric."""
        _fail(trace.get_current_span(), reason, message)

    def requests(self, to: str) -> aiohttp.ClientMiddlewareType:
        """An aiohttp middleware that makes a span of each request that a pass sends to ``to``, up
        to the head of its answer. Neither bodies nor headers nor queries are looked at."""

        async def observe(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if not trace.get_current_span().is_recording():
                return await handler(request)
            template = url_template(request.url.path)
            attributes: dict[str, str | int] = {
                "http.request.method": request.method,
                "server.address": request.url.host or "",
                "server.port": request.url.port or 0,
                "service.peer.name": to,
                "url.full": str(request.url.with_query(None).with_user(None)),
                "url.template": template,
            }
            with self._tracer.start_as_current_span(
                f"{request.method} {template}", kind=SpanKind.CLIENT, attributes=attributes
            ) as span:
                try:
                    answer = await handler(request)
                except (Exception, asyncio.CancelledError) as error:
                    # A request that is given up, as when a permit ends, is cancelled.
                    _fail(span, type(error).__qualname__)
                    raise
                span.set_attribute("http.response.status_code", answer.status)
                if answer.status >= 400:
                    _fail(span, str(answer.status))
                return answer

        return observe


def mark(record: logging.LogRecord) -> bool:
    """A filter of log handlers: names the trace and the span in which something is logged."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record.__dict__["trace_id"] = trace.format_trace_id(context.trace_id)
        record.__dict__["span_id"] = trace.format_span_id(context.span_id)
    return True


def url_template(path: str) -> str:
    """``path`` of a request with what changes from service to service in braces."""
    found = _OF_THE_API_SERVER.fullmatch(path)
    if found is not None:
        return (
            found["root"]
            + ("/namespaces/{namespace}" if found["namespace"] else "")
            + found["plural"]
            + ("/{name}" if found["name"] else "")
            + (found["part"] or "")
        )
    return _OF_THE_ACTIVATOR.sub(r"\g<root>/{port}", path)


def _fail(span: Span, kind: str, message: str | None = None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, message)


def _check_endpoint(variable: str, value: str) -> None:
    if not value:
        return
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise TracingError(
            f"{variable}={value}: write the URL of a collector, such as http://HOST:4318"
        )
