"""Keeps the calibration load as the plan wants it, over changes of rotation and of the load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from slm_worker.load import saturating_concurrency
from slm_worker.routing.limits import max_in_flight
from slm_worker.wire import Load, LoadState

UNATTENDED_SECONDS = 60.0
"""Whoever measures under the load asks every second. Longest without a question are an operator
that cannot write what it found (15 s, and 15 s more until a request is given up), and the time
until another leads (15 s). Without the API server nobody leads, and nobody measures."""
UNATTENDED_MESSAGE = (
    f"the load was ended, since no operator asked for {UNATTENDED_SECONDS:g} s; "
    "the next plan with a load starts one"
)


class LoadGenerator(Protocol):
    """Sends one kind of request; see :class:`slm_worker.load.SaturatingLoad`."""

    def state(self) -> LoadState: ...
    async def set_concurrency(self, concurrency: int) -> None: ...
    async def stop(self) -> None: ...


class CalibrationLoad:
    """``make`` makes a generator, which sends nothing before its concurrency is set."""

    def __init__(self, make: Callable[[Load], LoadGenerator]) -> None:
        self._make = make
        self._load: Load | None = None
        self._generator: LoadGenerator | None = None
        self._concurrency = 0
        self._before = LoadState()

    @property
    def state(self) -> LoadState:
        """Over all generators there were."""
        if self._generator is None:
            return self._before
        return _sum(self._before, self._generator.state())

    async def match(self, load: Load | None, rotation: int, max_num_seqs: int) -> None:
        """Sends ``load`` so that it saturates ``rotation`` replicas; None ends it. Raises
        LoadTooLongError, and sends nothing then."""
        if load != self._load:
            await self._end()
            self._load = load
        if load is None:
            return
        if self._generator is None:
            self._generator = self._make(load)
        concurrency = saturating_concurrency(rotation, max_in_flight(max_num_seqs))
        if concurrency != self._concurrency:
            await self._generator.set_concurrency(concurrency)
            self._concurrency = concurrency

    async def _end(self) -> None:
        if self._generator is None:
            return
        await self._generator.stop()
        self._before = _sum(self._before, self._generator.state())
        self._generator = None
        self._concurrency = 0


def _sum(one: LoadState, other: LoadState) -> LoadState:
    return LoadState(
        sent=one.sent + other.sent,
        completed=one.completed + other.completed,
        failed=one.failed + other.failed,
        turned_away=one.turned_away + other.turned_away,
        cancelled=one.cancelled + other.cancelled,
        in_flight=one.in_flight + other.in_flight,
        last_failure=other.last_failure or one.last_failure,
    )
