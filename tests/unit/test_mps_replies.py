"""What the MPS control program answers, in both of its protocols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.gpu.mps_replies import (
    MpsServer,
    ReplyError,
    UnknownCommandError,
    csv_clients,
    csv_servers,
    pids,
    server_state,
)


@pytest.mark.parametrize(
    ("form", "reply", "expected"),
    [
        ("nobody", "", ()),
        ("nobody, in words", "No servers\n", ()),
        ("one a line", "30112\n30119\n", (30112, 30119)),
        ("all in one line", "30112 30119 \n", (30112, 30119)),
        ("of another process namespace", "0\n30112\n", (30112,)),
    ],
)
def test_reads_process_ids(form: str, reply: str, expected: tuple[int, ...]) -> None:
    assert pids(reply) == expected, form


@pytest.mark.parametrize("reply", ["Server 123 not found\n", "-1\n", "cannot connect\n"])
def test_does_not_take_a_message_for_process_ids(reply: str) -> None:
    with pytest.raises(ReplyError):
        pids(reply)


@pytest.mark.parametrize("reply", ["Unknown command get_client_list\n", "Invalid command\n"])
def test_knows_that_a_release_lacks_a_command(reply: str) -> None:
    with pytest.raises(UnknownCommandError):
        pids(reply)
    with pytest.raises(UnknownCommandError):
        server_state(reply)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("ACTIVE\n", "Active"),
        ("INITIALIZING\n", "Initializing"),
        ("Server 123: FAULT\n", "Fault"),
        ("the default\n", "Unknown"),
        ("", "Unknown"),
    ],
)
def test_reads_a_server_s_state(reply: str, expected: str) -> None:
    assert server_state(reply) == expected


def test_reads_the_servers_of_protocol_3() -> None:
    reply = "uid_0,0,48201,Ready,/run/mps,GPU-ab,-\nidle,0,-,Stopped,/run/mps,-,-\n"
    assert csv_servers(reply) == (MpsServer(48201, "Active"),)
    assert csv_servers("uid_0,0,48201,Fault,/run/mps,GPU-ab,-\n")[0].state == "Fault"


def test_reads_the_clients_of_protocol_3_whatever_their_command_lines_hold() -> None:
    reply = '51023,uid_0,0,default,"vllm serve, quietly"\n51087,uid_0,0,default,x\n'
    assert csv_clients(reply) == (51023, 51087)


@pytest.mark.parametrize("reply", ["no server\n", ",,,\n"])
def test_does_not_take_a_message_for_servers(reply: str) -> None:
    with pytest.raises(ReplyError):
        csv_servers(reply)


@given(st.lists(st.integers(1, 2**22)), st.sampled_from([" ", "\n", "\r\n", " \n"]))
def test_every_list_of_process_ids_is_read_back(listed: list[int], separator: str) -> None:
    assert pids(separator.join(map(str, listed))) == tuple(listed)


@given(st.text())
def test_no_answer_is_worse_than_not_understood(reply: str) -> None:
    for read in (pids, csv_servers, csv_clients):
        try:
            found = read(reply)
        except ReplyError:
            continue
        assert all((one if isinstance(one, int) else one.pid) > 0 for one in found)
