"""How `slmctl logs` shows the lines of agents and engines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from slm_operator.cli.logs_command import follow_packs, in_order, read_packs, readable
from slm_operator.cli.packs import ServicePack
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube
from slm_operator.decide.snapshot import Pack

STARTING = KubeError(400, "BadRequest", 'container "pack" is waiting to start: ContainerCreating')
DELETED = KubeError(404, "NotFound", 'pods "chat-pack-1" not found')
CUT = KubeError(0, "Unreachable", "the API server does not answer: Connection reset by peer")


def line(second: int, message: str, **more: Any) -> str:
    time = f"2026-01-01T00:00:{second:02}.000+00:00"
    return json.dumps({"time": time, "level": "info", "logger": "l", "message": message, **more})


def test_a_line_names_its_pack_and_replica() -> None:
    shown = readable("chat-pack-0", line(1, "ready after 0.6 s", replica=1))
    assert (
        shown == "2026-01-01T00:00:01.000+00:00  chat-pack-0 replica 1  INFO    ready after 0.6 s"
    )
    assert "chat-pack-0  INFO" in (readable("chat-pack-0", line(1, "plan")) or "")


def test_an_exception_follows_its_line() -> None:
    shown = readable("p", line(1, "failed", exception="Traceback\n  boom")) or ""
    assert shown.splitlines()[1:] == ["Traceback", "  boom"]


def test_what_is_no_line_of_the_agents_is_shown_as_it_is() -> None:
    for text in ("Segmentation fault", "[1, 2]", '{"no": "message"}', ""):
        assert readable("p", text) == f"p  {text}"


def test_one_replica_alone_can_be_asked_for() -> None:
    lines = [("p", line(1, "a", replica=0)), ("p", line(2, "b", replica=1)), ("p", line(3, "c"))]
    assert [text[-1] for text in in_order(lines, replica=1)] == ["b"]


def test_lines_of_several_packs_come_by_time_and_stray_ones_behind_the_line_before_them() -> None:
    lines = [
        ("p0", line(1, "first")),
        ("p0", "stray"),
        ("p0", line(5, "last")),
        ("p1", line(3, "between")),
    ]
    assert [text.split()[-1] for text in in_order(lines, None)] == [
        "first", "stray", "between", "last",
    ]  # fmt: skip


def test_a_log_that_begins_without_a_time_comes_with_the_next_line_of_its_pack() -> None:
    lines = [
        ("p0", line(1, "first")),
        ("p0", line(9, "last")),
        ("p1", "cut"),
        ("p1", line(5, "between")),
    ]
    assert [text.split()[-1] for text in in_order(lines, None)] == [
        "first", "cut", "between", "last",
    ]  # fmt: skip


class Logs:
    """What the API server answers, of each pack in turn: lines, or the error instead of them."""

    def __init__(self, **packs: list[list[str] | KubeError]) -> None:
        self._packs = packs

    async def log(self, namespace: str, pod: str, **_: Any) -> AsyncIterator[str]:
        answer = self._packs[pod].pop(0)
        if isinstance(answer, KubeError):
            raise answer
        for text in answer:
            yield text


def service_packs(*names: str) -> list[ServicePack]:
    return [
        ServicePack(
            "chat", False, Pack(ordinal, name, "uid", "", "hash", ready=True, terminating=False)
        )
        for ordinal, name in enumerate(names)
    ]


async def read(**packs: list[list[str] | KubeError]) -> list[tuple[str, str]]:
    kube = cast("Kube", Logs(**packs))
    return await read_packs(kube, "default", service_packs(*packs), tail=10)


async def followed(**packs: list[list[str] | KubeError]) -> None:
    kube, chosen = cast("Kube", Logs(**packs)), service_packs(*packs)
    await follow_packs(kube, "default", chosen, replica=None, tail=10, retry_seconds=0.0)


async def test_packs_whose_logs_cannot_be_read_are_named_and_the_others_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = await read(p0=[["of the first"]], p1=[STARTING], p2=[["of the last"]])
    assert lines == [("p0", "of the first"), ("p2", "of the last")]
    assert capsys.readouterr().err.splitlines() == [
        'the log of p1 cannot be read: container "pack" is waiting to start: ContainerCreating'
    ]


async def test_where_no_log_can_be_read_the_error_itself_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KubeError) as raised:
        await read(p0=[DELETED], p1=[STARTING])
    assert raised.value is STARTING
    assert capsys.readouterr().err == ""


async def test_a_pack_without_a_log_is_named_once_and_followed_when_it_has_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    await followed(p0=[["of the first"]], p1=[STARTING, STARTING, ["of the second"]])
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["p0  of the first", "p1  of the second"]
    assert shown.err.splitlines() == [
        "p1 is waiting to start and has no log yet: "
        'container "pack" is waiting to start: ContainerCreating'
    ]


@pytest.mark.parametrize("error", [DELETED, CUT])
async def test_a_pack_that_is_gone_or_cut_off_ends_alone(
    error: KubeError, capsys: pytest.CaptureFixture[str]
) -> None:
    await followed(p0=[error], p1=[STARTING, ["goes on"]])
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["p1  goes on"]
    assert f"p0 is not followed any more: {error.message}" in shown.err.splitlines()


async def test_where_no_pack_can_be_followed_the_error_itself_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KubeError) as raised:
        await followed(p0=[DELETED], p1=[CUT])
    assert raised.value is CUT
    assert capsys.readouterr().err.splitlines() == [
        f"p0 is not followed any more: {DELETED.message}"
    ]
