"""Whether the operator traces, as the environment says: what cannot be done is refused, and what
nobody asked for costs nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.config import kube_config
from typer.testing import CliRunner

from controller_builders import OBJECT
from slm_operator import main, tracing
from slm_operator.keys import KEY_LENGTH
from slm_operator.main import KEY_VARIABLE
from slm_operator.tracing import Tracing, TracingError
from traced_world import write_kubeconfig

METADATA = OBJECT["metadata"]
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*main.TRACES_GO_TO, "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)


class TestTheVariables:
    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({ENDPOINT: "collector:4318"}, f"{ENDPOINT}=collector:4318: write the URL"),
            ({ENDPOINT: "http://"}, f"{ENDPOINT}=http://: write the URL"),
            ({ENDPOINT: "http://[::1"}, "write the URL"),
            (
                {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "grpc://c:1"},
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=grpc://c:1: write the URL",
            ),
            (
                {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: only http/protobuf is spoken",
            ),
            (
                {ENDPOINT: "http://c:4318", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5000"},
                "a variable of OpenTelemetry (OTEL_...): max_export_batch_size must be less",
            ),
        ],
        ids=str,
    )
    def test_what_cannot_be_done_is_refused_by_name(
        self, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TracingError) as caught:
            Tracing.from_environment()
        assert said in str(caught.value)

    def test_the_operator_names_itself_unless_the_variables_do(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
        own = resource_of(Tracing.from_environment())
        assert own["service.name"] == "slm-operator"
        assert own["service.version"]
        assert own["service.instance.id"]
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=a")
        named = resource_of(Tracing.from_environment())
        assert (named["service.name"], named["k8s.cluster.name"]) == ("mine", "a")

    def test_a_collector_that_is_away_holds_nobody_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
        monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.1)
        traced = Tracing.from_environment()
        with traced.one_pass("reconcile", METADATA):
            pass
        began = time.monotonic()
        traced.close()
        assert time.monotonic() - began < 5


def resource_of(traced: Tracing) -> dict[str, Any]:
    traced.close()
    return dict(traced._provider.resource.attributes)


@pytest.fixture
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the operator; and nothing of OpenTelemetry can be."""

    def of_the_operator() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "slm_operator"]

    for name in (*of_the_operator(), *(n for n in sys.modules if n.startswith("opentelemetry"))):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    yield
    for name in of_the_operator():
        del sys.modules[name]


@pytest.mark.usefixtures("nothing_imported")
async def test_when_it_is_off_nothing_of_opentelemetry_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the operator with all that it is made of, up to its first look at an API server."""
    from slm_operator import controller, keys, logs, main

    asked = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        asked.set()
        return web.json_response({"reason": "NotFound"}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        file = write_kubeconfig(tmp_path, str(server.make_url("")))
        monkeypatch.setenv("KUBECONFIG", str(file))
        # The client read the variable when it was imported.
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        settings = controller.Settings("w", keys.Keys("k" * 32))
        traced = main._tracing(logs.LogFormat.JSON)
        work = asyncio.create_task(main.run(settings, "127.0.0.1", 0, None, None, (), traced))
        async with asyncio.timeout(30):
            await asked.wait()
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert traced is None
    loaded = [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]
    assert loaded == ["opentelemetry"], "the entry by which this test keeps it from being found"
    assert "slm_operator.services" in sys.modules
    assert "slm_operator.tracing" not in sys.modules


def test_that_it_is_not_installed_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "slm_operator.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    app = typer.Typer()
    app.command()(main.start)
    variables = {KEY_VARIABLE: "k" * KEY_LENGTH, "COLUMNS": "300", ENDPOINT: "http://c:4318"}
    done = CliRunner().invoke(app, [], env=variables)
    assert done.exit_code == 2
    assert "opentelemetry is not installed: install slm-operator[tracing]" in done.output
