"""Entry point: kopf as wiring, one loop for each SLMService, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import kopf
import typer
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from slm_operator.api.models import GROUP, KIND, PLURAL, VERSION
from slm_operator.cluster.agents import Agents, open_session
from slm_operator.cluster.kube import PAGE_OBJECTS, WATCH_SECONDS, Kube, KubeError
from slm_operator.cluster.packs import Packs
from slm_operator.controller import Controller, Settings
from slm_operator.decide.demand import SAMPLE_SECONDS
from slm_operator.gate import Gate
from slm_operator.metrics import Metrics
from slm_operator.pareto.window import WindowRules

log = logging.getLogger(__name__)

KEY_VARIABLE = "SLM_OPERATOR_KEY"
KEY_LENGTH = 32
RESTART_SECONDS = 3.0


@dataclass
class Wakeups:
    """One event for each service: whatever changes around it only sets the event."""

    _events: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)

    def of(self, namespace: str, name: str) -> asyncio.Event:
        return self._events.setdefault((namespace, name), asyncio.Event())

    def wake(self, namespace: str, name: str) -> None:
        """Nothing to do where no loop runs: one that starts looks at everything first."""
        if (namespace, name) in self._events:
            self._events[namespace, name].set()

    def drop(self, namespace: str, name: str) -> None:
        self._events.pop((namespace, name), None)


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler asks what changed, so kopf need not copy each object whenever it does."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return


def wire(controller: Controller, wakeups: Wakeups, packs: Packs) -> kopf.OperatorRegistry:
    """The handlers. Nothing is decided here. Kopf sees the services alone: with an index of Pods
    it would hold each back until all are read, and tell all of them of each one that is."""
    registry = kopf.OperatorRegistry()
    gate = Gate()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            # Named on purpose, so it goes before the account of the Pod that this may run in.
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=registry)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.persistence.finalizer = f"{GROUP}/operator"
        settings.persistence.diffbase_storage = _NoDiffs()
        settings.watching.server_timeout = WATCH_SECONDS
        settings.watching.client_timeout = WATCH_SECONDS + 30
        settings.watching.connect_timeout = 10
        settings.watching.chunk_size = PAGE_OBJECTS
        settings.networking.request_timeout = 15
        # Kopf's own go on to 21 s, for which a spec would wait after an outage.
        settings.networking.error_backoffs = (1, 2, 3, 5)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def service_changed(namespace: Any, name: str, event: Any, **_: Any) -> None:
        # Kopf keeps the object; who owns which field is a third of it, and nothing here asks.
        event["object"]["metadata"].pop("managedFields", None)
        wakeups.wake(namespace, name)

    # Kopf removes its finalizer at the first look after the daemon has ended.
    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry, cancellation_polling=1, backoff=5)
    async def serve(
        namespace: Any,
        name: str,
        body: Any,
        stopped: kopf.DaemonStopped,
        **_: Any,
    ) -> None:
        wakeup = wakeups.of(namespace, name)
        while not stopped:
            async with gate.turn():
                wakeup.clear()
                delay = await controller.reconcile(_object(body), packs.of(namespace, name))
            await _wait(wakeup, stopped, delay)
        if "deletionTimestamp" in body["metadata"]:
            await _finalize(controller, body, packs)
            wakeups.drop(namespace, name)

    return registry


def _object(body: Any) -> dict[str, Any]:
    return {**body, "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND}


async def _finalize(controller: Controller, body: Any, packs: Packs) -> None:
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    while True:
        try:
            await controller.finalize(_object(body), packs.of(namespace, name))
        except KubeError as error:
            log.warning("removing the children of %s: %s", name, error)
            await asyncio.sleep(2)
        else:
            return


async def _wait(wakeup: asyncio.Event, stopped: kopf.DaemonStopped, seconds: float) -> None:
    waiting = [asyncio.ensure_future(wakeup.wait()), asyncio.ensure_future(stopped.wait(seconds))]
    _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def run(settings: Settings, health_address: str, health_port: int) -> None:
    """Runs until cancelled. Raises KubeError without a cluster configuration."""
    metrics = Metrics()
    kube = await Kube.connect()
    async with open_session() as session:
        controller = Controller(kube, Agents(session), settings, metrics, _now)
        health = await _serve_health(metrics, health_address, health_port)
        wakeups = Wakeups()
        packs = Packs(wakeups.wake)
        try:
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(packs.follow(kube))
                # A service that is looked at before its packs are known seems to have none.
                await packs.listed.wait()
                await _watch(controller, wakeups, packs)
                following.cancel()
        finally:
            await health.cleanup()
            await kube.close()


async def _watch(controller: Controller, wakeups: Wakeups, packs: Packs) -> None:
    """Runs kopf until it is told to stop, and again when it gives up.

    It gives up on a watch that is forbidden, which is how an API server answers for a moment after
    its start, before it has read its roles. What the controller holds stays.
    """
    while True:
        try:
            await kopf.operator(
                registry=wire(controller, wakeups, packs), clusterwide=True, standalone=True
            )
        except Exception:
            log.exception("watching ended; again in %g s", RESTART_SECONDS)
            await asyncio.sleep(RESTART_SECONDS)
        else:
            return


async def _serve_health(metrics: Metrics, address: str, port: int) -> web.AppRunner:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

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


def start(
    worker_image: Annotated[
        str, typer.Option(envvar="SLM_WORKER_IMAGE", help="Image of the packs.")
    ] = "slm-worker",
    health_address: Annotated[str, typer.Option(help="Where /healthz and /metrics listen.")] = (
        "0.0.0.0"  # noqa: S104 - probes come from the node
    ),
    health_port: Annotated[int, typer.Option(min=1, max=65535)] = 8081,
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
) -> None:
    """Runs the SLM operator against the cluster of KUBECONFIG, or the one that it runs in."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < KEY_LENGTH:
        raise typer.BadParameter(
            f"{KEY_VARIABLE} has {len(key)} characters, at least {KEY_LENGTH} are needed: set it "
            "to a random text that stays the same over restarts, such as from a Secret"
        )
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
    settings = Settings(worker_image, key, rules, demand_sample_seconds)
    try:
        asyncio.run(run(settings, health_address, health_port))
    except KubeError as error:
        raise typer.BadParameter(error.message) from error


def main() -> None:
    typer.run(start)


if __name__ == "__main__":
    main()
