"""The agent's log: one JSON object a line, bounded, and never anything that somebody waits for."""

from __future__ import annotations

import errno
import json
import logging
import threading
from typing import Any

from slm_worker.logs import MAX_TEXT_CHARACTERS, BoundedHandler, JsonFormatter

WAIT_SECONDS = 30.0


class Sink:
    """Standard output in the test's hands: ``fault`` is raised, ``open`` lets it take lines."""

    def __init__(self) -> None:
        self.taken = b""
        self.fault: OSError | None = None
        self.asked = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def write(self, lines: bytes) -> None:
        self.asked.set()
        assert self.open.wait(WAIT_SECONDS)
        if self.fault is not None:
            raise self.fault
        self.taken += lines

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.taken.splitlines()]


def handler(sink: Sink, max_waiting_bytes: int = 2**20) -> BoundedHandler:
    made = BoundedHandler(sink.write, max_waiting_bytes)
    made.setFormatter(JsonFormatter())
    return made


def say(to: logging.Handler, text: str, **more: object) -> None:
    record = logging.LogRecord("engine", logging.INFO, "x.py", 1, text, (), None)
    vars(record).update(more)
    to.handle(record)


def test_a_line_names_its_replica() -> None:
    sink = Sink()
    log = handler(sink)
    say(log, "loading weights", replica=2)
    log.flush()
    [line] = sink.lines()
    assert (line["message"], line["level"], line["replica"]) == ("loading weights", "info", 2)


def test_a_line_is_bounded() -> None:
    sink = Sink()
    log = handler(sink)
    say(log, "x" * 10 * MAX_TEXT_CHARACTERS)
    log.flush()
    assert len(sink.lines()[0]["message"]) == MAX_TEXT_CHARACTERS


def test_an_output_that_blocks_blocks_nobody_and_the_loss_is_told() -> None:
    sink = Sink()
    sink.open.clear()
    log = handler(sink, max_waiting_bytes=2_000)
    say(log, "first")
    assert sink.asked.wait(WAIT_SECONDS)
    for number in range(1_000):
        say(log, f"line {number}")
    sink.open.set()
    log.flush()
    messages = [line["message"] for line in sink.lines()]
    kept = [message for message in messages if message.startswith("line")]
    assert kept == [f"line {number}" for number in range(len(kept))]
    assert messages[1] == f"{1_000 - len(kept)} log lines were lost: standard output did not " + (
        "take them"
    )


def test_a_full_disk_or_a_closed_pipe_ends_nothing_and_the_loss_is_told() -> None:
    for number in (errno.ENOSPC, errno.EPIPE):
        sink = Sink()
        sink.fault = OSError(number, "no")
        log = handler(sink)
        say(log, "lost")
        log.flush()
        say(log, "lost too")
        log.flush()
        sink.fault = None
        say(log, "after")
        log.flush()
        messages = [line["message"] for line in sink.lines()]
        assert messages[0].startswith("2 log lines were lost")
        assert messages[1:] == ["after"]
