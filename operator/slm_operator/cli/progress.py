"""The demo's progress: lines for a pipe, lines above a live table for a terminal."""

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
from slm_operator.cli import story, tables
from slm_operator.cli.outcome import Outcome, Requests

REFRESHES_PER_SECOND = 2


@dataclass(frozen=True)
class Look:
    """The demo at one moment."""

    status: SLMServiceStatus
    requests: Requests
    seconds: float
    """Since the demo began."""


class View(Protocol):
    def say(self, line: str) -> None:
        """Tells one thing for good."""
        ...

    def show(self, look: Look) -> None:
        """Tells what is new since the last look."""
        ...


class PlainView:
    """Prints what is new and nothing else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before = SLMServiceStatus()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

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
        self._live.update(live_picture(look, datetime.now(UTC)))


@contextmanager
def view(console: Console) -> Iterator[View]:
    """The view that suits ``console``."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    with Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True) as live:
        yield LiveView(console, live)


def live_picture(look: Look, now: datetime) -> RenderableType:
    """The measured points so far, what is being measured, and the clients' requests."""
    parts: list[RenderableType] = [Text()]
    if look.status.frontier:
        parts += [tables.points_table(look.status.frontier), Text()]
    measuring = look.status.calibration.measuring if look.status.calibration else None
    if measuring is not None:
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
    requests = look.requests
    parts.append(
        Text(
            f"{look.seconds:.0f} s; own clients: {requests.sent} requests sent, "
            f"{requests.completed} completed, {requests.failed} failed"
        )
    )
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
        tables.points_table(points),
        Text(),
        tables.frontier(points),
        Text(),
        tables.reasons(points),
        Text(),
        Text(f"{outcome.sentence}.", style="bold"),
        Text(sent),
        Text(f"Report: {page} ({outcome.seconds:.0f} s, {outcome.gpu})"),
    ]
    if outcome.simulated:
        parts.append(Text(tables.SIMULATED_NOTE, style="yellow"))
    return Group(*parts)
