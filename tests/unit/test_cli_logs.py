"""How `slmctl logs` shows the lines of agents and engines."""

from __future__ import annotations

import json
from typing import Any

from slm_operator.cli.logs_command import in_order, readable


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
