"""The fleet over real processes: starts that stall, faults, standby, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from multiprocessing import shared_memory
from pathlib import Path

import aiohttp
import psutil
import pytest

import stub_engine
from agent_process import loopback_address
from slm_worker.engine.base import EngineCommand, ReplicaSpec
from slm_worker.engine.causes import find_cause
from slm_worker.gpu.base import DeviceReading, MpsStatus
from slm_worker.replicas.fleet import Fleet
from slm_worker.replicas.leftovers import (
    MARKER_VARIABLE,
    claim,
    end_engines,
    marker,
    remove_files,
)
from slm_worker.replicas.member import Replica
from slm_worker.replicas.planner import Settings, Target
from slm_worker.replicas.progress import StartDeadlines
from slm_worker.replicas.replica import EngineHost
from slm_worker.replicas.witness import StartWitness
from slm_worker.wire import ReplicaPhase

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it
WAIT_SECONDS = 60.0


class StubEngine:
    can_sleep = True

    def __init__(self) -> None:
        self.options: list[str] = []
        self.knows_sleep = True
        """Whether the program has what :attr:`can_sleep` promises."""

    def command(self, spec: ReplicaSpec) -> EngineCommand:
        argv = [sys.executable, "-S", stub_engine.__file__, "--port", str(spec.port)]
        if spec.sleep_mode and self.knows_sleep:
            argv.append("--enable-sleep-mode")
        return EngineCommand((*argv, *self.options), {})

    def explain_exit(
        self, returncode: int, log_tail: str, *, was_ready: bool = False
    ) -> tuple[str, str]:
        return find_cause(log_tail, was_ready=was_ready) or (
            "EngineExited",
            f"exited with {returncode}",
        )


class StubDevice:
    def __init__(self) -> None:
        self.mps = MpsStatus("Running")
        self.released: list[int] = []
        self.lived_at_recovery: list[int] = []
        self.watched: list[psutil.Process] = []

    def engine_env(self, memory_fraction: float | None = None) -> dict[str, str]:
        return {}

    async def read(self) -> DeviceReading:
        return DeviceReading(energy_millijoules=None, power_watts=None)

    async def release(self, pids: Collection[int]) -> None:
        assert all(psutil.pid_exists(pid) for pid in pids), "before they are killed"
        self.released.extend(pids)

    async def recover(self) -> None:
        self.lived_at_recovery = [one.pid for one in self.watched if one.is_running()]
        self.mps = MpsStatus("Running", faults=1)


class SilentRouter:
    def __init__(self) -> None:
        self.admitted: set[int] = set()

    async def set_endpoint(self, index: int, port: int, max_in_flight: int) -> None: ...

    async def admit(self, index: int) -> None:
        self.admitted.add(index)

    async def drain(self, index: int) -> None:
        self.admitted.discard(index)

    async def eject(self, index: int) -> None:
        self.admitted.discard(index)


class Rig:
    def __init__(self, run_dir: Path, http: aiohttp.ClientSession) -> None:
        self.address = loopback_address()
        self.engine, self.device, self.router = StubEngine(), StubDevice(), SilentRouter()
        self.host = EngineHost(
            engine=self.engine,
            model_name="m",
            address="127.0.0.1",
            pack_address=self.address,
            run_dir=run_dir,
            cache_dir=run_dir / "cache",
            agent_env=os.environ,
            device=self.device,
            witness=StartWitness(self.device.read, lambda started: None),
            http=http,
            clock=time.monotonic,
        )
        self.fleet = self.make()

    def make(self, deadlines: StartDeadlines | None = None) -> Fleet:
        self.fleet = Fleet(
            replace(self.host, deadlines=deadlines or StartDeadlines()),
            self.router,
            clock=time.monotonic,
            wake=lambda: None,
            last_reading=_nothing,
        )
        return self.fleet

    async def until(
        self, target: Target, what: str, condition: Callable[[dict[int, Replica]], object]
    ) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            await self.fleet.step(target, {})
            if condition(self.fleet.replicas):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {WAIT_SECONDS} s: {what}; {self.fleet.replicas}")

    async def settle(self, target: Target) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not await self.fleet.step(target, {}):
            assert time.monotonic() < deadline, self.fleet.replicas
            await asyncio.sleep(0.05)

    def process(self, index: int) -> psutil.Process:
        run = self.fleet.replicas[index].run
        assert run is not None
        return psutil.Process(run.process.pid)

    def child_of(self, index: int) -> psutil.Process:
        [child] = self.process(index).children()
        return child


async def _nothing() -> None:
    """Reads no counters."""


def target(replicas: int, rotation: int | None = None, *, asleep: bool = False) -> Target:
    settings = Settings(8, None, None, Fraction(1, replicas))
    return Target(replicas, rotation or replicas, settings, asleep)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with aiohttp.ClientSession() as http:
        rig = Rig(tmp_path, http)
        yield rig
        await rig.fleet.close()


def reason(replicas: dict[int, Replica], index: int = 0) -> str | None:
    problem = replicas[index].problem if index in replicas else None
    return problem.reason if problem else None


async def test_a_start_that_repeats_itself_is_ended_with_its_last_line(rig: Rig) -> None:
    rig.engine.options = ["--say", "loading", "--never-ready"]
    rig.make(StartDeadlines(silent_seconds=4.0))

    def given_up(them: dict[int, Replica]) -> bool:
        problem = them[0].problem if 0 in them else None
        if problem is None:
            return False
        assert problem.reason == "StartStalled", problem
        # A busy machine may end a start before Python wrote a line; the next one tells more.
        assert any(line in problem.message for line in ("still waiting", "none at all")), problem
        return "still waiting" in problem.message

    await rig.until(target(1), "given up with its last line", given_up)
    assert rig.device.released, "the device let go of it first"


async def test_a_start_that_goes_on_outlasts_the_silence_that_is_allowed(rig: Rig) -> None:
    steps = [part for number in range(13) for part in ("--say", f"shard {number}")]
    rig.engine.options = [*steps, "--pause-seconds", "1"]
    # Longer than a busy machine takes to start Python.
    silent_seconds = 10.0
    rig.make(StartDeadlines(silent_seconds=silent_seconds))
    await rig.settle(target(1))
    one = rig.fleet.replicas[0]
    assert one.failures == 0
    assert one.start_seconds is not None and one.start_seconds > silent_seconds


async def test_a_replica_that_ends_leaves_no_descendant(rig: Rig) -> None:
    rig.engine.options = ["--child"]
    await rig.settle(target(1))
    child = rig.child_of(0)
    rig.process(0).kill()
    await rig.until(target(1), "seen", lambda them: reason(them) == "EngineExited")
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert child.pid in rig.device.released


async def test_after_a_fault_the_whole_set_ends_and_comes_back(rig: Rig) -> None:
    await rig.settle(target(2))
    before = [rig.process(index) for index in range(2)]
    rig.device.watched = before
    rig.device.mps = MpsStatus("Faulted", "Xid 31", faults=1)
    await rig.until(target(2), "out", lambda _: not rig.router.admitted)
    await rig.until(target(2), "ended", lambda _: rig.device.mps.state == "Running")
    assert rig.device.lived_at_recovery == []
    assert {one.pid for one in before} <= set(rig.device.released)
    starting = 0

    def serving(them: dict[int, Replica]) -> bool:
        nonlocal starting
        starting = max(starting, sum(one.phase is ReplicaPhase.STARTING for one in them.values()))
        return rig.router.admitted == {0, 1}

    await rig.until(target(2), "back", serving)
    assert starting == 1
    assert [one.starts for one in rig.fleet.replicas.values()] == [2, 2]


async def test_a_sleeping_replica_joins_without_a_start(rig: Rig) -> None:
    await rig.settle(target(2, 1, asleep=True))
    assert rig.fleet.replicas[1].phase is ReplicaPhase.ASLEEP
    assert rig.router.admitted == {0}
    await rig.settle(target(2, 2, asleep=True))
    assert rig.router.admitted == {0, 1}
    assert rig.fleet.starts == 2


async def test_an_engine_without_the_path_to_sleep_stays_awake(rig: Rig) -> None:
    rig.engine.knows_sleep = False
    await rig.settle(target(2, 1, asleep=True))
    assert "POST /sleep?level=1 was answered with 404" in rig.fleet.cannot_sleep
    assert [one.phase for one in rig.fleet.replicas.values()] == [ReplicaPhase.READY] * 2
    assert rig.fleet.starts == 2


async def test_engines_of_a_killed_agent_are_ended_and_others_left(
    rig: Rig, tmp_path: Path
) -> None:
    own, old, foreign = (tmp_path / f"slm-{name}" for name in ("own", "old", "foreign"))
    for directory, address in ((own, rig.address), (old, rig.address), (foreign, "127.9.9.9")):
        directory.mkdir()
        claim(directory, address)
    # One that ignores SIGTERM, as vLLM does in parts of its start.
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    left = _orphan(stubborn, marker(rig.address, 0))
    other = _orphan(["sleep", "600"], marker("127.9.9.9", 0))
    try:
        await end_engines(rig.address)
        await remove_files(rig.address, own)
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
        assert own.is_dir() and foreign.is_dir() and not old.exists()
    finally:
        for process in (left, other):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_shared_memory_of_dead_engines_is_removed_and_that_of_the_living_kept(
    rig: Rig, tmp_path: Path
) -> None:
    living = shared_memory.SharedMemory(create=True, size=4096)
    make = (
        "from multiprocessing import resource_tracker, shared_memory as s\n"
        "m = s.SharedMemory(create=True, size=4096)\n"
        "resource_tracker.unregister(m._name, 'shared_memory')\n"
        "print(m.name)\n"
    )
    dead = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", make], capture_output=True, text=True, check=True
    )
    left = SHARED_MEMORY / dead.stdout.strip()
    try:
        assert left.exists()
        await remove_files(rig.address, tmp_path / "own")
        assert not left.exists()
        assert (SHARED_MEMORY / living.name).exists()
    finally:
        living.close()
        living.unlink()


def test_a_standard_output_that_nobody_reads_or_that_is_full_holds_up_nothing() -> None:
    program = (
        "import logging, sys\n"
        "from slm_worker.logs import configure_logs\n"
        "configure_logs()\n"
        "for number in range(20_000):\n"
        "    logging.getLogger('engine').info('%s', 'x' * 400)\n"
        "print('done', file=sys.stderr)\n"
    )
    reading, writing = os.pipe()
    try:
        for output in (writing, os.open("/dev/full", os.O_WRONLY)):
            done = subprocess.run(
                [sys.executable, "-c", program],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=WAIT_SECONDS,
            )
            assert (done.returncode, done.stderr) == (0, "done\n")
            os.close(output)
    finally:
        os.close(reading)


def _orphan(argv: list[str], mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env={**os.environ, MARKER_VARIABLE: mark}, start_new_session=True)
