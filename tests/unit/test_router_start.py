"""What keeps HAProxy from starting is an error of the router, which the agent survives."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from slm_worker.routing.config import RouterSettings
from slm_worker.routing.haproxy import HaproxyProcess
from slm_worker.routing.router import RouterError
from slm_worker.wire import Routing


def refuse_to_write(_: Path, text: str) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def refuse_to_start(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("owner", "name", "refuse", "said"),
    [
        (Path, "write_text", refuse_to_write, "No space left on device"),
        (asyncio, "create_subprocess_exec", refuse_to_start, "Too many open files"),
    ],
    ids=["a full disk", "no descriptors"],
)
async def test_a_start_without_room_says_what_is_short(
    owner: object,
    name: str,
    refuse: object,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, refuse)
    settings = RouterSettings("127.0.0.1", 8000, "127.0.0.1", tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(RouterError, match=f"cannot be started: .*{said}"),
    ):
        await HaproxyProcess.start(settings, Routing(), listener)
