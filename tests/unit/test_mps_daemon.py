"""MpsDaemon over commands of which the test decides how each ends."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.mps import MpsDaemon, MpsTimings
from slm_worker.gpu.mps_control import (
    ControlError,
    ControlNotRunError,
    MpsControl,
    MpsDirectories,
)
from slm_worker.gpu.mps_replies import MpsServer

WELL = (MpsServer(4428, "Active"),)
NOT_RUN = ControlNotRunError("Resource temporarily unavailable")
UNANSWERED = ControlError("no answer")
AT_ONCE = MpsTimings(look_seconds=0, log_seconds=0, recover_seconds=60, quit_seconds=0.1)


FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


class Commands:
    """A daemon that is well, after it has answered with each of ``outcomes``."""

    def __init__(self) -> None:
        self.outcomes: list[Exception | Sequence[MpsServer]] = []
        self.looks = 0
        self.started = 0

    async def start_daemon(self, _: MpsControl) -> None:
        self.started += 1

    async def start_server(self, _: MpsControl, uid: int) -> None:
        pass

    async def servers(self, _: MpsControl) -> Sequence[MpsServer]:
        self.looks += 1
        outcome = self.outcomes.pop(0) if self.outcomes else WELL
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def seen(self) -> None:
        """Until all outcomes were seen, and what follows from the last."""
        async with asyncio.timeout(60):
            while self.outcomes:
                await asyncio.sleep(0.001)
            looks = self.looks
            while self.looks < looks + 2:
                await asyncio.sleep(0.001)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(MpsControl, "program", "/bin/true")
    for name in ("start_daemon", "start_server", "servers"):
        monkeypatch.setattr(MpsControl, name, method(getattr(commands, name)))
    return commands


def method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda control, *arguments: function(control, *arguments)


@pytest.fixture
async def daemon(commands: Commands, tmp_path: Path) -> AsyncIterator[MpsDaemon]:
    daemon = await MpsDaemon.start(tmp_path, timings=AT_ONCE)
    assert daemon.status.state == "Running"
    yield daemon
    await daemon.close()


async def faulted(daemon: MpsDaemon) -> None:
    async with asyncio.timeout(60):
        while daemon.status.state != "Faulted":
            await asyncio.sleep(0.001)


async def test_a_daemon_that_does_not_answer_twice_is_at_fault(
    daemon: MpsDaemon, commands: Commands
) -> None:
    commands.outcomes = [UNANSWERED, UNANSWERED]
    await faulted(daemon)
    assert "does not answer" in daemon.status.message


async def test_that_nobody_can_ask_the_daemon_says_nothing_against_it(
    daemon: MpsDaemon, commands: Commands
) -> None:
    commands.outcomes = [UNANSWERED, *[NOT_RUN] * 5]
    await commands.seen()
    assert (daemon.status.state, daemon.status.faults) == ("Running", 0)


async def test_that_nobody_can_ask_the_daemon_is_waited_for_when_it_recovers(
    daemon: MpsDaemon, commands: Commands
) -> None:
    commands.outcomes = [NOT_RUN] * 5
    await daemon.recover()
    assert (daemon.status.state, commands.started) == ("Running", 1)


@pytest.mark.parametrize(
    ("on", "name", "error", "said"),
    [
        (Path, "mkdir", FULL_DISK, "No space left on device"),
        (
            MpsControl,
            "start_daemon",
            ControlNotRunError("Resource temporarily unavailable"),
            "temporarily unavailable",
        ),
    ],
    ids=["a full disk", "no process left"],
)
async def test_what_keeps_a_daemon_from_being_started_now_is_an_error_of_the_device_that_may_pass(
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on: type,
    name: str,
    error: Exception,
    said: str,
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(on, name, refuse)
        with pytest.raises(DeviceError, match=said):
            await MpsDaemon.start(tmp_path, timings=AT_ONCE)
    daemon = await MpsDaemon.start(tmp_path, timings=AT_ONCE)
    assert daemon.status.state == "Running"
    await daemon.close()


async def test_a_full_disk_while_it_recovers_is_told_and_it_stays_at_fault(
    daemon: MpsDaemon, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise FULL_DISK

    commands.outcomes = [UNANSWERED, UNANSWERED]
    await faulted(daemon)
    commands.outcomes = [UNANSWERED]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        await daemon.recover()
    assert (daemon.status.state, daemon.status.faults) == ("Faulted", 1)
    assert "No space left on device" in daemon.status.message
    await daemon.recover()
    assert (daemon.status.state, commands.started) == ("Running", 1)


@pytest.mark.parametrize(
    "refusal",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
    ids=str,
)
async def test_a_program_that_cannot_be_run_here_is_told_from_a_daemon_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    async def refuse(*_: object, **__: object) -> NoReturn:
        raise refusal

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    control = MpsControl(MpsDirectories(tmp_path / "pipe", tmp_path / "log"), 60)
    with pytest.raises(ControlNotRunError, match="cannot be run"):
        await control.servers()


async def test_the_daemon_counts_gpus_as_its_clients_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[dict[str, str]] = []

    async def note(*_: object, env: dict[str, str], **__: object) -> NoReturn:
        environments.append(env)
        raise OSError(errno.ENOENT, "no program")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", note)
    environ = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    control = MpsControl(MpsDirectories(tmp_path, tmp_path), 60, environ)
    with pytest.raises(ControlNotRunError):
        await control.start_daemon()
    assert environments[0]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in environments[0]
