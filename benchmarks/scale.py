"""What 1,000 services with 2,000 packs cost the operator, and how soon it follows a change.

The operator is a process of its own with the rights of its RBAC manifest, on a real API server.
Each service has found its knee (`benchmarks.calibrated`), and its packs are stand-ins
(`benchmarks.standin_packs`), all of them in this process. For each number of services the operator
is started with all of them there, left alone for a minute, and then some specs are changed. What
API server, etcd and stand-ins take of the two cores meanwhile is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report, scale_picture
from benchmarks.calibrated import calibrated_status
from benchmarks.operator_process import (
    AuditLog,
    Operator,
    Requests,
    apply_manifests,
    cpu_seconds,
)
from benchmarks.standin_packs import WRITES_AT_A_TIME, StandInPacks
from slm_dev.controlplane import ControlPlane, find_or_build
from slm_dev.local_node.api import MERGE_PATCH, ApiServer
from slm_operator.api.models import API_VERSION, GROUP, KIND, PLURAL, VERSION
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube

NAME = "scale"
SIZES = "100,300,1000"
PACKS_EACH = 2
SEED = 1
REST_SECONDS = 60.0
QUIET_SECONDS = 20.0
"""Without a write for this long, more than a poll of every pack, the operator counts as idle."""
SETTLE_TIMEOUT_SECONDS = 1200.0
CHANGES = 200
CHANGES_PER_SECOND = 4.0
CHANGE_TIMEOUT_SECONDS = 60.0
NAMESPACE = "default"
COLLECTION = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
SPEC: Mapping[str, Any] = {
    "model": {"uri": "hf://facebook/opt-1.3b"},
    "engine": {"kind": "Simulated", "image": "stand-in"},
    "gpu": {"kind": "Simulated"},
    "packs": PACKS_EACH,
}


@dataclass(frozen=True)
class Step:
    """What was measured at one number of services."""

    services: int
    packs: int
    start_seconds: float
    """From the operator's start until it has asked every pack and has written what it had to."""
    writes_at_start: int
    start_cpu_seconds: float
    cpu_cores: float
    """At rest."""
    rss_mb: float
    """At rest."""
    peak_rss_mb: float
    """The most since the start."""
    polls_per_second: float
    writes_per_minute_at_rest: float
    apiserver_cores: float
    etcd_cores: float
    stand_ins_cores: float
    others_cores: float
    """What had nothing to do with it, at the same time, on the same cores."""
    lag_p50_seconds: float
    lag_p95_seconds: float
    lag_max_seconds: float
    """From a change of a spec to the plan that follows from it, over services: to the first of its
    packs, since the others wait until that one serves again."""
    changes_cpu_cores: float


class Rig:
    """The control plane with its services, and the operator's surroundings."""

    def __init__(self, api: ApiServer, kube: Kube, audit: AuditLog, packs: StandInPacks) -> None:
        self.api, self.kube, self.audit, self.packs = api, kube, audit, packs
        self.status = calibrated_status(SPEC, datetime.now(UTC)).to_object()
        self.names: list[str] = []
        self.replicas: dict[str, int] = {}
        """What a service was last changed to."""

    async def grow(self, services: int) -> None:
        """Creates services whose knee is known until there are so many."""
        new = [f"s{number:04}" for number in range(len(self.names), services)]
        turns = asyncio.Semaphore(WRITES_AT_A_TIME)

        async def create(name: str) -> None:
            identity = {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": name, "namespace": NAMESPACE},
            }
            async with turns:
                await self.api.post(COLLECTION, {**identity, "spec": SPEC})
                await self.kube.apply({**identity, "status": self.status}, subresource="status")

        await asyncio.gather(*map(create, new))
        self.names += new

    async def until_idle(self, process: psutil.Process) -> None:
        """Until all services are ready and nothing was written for a while. Raises TimeoutError."""
        deadline, ready = time.monotonic() + SETTLE_TIMEOUT_SECONDS, 0
        while True:
            position = self.audit.position()
            await asyncio.sleep(QUIET_SECONDS if ready == len(self.names) else 2.0)
            # So much is written before the first time that the API server may keep us waiting.
            with contextlib.suppress(KubeError):
                ready = await self._ready()
            asked = await self._asked(position)
            print(f"  {ready} of {len(self.names)} services ready, {asked.writes} writes")
            if ready == len(self.names) and asked.writes == 0:
                return
            if not process.is_running() or time.monotonic() > deadline:
                raise TimeoutError(f"{ready} ready, still writing {dict(asked.verbs)}")

    async def _asked(self, position: int) -> Requests:
        """In a thread, since agents that do not answer meanwhile count as unreachable."""
        return await asyncio.to_thread(self.audit.since, position)

    async def _ready(self) -> int:
        ready = 0
        async for page in self.kube.pages(API_VERSION, KIND):
            ready += sum(_is_ready(item["status"]) for item in page.items)
        return ready

    async def until_started(self, began: float) -> float:
        """Seconds since ``began`` until every pack was asked and the last write was answered.
        Raises TimeoutError."""
        position, wanted = self.audit.position(), len(self.names) * PACKS_EACH
        self.packs.polls.clear()
        deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        while len(self.packs.polls) < wanted:
            await asyncio.sleep(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.packs.polls)} of {wanted} packs were asked")
        asked_all, writes = time.time(), -1
        while writes != (writes := (await self._asked(position)).writes):
            await asyncio.sleep(QUIET_SECONDS)
            if time.monotonic() > deadline:
                raise TimeoutError(f"still writing after {writes} writes")
        asked = await self._asked(position)
        print(f"  at start: {dict(asked.verbs)}")
        return max(asked_all, asked.last_write_at or 0.0) - began

    async def lags(self, chosen: list[str]) -> list[float]:
        """Changes the replica count of services, one after the other at an even pace, and waits
        for the plan of the first of their packs. Raises TimeoutError."""
        sent: dict[str, tuple[float, int]] = {}
        self.packs.arrivals.clear()
        began = time.monotonic()
        async with asyncio.TaskGroup() as changing:
            for number, name in enumerate(chosen):
                await asyncio.sleep(began + number / CHANGES_PER_SECOND - time.monotonic())
                self.replicas[name] = replicas = 4 if self.replicas.get(name) == 3 else 3
                sent[name] = time.monotonic(), replicas
                patch = {"spec": {"replicasPerPack": replicas}}
                changing.create_task(self.api.patch(f"{COLLECTION}/{name}", patch, MERGE_PATCH))
        found: dict[str, float] = {}
        async with asyncio.timeout(CHANGE_TIMEOUT_SECONDS):
            while len(found) < len(chosen):
                await asyncio.sleep(0.5)
                found = _lags(self.packs, sent)
        return sorted(found.values())


def _is_ready(status: Mapping[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    return bool(status["readyPacks"] == PACKS_EACH and conditions["Ready"] == "True")


def _lags(packs: StandInPacks, sent: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Of each service, to the first plan."""
    found: dict[str, float] = {}
    for arrival in packs.arrivals:
        service, _, _ = arrival.pod.rpartition("-pack-")
        if service in sent and arrival.plan.layout.replicas == sent[service][1]:
            found.setdefault(service, arrival.at_seconds - sent[service][0])
    return found


async def measure(sizes: list[int], folder: Path) -> list[Step]:
    binaries = await asyncio.to_thread(find_or_build, print)
    audit_log = folder / "audit.log"
    steps = []
    with ControlPlane(binaries, audit_log=audit_log) as control_plane:
        admin = control_plane.kubeconfig("admin")
        apply_manifests(binaries, admin)
        operator = Operator(control_plane, folder / "operator.log")
        async with ApiServer(admin) as api:
            packs = StandInPacks(api, max(sizes) * PACKS_EACH)
            kube = await Kube.connect(admin)
            rig = Rig(api, kube, AuditLog(audit_log), packs)
            async with packs.playing():
                for size in sizes:
                    print(f"{size} services")
                    # Before it sees them, or it would calibrate those without a status.
                    await rig.grow(size)
                    with operator.running() as process:
                        await rig.until_idle(process)
                    steps.append(await one_size(rig, operator))
                    print(steps[-1])
            await kube.close()
    return steps


async def one_size(rig: Rig, operator: Operator) -> Step:
    began = time.time()
    with operator.running() as process:
        position = rig.audit.position()
        start_seconds = await rig.until_started(began)
        writes_at_start = rig.audit.since(position).writes
        start_cpu = cpu_seconds(process)
        position, polls = rig.audit.position(), rig.packs.polls.total()
        rest = Meter(process)
        await asyncio.sleep(REST_SECONDS)
        shares, writes = rest.cores(), rig.audit.since(position).writes
        polled = rig.packs.polls.total() - polls
        rss, changing = process.memory_info().rss, Meter(process)
        chosen = random.Random(SEED).sample(rig.names, min(CHANGES, len(rig.names)))
        lags = await rig.lags(chosen)
        return Step(
            services=len(rig.names),
            packs=len(rig.names) * PACKS_EACH,
            start_seconds=start_seconds,
            writes_at_start=writes_at_start,
            start_cpu_seconds=start_cpu,
            cpu_cores=shares["operator"],
            rss_mb=rss / 1e6,
            peak_rss_mb=_peak_rss_mb(process),
            polls_per_second=polled / REST_SECONDS,
            writes_per_minute_at_rest=writes * 60 / REST_SECONDS,
            apiserver_cores=shares["kube-apiserver"],
            etcd_cores=shares["etcd"],
            stand_ins_cores=shares["stand-ins"],
            others_cores=shares["others"],
            lag_p50_seconds=lags[len(lags) // 2],
            lag_p95_seconds=lags[int(len(lags) * 0.95)],
            lag_max_seconds=lags[-1],
            changes_cpu_cores=changing.cores()["operator"],
        )


class Meter:
    """CPU of the operator and of what surrounds it, in cores since the meter was made."""

    def __init__(self, operator: psutil.Process) -> None:
        this = psutil.Process()
        named = {child.name(): child for child in this.children(recursive=True)}
        self._processes = {name: named[name] for name in ("kube-apiserver", "etcd")}
        self._processes |= {"operator": operator, "stand-ins": this}
        self._began, self._before = time.monotonic(), self._seconds()

    def _seconds(self) -> dict[str, float]:
        found = {name: cpu_seconds(process) for name, process in self._processes.items()}
        machine = psutil.cpu_times()
        busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
        return found | {"others": busy - sum(found.values())}

    def cores(self) -> dict[str, float]:
        elapsed = time.monotonic() - self._began
        return {name: (now - self._before[name]) / elapsed for name, now in self._seconds().items()}


def _peak_rss_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def figures(steps: list[Step]) -> dict[str, report.Figure]:
    """The last step's, and how they grew from the first: by 1 is as the services did, by less is
    better."""
    first, last = asdict(steps[0]), asdict(steps[-1])
    services = last["services"] / first["services"]
    growth = {
        f"{name}_growth": last[name] / first[name] / services
        for name in ("cpu_cores", "rss_mb", "lag_p95_seconds", "start_seconds")
    }
    return {**last, **growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default=SIZES, help="numbers of services, ascending")
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory(prefix="slm-bench-") as folder:
        steps = asyncio.run(measure([int(size) for size in sizes.split(",")], Path(folder)))
    command = f"python -m benchmarks.{NAME}" + (f" --sizes {sizes}" if sizes != SIZES else "")
    report.write(NAME, figures(steps), command, {"steps": [asdict(step) for step in steps]})
    scale_picture.write([asdict(step) for step in steps])


if __name__ == "__main__":
    main()
