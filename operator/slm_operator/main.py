"""The operator's options, and the wiring of loops, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import re
import signal
import socket
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import aiohttp
import typer
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slm_operator import logs, services
from slm_operator.activator.wire import TOKEN_LENGTH, TOKEN_VARIABLE
from slm_operator.cluster.activator import ActivatorClient
from slm_operator.cluster.agents import Agents, open_session
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.cluster.lease import Election, leading
from slm_operator.cluster.packs import Packs
from slm_operator.cluster.permit import Permit
from slm_operator.cluster.ports import Ports
from slm_operator.cluster.reach import Reach
from slm_operator.controller import Controller, Settings
from slm_operator.decide.demand import SAMPLE_SECONDS
from slm_operator.keys import BadKeyError, Keys, checked
from slm_operator.logs import LogFormat
from slm_operator.loops import Loops
from slm_operator.metrics import Metrics
from slm_operator.pareto.window import WindowRules
from slm_worker.open_files import allow_open_files

if TYPE_CHECKING:
    from slm_operator.tracing import Tracing

KEY_VARIABLE = "SLM_OPERATOR_KEY"
KEY_FILE_VARIABLE = "SLM_OPERATOR_KEY_FILE"
ACTIVATOR_PORTS = "20000-20999"
LEASE_NAME = "slm-operator"
NAMESPACE_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
GARBAGE_OBJECTS = 50_000
"""How many more there are before garbage is looked for. One pass makes more than Python's 700, and
each hundredth look goes through all that is kept: 0.3 s with a thousand services, every 3 s, in
which nothing else runs."""
TRACES_GO_TO = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True)
class ActivatorAccess:
    """How the activator is reached."""

    url: str
    token: str
    ports: tuple[int, int]
    """First and last of those that it may open for services."""
    address: str
    """By which nodes reach it; empty: what the URL's host is resolved to."""


async def run(
    settings: Settings,
    health_address: str,
    health_port: int,
    election: Election | None,
    access: ActivatorAccess | None = None,
    namespaces: Sequence[str] = (),
    tracing: Tracing | None = None,
) -> None:
    """Runs until cancelled, for the services of ``namespaces``, or of all; with an ``election`` it
    waits until this process leads. Raises KubeError without a cluster configuration."""
    metrics = Metrics()
    permit = Permit() if election else Permit.unlimited()
    metrics.leader.set_function(lambda: permit.holds)

    def observers(to: str) -> tuple[aiohttp.ClientMiddlewareType, ...]:
        counting = metrics.counting(to)
        return (counting,) if tracing is None else (counting, tracing.requests(to))

    kube = await Kube.connect(permit=permit, middlewares=observers("apiserver"))
    async with (
        open_session(permit, *observers("agent")) as session,
        open_session(permit, *observers("activator")) as activator_session,
    ):
        activator = None
        if access is not None:
            ports = Ports(*access.ports)
            activator = ActivatorClient(
                activator_session, access.url, access.token, ports, access.address
            )
        controller = Controller(
            kube, Agents(session), settings, metrics, _now, activator=activator, tracing=tracing
        )
        health = await _serve_health(metrics, permit, health_address, health_port)
        try:
            async with leading(election, permit) if election else contextlib.nullcontext():
                await _serve(controller, kube, activator, metrics, namespaces, tracing)
        finally:
            await health.cleanup()
            await kube.close()


async def _serve(
    controller: Controller,
    kube: Kube,
    activator: ActivatorClient | None,
    metrics: Metrics,
    namespaces: Sequence[str],
    tracing: Tracing | None,
) -> None:
    # Packs wake the loops, which look at the packs.
    packs = Packs(lambda namespace, name: loops.wake(namespace, name))
    loops = Loops(controller, packs, metrics, tracing)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = [
                tasks.create_task(packs.follow(kube, namespaces)),
                tasks.create_task(controller.owned.follow(loops.wake, namespaces)),
            ]
            if activator is not None:
                following.append(tasks.create_task(activator.follow(kube, loops.wake, namespaces)))
            # A service that is looked at before its packs are known seems to have none.
            await packs.listed.wait()
            reach = Reach(namespaces, packs.known)
            metrics.unreadable_namespaces.set_function(lambda: len(reach.left_out))
            await services.follow(kube, loops, reach)
            for task in following:
                task.cancel()
    finally:
        await loops.close()


async def _serve_health(metrics: Metrics, permit: Permit, address: str, port: int) -> web.AppRunner:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="leader\n" if permit.holds else "standby\n")

    async def show(_: web.Request) -> web.Response:
        text = generate_latest(metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", show)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    return runner


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Until SIGTERM, which Kubernetes ends a Pod by."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def start(
    worker_image: Annotated[
        str, typer.Option(envvar="SLM_WORKER_IMAGE", help="Image of the packs.")
    ] = "slm-worker",
    key_file: Annotated[
        str,
        typer.Option(
            envvar=KEY_FILE_VARIABLE,
            help="Holds the key from which the agents' tokens are derived; a changed file counts "
            f"at once. [default: the key is the variable {KEY_VARIABLE}]",
        ),
    ] = "",
    health_address: Annotated[
        str,
        typer.Option(
            help="Where /healthz and /metrics listen. [default: every address, IPv4 and IPv6]"
        ),
    ] = "",  # probes come to the Pod's address, of whatever family the cluster gave it
    health_port: Annotated[int, typer.Option(min=1, max=65535, help="The port of both.")] = 8081,
    min_window_seconds: Annotated[
        float, typer.Option(min=1, help="Shortest window that counts as a measurement.")
    ] = 30.0,
    max_window_seconds: Annotated[
        float, typer.Option(min=1, help="A noisy window is taken as it is after this.")
    ] = 120.0,
    warmup_seconds: Annotated[
        float, typer.Option(min=0, help="Discarded after each change of a pack.")
    ] = 6.0,
    demand_sample_seconds: Annotated[
        float, typer.Option(min=1, help="Between two samples of the demand, which packs follow.")
    ] = SAMPLE_SECONDS,
    leader_election: Annotated[
        bool,
        typer.Option(
            "--leader-election/--no-leader-election",
            help="Act only while holding a Lease: needed with more than one replica.",
        ),
    ] = False,
    lease_name: Annotated[str, typer.Option(help="The Lease that replicas share.")] = LEASE_NAME,
    lease_namespace: Annotated[
        str, typer.Option(help="Where the Lease is. [default: the namespace of this Pod]")
    ] = "",
    cluster_power_budget_watts: Annotated[
        int | None,
        typer.Option(min=1, help="Most that the GPUs of all services may draw. Default: no limit."),
    ] = None,
    watch_namespace: Annotated[
        list[str] | None,
        typer.Option(help="Serve SLMServices of this namespace; may be given again. Default: all."),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="json: one object a line, with the service it is about.")
    ] = LogFormat.TEXT,
    activator_url: Annotated[
        str,
        typer.Option(help="Of slm-activator, for services with minPacks 0. [default: none runs]"),
    ] = "",
    activator_ports: Annotated[
        str, typer.Option(help="Ports of it, one for each such service: FIRST-LAST.")
    ] = ACTIVATOR_PORTS,
    activator_address: Annotated[
        str,
        typer.Option(help="By which nodes reach it. [default: what the URL's host resolves to]"),
    ] = "",
) -> None:
    """Runs the SLM operator against the cluster of KUBECONFIG, or the one that it runs in."""
    tracing = _tracing(log_format)
    allow_open_files()
    keys = _keys(key_file)
    if max_window_seconds < min_window_seconds:
        raise typer.BadParameter(
            f"--max-window-seconds {max_window_seconds:g} is below --min-window-seconds "
            f"{min_window_seconds:g}: raise it"
        )
    rules = WindowRules(
        min_seconds=min_window_seconds,
        max_seconds=max_window_seconds,
        warmup_seconds=warmup_seconds,
    )
    namespaces = _namespaces(watch_namespace or [])
    settings = Settings(
        worker_image, keys, rules, demand_sample_seconds, cluster_power_budget_watts
    )
    election = _election(lease_name, lease_namespace) if leader_election else None
    access = (
        _activator_access(activator_url, activator_ports, activator_address)
        if activator_url
        else None
    )
    gc.set_threshold(GARBAGE_OBJECTS)
    work = run(settings, health_address, health_port, election, access, namespaces, tracing)
    try:
        asyncio.run(_until_told(work))
    except KubeError as error:
        raise typer.BadParameter(error.message) from error
    finally:
        if tracing is not None:
            tracing.close()


def _tracing(log_format: LogFormat) -> Tracing | None:
    """Configures the log, which names the spans. What nobody asked for is not imported: it takes
    megabytes."""
    if not any(os.environ.get(variable) for variable in TRACES_GO_TO):
        logs.configure(log_format)
        return None
    try:
        from slm_operator.tracing import Tracing, TracingError, mark
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"{' or '.join(TRACES_GO_TO)} is set, and {error.name} is not installed: install "
            "slm-operator[tracing], or unset it"
        ) from error
    logs.configure(log_format, mark)
    try:
        return Tracing.from_environment()
    except TracingError as error:
        raise typer.BadParameter(str(error)) from error


def _namespaces(given: list[str]) -> tuple[str, ...]:
    for namespace in given:
        if not re.fullmatch(NAMESPACE_NAME, namespace):
            raise typer.BadParameter(
                f"--watch-namespace {namespace}: write the name of one namespace; for several, "
                "give the option several times"
            )
    return tuple(dict.fromkeys(given))


def _keys(file: str) -> Keys:
    try:
        if file:
            return Keys.from_file(Path(file))
        return Keys(checked(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE))
    except BadKeyError as error:
        raise typer.BadParameter(str(error)) from error


def _activator_access(url: str, ports: str, address: str) -> ActivatorAccess:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < TOKEN_LENGTH:
        raise typer.BadParameter(
            f"{TOKEN_VARIABLE} has {len(token)} characters, at least {TOKEN_LENGTH} are needed "
            "with --activator-url: set it to the text that the activator has in the same variable"
        )
    if not _is_activator_url(url):
        raise typer.BadParameter(
            f"--activator-url {url}: write it as http://HOST:PORT, with a host that DNS can have "
            "and a port of 1 to 65535"
        )
    try:
        ipaddress.ip_address(address or "::")
    except ValueError as error:
        raise typer.BadParameter(f"--activator-address {address}: write an IP address") from error
    first, dash, last = ports.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()) or not (
        0 < int(first) <= int(last) <= 65535
    ):
        raise typer.BadParameter(
            f"--activator-ports {ports}: write FIRST-LAST, such as {ACTIVATOR_PORTS}"
        )
    return ActivatorAccess(url, token, (int(first), int(last)), address)


def _is_activator_url(url: str) -> bool:
    if not re.fullmatch(r"http://[^/:]+:[0-9]{1,5}/?|http://\[[0-9a-f:.]+\]:[0-9]{1,5}/?", url):
        return False
    try:
        where = urlsplit(url)
        # As a resolver does, which refuses an empty label and one that is too long.
        (where.hostname or "").encode("idna")
        return bool(where.port)
    except ValueError:
        return False


def _election(name: str, namespace: str) -> Election:
    if not namespace:
        try:
            namespace = POD_NAMESPACE.read_text().strip()
        except OSError as error:
            raise typer.BadParameter(
                f"--leader-election needs a namespace for the Lease, and this is no Pod that would "
                f"have one ({error}): set --lease-namespace"
            ) from error
    return Election(namespace, name, identity=f"{socket.gethostname()}_{uuid.uuid4()}")
