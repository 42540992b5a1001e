"""Ten minutes without an API server: what clients see, how soon the spec is followed after.

The real control plane, two operators of which one leads, agents and HAProxy, on the SIMULATED
engine and GPU. Right before the API server ends another pack is asked for, and right after it
answers again one more. An operator that ends is started again as the kubelet does it, with its
pauses. Clients ask for completions of some seconds all the while. What was created twice the API
server's audit log tells. Run with ``python -m benchmarks.outage``; ``--seconds`` of the outage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks import report
from benchmarks.operator_process import OPERATOR_USER
from benchmarks.rollout_rig.clients import Clients, Count, p99_of
from benchmarks.rollout_rig.rig import ELECTION, SERVICE, Rig, rig, stands, until
from slm_dev.controlplane import find_or_build
from slm_dev.local_node.backoff import RestartBackoff
from slm_dev.program import Program
from slm_dev.stack import Stack, StackSettings

NAME = "outage"
SECONDS = 600.0
PACKS = 2
CLIENTS = 12
OUTPUT_TOKENS = 128
COMPARED_SECONDS = 60.0
"""Of serving with an API server, before and after."""
LOOK_SECONDS = 1.0


@dataclass
class Course:
    """What happened. Latencies are of each request that ended in that part."""

    count: Count = field(default_factory=Count)
    before: array[float] = field(default_factory=lambda: array("d"))
    during: array[float] = field(default_factory=lambda: array("d"))
    after: array[float] = field(default_factory=lambda: array("d"))
    outage_seconds: float = 0.0
    converged_after_seconds: float = 0.0
    """From when the API server answered until what was asked for before and after it all served."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Of operators, by their name."""
    created: Counter[str] = field(default_factory=Counter)
    load_average: float = 0.0
    """Of the machine, over 15 minutes, at the end."""


async def measure(seconds: float) -> Course:
    """Raises TimeoutError where the spec is not followed after the outage at all."""
    binaries = await asyncio.to_thread(find_or_build, print)
    course = Course()
    with tempfile.TemporaryDirectory(prefix="slm-outage-") as folder:
        audit_log = Path(folder) / "audit.log"
        async with (
            Stack(binaries, StackSettings(audit_log=audit_log)) as stack,
            operators(stack, course.restarts),
            rig(stack, PACKS) as made,
        ):
            await suffer(made, seconds, course)
        with audit_log.open() as lines:
            course.created = created_by(OPERATOR_USER, lines)
    course.load_average = os.getloadavg()[2]
    return course


async def suffer(made: Rig, seconds: float, course: Course) -> None:
    """The outage under clients, and what is before and after."""
    clock = asyncio.get_running_loop().time
    clients = Clients(made.front, SERVICE, CLIENTS, OUTPUT_TOKENS)
    async with clients.running() as course.count:
        latencies = course.count.seconds
        await asyncio.sleep(COMPARED_SECONDS)
        await made.apply(packs=PACKS + 1)
        course.before = latencies[:]
        await made.stack.stop_apiserver()
        ended = clock()
        await asyncio.sleep(seconds)
        await made.stack.start_apiserver()
        back = clock()
        course.outage_seconds = back - ended
        course.during = latencies[len(course.before) :]
        await made.apply(packs=PACKS + 2)
        await made.settled(PACKS + 2)
        course.converged_after_seconds = clock() - back
        await asyncio.sleep(COMPARED_SECONDS)
        course.after = latencies[len(course.before) + len(course.during) :]


@asynccontextmanager
async def operators(stack: Stack, restarts: Counter[str]) -> AsyncIterator[None]:
    """Two in the place of the stack's own, from when one leads and the other stands by."""
    await stack.operator.stop()
    async with (
        aiohttp.ClientSession() as http,
        stack.another_operator("first", *ELECTION) as (first, first_url),
        stack.another_operator("second", *ELECTION) as (second, second_url),
    ):
        keeping = [asyncio.create_task(keep_running(first, restarts))]
        try:
            await until("the first leads", lambda: stands(http, first_url, "leader"))
            keeping.append(asyncio.create_task(keep_running(second, restarts)))
            await until("the second stands by", lambda: stands(http, second_url, "standby"))
            yield
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)


async def keep_running(program: Program, restarts: Counter[str]) -> None:
    """Starts a program, and again whenever it has ended."""
    clock = asyncio.get_running_loop().time
    backoff = RestartBackoff()
    while True:
        program.launch()
        began = clock()
        while not program.ended():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(LOOK_SECONDS)
        ran_seconds = clock() - began
        restarts[program.name] += 1
        await program.stop()
        await asyncio.sleep(backoff.wait_seconds(ran_seconds))
        backoff = backoff.after_run(ran_seconds)


def created_by(user: str, audit_lines: Iterable[str]) -> Counter[str]:
    """How often ``user`` created each object, events and leases aside."""
    created: Counter[str] = Counter()
    for line in audit_lines:
        event = json.loads(line)
        target = event.get("objectRef", {})
        if (
            event["user"]["username"] == user
            and event.get("responseStatus", {}).get("code") == 201
            and target.get("resource") not in ("events", "leases")
        ):
            created[f"{target['resource']} {target['namespace']}/{target['name']}"] += 1
    return created


def figures(course: Course) -> dict[str, report.Figure]:
    count = course.count
    return {
        "simulated": True,
        "clients": CLIENTS,
        "output_tokens": OUTPUT_TOKENS,
        "outage_seconds": course.outage_seconds,
        "sent": count.sent,
        "completed": count.completed,
        "retried": count.retried,
        "failed": count.failed,
        "lost": count.lost,
        "completed_during_outage": len(course.during),
        "p99_before_seconds": p99_of(course.before),
        "p99_during_seconds": p99_of(course.during),
        "p99_after_seconds": p99_of(course.after),
        "converged_after_seconds": course.converged_after_seconds,
        "operator_restarts": course.restarts.total(),
        "packs_created": sum(n for what, n in course.created.items() if what.startswith("pods ")),
        "objects_created": course.created.total(),
        "created_twice": sum(n > 1 for n in course.created.values()),
        "load_average_15m": course.load_average,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    seconds = parser.parse_args().seconds
    course = asyncio.run(measure(seconds))
    report.write(
        NAME,
        figures(course),
        f"python -m benchmarks.{NAME}" + (f" --seconds {seconds:g}" if seconds != SECONDS else ""),
        {
            "causes": dict(course.count.causes),
            "created": dict(course.created),
            "restarts": dict(course.restarts),
        },
    )


if __name__ == "__main__":
    main()
