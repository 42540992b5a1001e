"""The operator's log for machines: each line an object that says what it is about."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from builders import service
from slm_operator.api.status import HistoryEntry
from slm_operator.decide.explanation import decision_id
from slm_operator.logs import JsonFormatter, about


def line(message: str = "m", **more: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"name": "l", "levelname": "INFO", "msg": message} | more)
    found: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return found


def test_outside_a_pass_a_line_is_about_no_service() -> None:
    assert line("listening").keys() == {"time", "level", "logger", "message"}


async def test_within_a_pass_it_is_about_that_service_alone() -> None:
    async def one_pass(name: str) -> dict[str, Any]:
        about(service(name=name, uid=f"u-{name}"))
        await asyncio.sleep(0)
        return line()

    first, second = await asyncio.gather(one_pass("chat"), one_pass("code"))
    assert (first["namespace"], first["name"], first["uid"], first["generation"]) == (
        "default", "chat", "u-chat", 1,
    )  # fmt: skip
    assert second["name"] == "code"
    assert "name" not in line()


def test_a_decision_is_named_by_its_id_and_an_exception_is_told() -> None:
    assert line(decision="0123456789ab")["decision"] == "0123456789ab"
    assert "decision" not in line(decision="")
    try:
        raise ValueError("boom")
    except ValueError as error:
        told = line(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: boom" in told["exception"]


def test_an_id_follows_from_what_the_history_holds() -> None:
    entry = HistoryEntry.model_validate(
        {"time": "2026-01-01T00:00:00Z", "from": "a", "to": "b", "reason": "R", "message": "m"}
    )
    assert decision_id("u", entry) == decision_id("u", entry.model_copy())
    others = [decision_id("v", entry)] + [
        decision_id("u", entry.model_copy(update=change))
        for change in ({"time": "2026-01-01T00:00:01Z"}, {"to": "c"}, {"message": "n"})
    ]
    assert len({decision_id("u", entry), *others}) == 5
