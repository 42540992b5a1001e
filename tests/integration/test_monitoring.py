"""A real Prometheus reads the real operator, packs and activator by the configuration of the
documentation: every query of a dashboard answers under load, and no alert cries wolf."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
import yaml

from operator_rig import NewService, Service, searching, until
from slm_dev import monitoring
from slm_dev.local_node.addresses import AddressPool
from slm_dev.program import Program
from slm_dev.prometheus import Programs, Prometheus
from slm_operator.activator.wire import CONTROL_PORT, TOKEN_VARIABLE, Route
from slm_worker.wire import AGENT_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")

PORT = 9090
PORT_NAME = "__meta_kubernetes_pod_container_port_name"
TOKEN = "t" * 32
DOOR = 20123
LIMITS = {
    "slo": {"ttftP95": "30s", "itlP95": "10s"},
    "powerBudgetWatts": 1000,
}
"""Both are kept, however slow the machine."""
RATE_INTERVAL = "30s"
ONLY_IN_TROUBLE = {
    "slm_operator_reconcile_failures_total": "no pass has failed",
}
"""Series that a healthy system need not have, and why."""
LABELS_OF_FAILURES = {"reason"}


def documented_jobs() -> list[dict[str, Any]]:
    page = (monitoring.REPOSITORY / "docs/monitoring.md").read_text()
    block = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
    assert len(block) == 1
    jobs: list[dict[str, Any]] = yaml.safe_load(block[0])["scrape_configs"]
    return jobs


def found(pod: str, **labels: str) -> dict[str, str]:
    """The labels by which discovery would tell of a Pod; Debian's Prometheus has none of it."""
    told = {f"pod_label_app_kubernetes_io_{name}": value for name, value in labels.items()}
    return {f"__meta_kubernetes_{name}": value for name, value in told.items()} | {
        "__meta_kubernetes_pod_name": pod
    }


async def scraping(service: Service, activator: str) -> list[dict[str, Any]]:
    """The documented jobs, with targets in the place of discovery."""
    operator_job, pack_job = documented_jobs()
    for job in (operator_job, pack_job):
        del job["kubernetes_sd_configs"]
    at = {"__meta_kubernetes_namespace": "slm", PORT_NAME: "health"}
    operator_job["static_configs"] = [
        {"targets": [target], "labels": at | found(pod, name="slm-operator")}
        for pod, target in (
            ("slm-operator-0", urlsplit(service.stack.operator_url).netloc),
            ("slm-operator-activator-0", f"{activator}:{CONTROL_PORT}"),
        )
    ]
    pod = await service.pod()
    labels = {
        name.removeprefix("app.kubernetes.io/").replace("-", "_"): value
        for name, value in pod["metadata"]["labels"].items()
        if name.startswith("app.kubernetes.io/")
    }
    at = {"__meta_kubernetes_namespace": "default", PORT_NAME: "agent"}
    pack_job["static_configs"] = [
        {
            "targets": [f"{pod['status']['podIP']}:{AGENT_PORT}"],
            "labels": at | found(pod["metadata"]["name"], **labels),
        }
    ]
    return [operator_job, pack_job]


@dataclass
class World:
    prometheus: Prometheus
    activator: str

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self.prometheus.query, expression)


@pytest_asyncio.fixture(loop_scope="session")
async def activator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The address of one that no operator uses."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    addresses = AddressPool()
    address = addresses.claim()
    command = ["slm_operator.activator", f"--address={address}"]
    program = Program(tmp_path, "activator", command, dict(os.environ))
    try:
        program.launch()
        yield address
    finally:
        await program.stop()
        addresses.release(address)


@contextlib.asynccontextmanager
async def scraped(service: Service, activator: str, programs: Programs) -> AsyncIterator[World]:
    jobs = await scraping(service, activator)
    address = f"{activator}:{PORT}"
    with Prometheus(programs, address, jobs, monitoring.RULE_FILES) as prometheus:
        yield World(prometheus, activator)


async def refuse_one(world: World, service: Service) -> None:
    """The activator gets a port for the service, and refuses what starts no pack."""
    async with aiohttp.ClientSession() as http:
        route = Route(namespace="default", name=service.name).model_dump_json()
        url = f"http://{world.activator}:{CONTROL_PORT}/v1/routes/{DOOR}"

        async def opened() -> bool:
            try:
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with http.put(url, data=route, headers=headers) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until("the activator answers", opened)
        async with http.get(f"http://{world.activator}:{DOOR}/v1/models") as answer:
            assert answer.status == 503


async def silent_queries(world: World, service: Service) -> list[str]:
    """Those that answer nothing."""
    found = []
    for query in monitoring.queries():
        asked = monitoring.filled(query.expression, "default", service.name, RATE_INTERVAL)
        if not await world.ask(asked):
            found.append(f"{query.dashboard}: {query.title}: {asked}")
    return found


async def test_dashboards_answer_under_load_and_alerts_are_silent(
    activator: str, new_service: NewService, programs: Programs
) -> None:
    service = await new_service(searching(1, **LIMITS))
    await service.decided()
    async with service.users(4), scraped(service, activator, programs) as world:
        await refuse_one(world, service)

        async def all_answer() -> bool:
            return not await silent_queries(world, service)

        try:
            await until("every query answers", all_answer)
        except AssertionError:
            raise AssertionError(await silent_queries(world, service)) from None
        await check_rules(world)
        await check_what_alerts_read(world)


async def check_rules(world: World) -> None:
    """Each was evaluated without an error, and no alert stays pending; for a moment one may be, as
    when a busy machine scraped late."""
    rules = await asyncio.to_thread(world.prometheus.rules)
    assert {rule["name"] for rule in rules} == {a.name for a in monitoring.ALERTS} | set(
        monitoring.RECORDED
    )
    assert [(r["name"], r["lastError"]) for r in rules if r["health"] != "ok"] == []
    pending: list[tuple[str, object]] = []

    async def silent() -> bool:
        told = [(alert.name, await world.ask(alert.expression)) for alert in monitoring.ALERTS]
        pending[:] = [(name, series) for name, series in told if series]
        return not pending

    try:
        await until("no alert is pending", silent)
    except AssertionError:
        raise AssertionError(pending) from None


async def check_what_alerts_read(world: World) -> None:
    """A comparison hides a series that does not exist, so each is asked for by itself, with the
    labels that the alert chooses and groups by."""
    missing: list[tuple[str, str, frozenset[str]]] = []

    async def all_there() -> bool:
        missing[:] = await what_alerts_miss(world)
        return not missing

    try:
        await until("alerts find what they read", all_there)
    except AssertionError:
        raise AssertionError(missing) from None


async def what_alerts_miss(world: World) -> list[tuple[str, str, frozenset[str]]]:
    missing: list[tuple[str, str, frozenset[str]]] = []
    for alert in monitoring.ALERTS:
        known: set[str] = set()
        for metric, labels in monitoring.selectors(alert.expression):
            if metric in ONLY_IN_TROUBLE:
                known |= LABELS_OF_FAILURES | {"namespace"}
                continue
            series = [one["metric"] for one in await world.ask(metric)]
            if not any(labels <= set(one) for one in series):
                missing.append((alert.name, metric, labels))
            known |= {label for one in series for label in one}
        if lacking := monitoring.groupings(alert.expression) - known:
            missing.append((alert.name, "by or on", lacking))
    return missing
