"""What the logs of the MPS daemon and its servers tell of a fatal fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.gpu.mps_log import MAX_CAUSE_CHARACTERS, LoggedFault, fault_in
from slm_worker.gpu.mps_logfiles import MAX_FILE_BYTES, LogFollower

TIME = "2026-04-28 18:20:41.986"
EVERYDAY = [
    f"[{TIME} Control 11107] Starting control daemon using socket /tmp/mps/control",
    f"[{TIME} Control 11107] User did not send valid credentials",
    f"[{TIME} Control 11107] NEW CLIENT 0 from user 0: Server is not ready, push client to list",
    f"[{TIME} Other 4428] Startup",
    f"[{TIME} Server 4428] Device pinned memory limit for device 0 set to 0x140000000 bytes",
    f"[{TIME} Server 4428] Client {{PID: 4267, Context ID: 0}} connected",
    f"[{TIME} Server 4428] Status of client {{4267, 1}} is ACTIVE",
    f"[{TIME} Server 4428] Receive command failed, assuming client exit",
    f"[{TIME} Server 4428] Using the default settings",
    f"[{TIME} Control 11107] Server 4428 exited with status 0",
]


def test_everyday_lines_tell_of_no_fault() -> None:
    assert fault_in(EVERYDAY) is None
    assert fault_in([]) is None


@pytest.mark.parametrize(
    "text",
    [
        "Recovered from a non-fatal error on client {PID: 5, Context ID: 0}",
        "Recovered from a nonfatal error",
        "No fatal error was found",
        "Client ended without fatal fault",
        "This exception is not fatal",
        "The error of client 5 is not a fatal one",
    ],
)
def test_what_is_said_not_to_be_fatal_is_no_fault(text: str) -> None:
    assert fault_in([f"[{TIME} Server 612] {text}"]) is None


@pytest.mark.parametrize(
    ("text", "pids"),
    [
        ("Server encountered a fatal exception. Shutting down", ()),
        ("Server 95 exited with status 1", ()),
        ("Failed to start : invalid argument", ()),
        ("MPS server encountered a fatal fault", ()),
        ("A non-fatal error became a fatal error", ()),
        ("Fatal GPU exception caused by client {PID: 4267, Context ID: 0}", (4267,)),
        ("A fatal error occurred in client process 4267", (4267,)),
        ("Status of client {4267, 1} is FAULT", (4267,)),
    ],
)
def test_knows_a_fatal_fault_and_whom_it_names(text: str, pids: tuple[int, ...]) -> None:
    line = f"[{TIME} Control    73] {text}"
    assert fault_in([*EVERYDAY, line]) == LoggedFault(f"Control: {text}", pids)


def test_the_first_of_several_lines_is_the_cause() -> None:
    fault = fault_in(
        [
            f"[{TIME} Server 95] Fatal GPU exception: MMU fault",
            f"[{TIME} Control 73] Server 95 exited with status 1",
        ]
    )
    assert fault == LoggedFault("Server: Fatal GPU exception: MMU fault")


def test_when_every_client_is_in_fault_none_is_blamed() -> None:
    fault = fault_in(f"Status of client {{{pid}, 1}} is FAULT" for pid in (100, 200))
    assert fault is not None
    assert fault.client_pids == ()


@given(st.lists(st.text()))
def test_any_text_is_read_and_the_quote_is_bounded(lines: list[str]) -> None:
    fault = fault_in(lines)
    assert fault is None or 0 < len(fault.cause) <= MAX_CAUSE_CHARACTERS


def test_follows_whole_lines_of_every_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = directory / "control.log"
    log.write_text("before\n")
    follower = LogFollower(directory)
    follower.skip()
    log.write_text("before\none\ntw")
    first = follower.new_lines()
    assert (first.lines, first.by_servers) == (("one",), False)
    log.write_text("before\none\ntwo\n")
    (directory / "uid_0").mkdir()
    (directory / "uid_0" / "server.log").write_text("three\n")
    second = follower.new_lines()
    assert (set(second.lines), second.by_servers) == ({"two", "three"}, True)
    assert follower.new_lines().lines == ()


def test_a_log_that_begins_anew_is_read_from_its_beginning(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    follower = LogFollower(directory)
    (directory / "control.log").write_text("a long line of the old one\n")
    follower.new_lines()
    (directory / "control.log").write_text("new\n")
    assert follower.new_lines().lines == ("new",)


def test_a_log_does_not_grow_without_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = directory / "server.log"
    log.write_text("x" * 99 + "\n")
    follower = LogFollower(directory)
    with log.open("a") as file:
        file.write(("y" * 99 + "\n") * (MAX_FILE_BYTES // 100))
    while follower.new_lines().lines:
        pass
    assert log.stat().st_size == 0
    log.write_text("after\n")
    assert follower.new_lines().lines == ("after",)


def test_clients_that_come_and_go_on_a_real_h200_are_no_fault() -> None:
    """Driver 580 while two engines failed of their own; 806 says that a client left."""
    log = Path(__file__).parents[1] / "fixtures" / "mps" / "driver-580-h200-server.log"
    lines = log.read_text().splitlines()
    assert sum("assuming client" in line for line in lines) == 4
    assert fault_in(lines) is None


def test_a_client_that_was_told_to_exit_on_a_real_h100_is_no_fault() -> None:
    """Driver 580, one of four engines that shared the GPU: the others' contexts stay."""
    log = Path(__file__).parents[1] / "fixtures" / "mps" / "driver-580-h100-terminate-client.log"
    lines = log.read_text().splitlines()
    told = next(i for i, line in enumerate(lines) if "requesting client {PID: 1886" in line)
    assert lines[told + 1].endswith("Client termination succeeded.")
    assert any("Number of active client contexts is 3" in line for line in lines[told:])
    assert fault_in(lines) is None
