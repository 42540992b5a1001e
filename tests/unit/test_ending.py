"""What clients lose when a pack ends: nothing that its router can still answer in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slm_worker import ending
from slm_worker.routing.router import RouterError

SILENT = RouterError("HAProxy did not answer 'show stat': TimeoutError()")
Look = tuple[int, int] | RouterError
"""Requests in flight and requests that wait."""


class Router:
    """Each look tells the next of ``looks``, the last again and again, and takes a second.
    ``refusals``: so often HAProxy does not answer when it shall refuse what waits."""

    def __init__(self, looks: list[Look], refusals: int = 0) -> None:
        self.now_seconds = 0.0
        self.looks = looks
        self.refusals = refusals
        self.alive = True
        self.told: list[str] = []
        self.finish_seconds: float | None = None
        self.after_look: Callable[[], None] = lambda: None

    async def stats(self) -> SimpleNamespace:
        self.now_seconds += 1
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.after_look()
        if isinstance(look, RouterError):
            raise look
        return SimpleNamespace(in_flight={0: look[0]}, queued=look[1])

    async def refuse_held(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise SILENT
        self.told.append("refuse")

    async def finish(self, seconds: float) -> bool:
        self.told.append("finish")
        self.finish_seconds = seconds
        return True

    async def drain_all(self) -> None:
        self.told.append("drain all")

    async def ends(self) -> None:
        async with asyncio.timeout(30):
            await ending.drain(
                cast(Any, self),
                cast(Any, self),
                clock=lambda: self.now_seconds,
                ticked=lambda: None,
            )


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "POLL_SECONDS", 0)


async def test_a_pack_that_nobody_asks_ends_at_once() -> None:
    router = Router([(0, 0)])
    await router.ends()
    assert router.told == ["finish"]
    assert router.finish_seconds == 24


async def test_it_serves_until_nobody_asks_any_more() -> None:
    router = Router([(3, 1), (2, 0), (0, 0)])
    await router.ends()
    assert router.told == ["finish"]
    assert router.finish_seconds == 22


async def test_what_waits_after_ten_seconds_is_refused_and_what_runs_has_the_rest() -> None:
    router = Router([(3, 1)])
    await router.ends()
    assert router.told == ["drain all", "refuse", "finish"]
    assert router.finish_seconds == 25 - 11


async def test_a_router_that_once_does_not_answer_is_asked_again() -> None:
    router = Router([(3, 0), SILENT, (3, 0), (0, 0)])
    await router.ends()
    assert router.told == ["finish"]
    assert router.finish_seconds == 25 - 4


async def test_what_waits_is_refused_at_the_second_try() -> None:
    router = Router([(3, 1)], refusals=1)
    await router.ends()
    assert router.told[-2:] == ["refuse", "finish"]


async def test_a_router_that_never_answers_has_time_for_what_it_works_on() -> None:
    router = Router([SILENT])
    await router.ends()
    assert router.told == ["finish"]
    assert router.finish_seconds == 25 - 15


async def test_a_router_that_dies_has_nothing_to_drain() -> None:
    router = Router([SILENT])

    def die() -> None:
        router.alive = False

    router.after_look = die
    await router.ends()
    assert router.told == ["finish"]
    assert router.finish_seconds == 24
