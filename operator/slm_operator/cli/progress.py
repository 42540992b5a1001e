"""The progress of a search: lines for a pipe, lines above a live table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from slm_operator.api.status import SLMServiceStatus
from slm_operator.cli import plot, story, tables
from slm_operator.cli.outcome import Outcome, Requests

REFRESHES_PER_SECOND = 2
ALWAYS_LINES = 8
"""Titles, gaps, progress and time of the live picture."""
REASON_LINES = 2
"""Of one point's reason on a narrow terminal."""
PICTURE_LINES = plot.HEIGHT + 6


@dataclass(frozen=True)
class Look:
    """A run at one moment."""

    status: SLMServiceStatus
    seconds: float
    """Since the run began."""
    requests: Requests | None = None
    """Those of its own clients, where it has some."""


class View(Protocol):
    def say(self, line: str) -> None:
        """Tells one thing for good."""
        ...

    def show(self, look: Look) -> None:
        """Tells what is new since the last look."""
        ...


class PlainView:
    """Prints what is new and nothing else."""

    def __init__(self, console: Console, before: SLMServiceStatus | None = None) -> None:
        """``before``: what has been told already."""
        self._console = console
        self._before = before or SLMServiceStatus()

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def show(self, look: Look) -> None:
        for line in story.news(self._before, look.status):
            self.say(f"[{look.seconds:5.0f} s] {line}")
        self._before = look.status


class LiveView(PlainView):
    """Prints what is new above a table that grows."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__(console)
        self._live = live

    def show(self, look: Look) -> None:
        super().show(look)
        self._live.update(live_picture(look, datetime.now(UTC), self._console.size.height))


@contextmanager
def view(console: Console) -> Iterator[View]:
    """The view that suits ``console``."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    with Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True) as live:
        yield LiveView(console, live)


def live_picture(look: Look, now: datetime, height: int) -> RenderableType:
    """The measured points so far with what became of them, what is being measured, and the
    clients' requests, in ``height`` lines: the picture gives way first, then the reasons."""
    parts: list[RenderableType] = [Text()]
    points = look.status.frontier
    if points:
        parts += [tables.points_table(points), Text()]
        room = height - len(points) - ALWAYS_LINES
        if room >= REASON_LINES * len(points):
            parts += [tables.reasons(points), Text()]
            room -= REASON_LINES * len(points)
        if len(points) > 1 and room >= PICTURE_LINES:
            parts += [tables.frontier(points), Text()]
    measuring = look.status.calibration.measuring if look.status.calibration else None
    if (starting := story.starting(look.status)) is not None:
        parts.append(Text(starting))
    elif measuring is not None:
        elapsed = (now - datetime.fromisoformat(measuring.since)).total_seconds()
        name = f"{measuring.replicas_per_pack} x {measuring.max_num_seqs}"
        left = max(0.0, measuring.window_seconds - elapsed)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"measuring {name}",
            ProgressBar(total=measuring.window_seconds, completed=max(0.0, elapsed), width=30),
            f"{left:.0f} s left" if left else "until it is certain enough",
        )
        parts.append(bar)
    elif (standing := tables.stands_at(look.status)) is not None:
        parts.append(Text(standing))
    requests = look.requests
    text = f"{look.seconds:.0f} s"
    if requests is not None:
        text += (
            f"; own clients: {requests.sent} requests sent, {requests.completed} completed, "
            f"{requests.failed} failed"
        )
    parts.append(Text(text))
    return Group(*parts)


def summary(outcome: Outcome, page: Path) -> RenderableType:
    """What a run found: points, picture, decision, requests and where the report lies."""
    points = outcome.service.status.frontier
    requests, load = outcome.requests, outcome.load
    sent = (
        f"Own clients: {requests.sent:,} requests sent, {requests.completed:,} completed, "
        f"{requests.failed:,} failed. Calibration load: {load.sent:,} sent, "
        f"{load.completed:,} completed, {load.failed:,} failed, "
        f"{load.cancelled:,} ended when no longer wanted."
    )
    if requests.failed:
        sent += f" The last failure: {requests.last_failure}"
    parts: list[RenderableType] = [
        Text(),
        tables.findings(points),
        Text(),
        Text(f"{outcome.sentence}.", style="bold"),
        Text(sent),
        Text(f"Report: {page} ({outcome.seconds:.0f} s, {outcome.gpu})"),
    ]
    if outcome.simulated:
        parts.append(Text(tables.SIMULATED_NOTE, style="yellow"))
    return Group(*parts)
