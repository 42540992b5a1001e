"""PURE: what to ask HAProxy for, and what its tables say of the router's requests.

HAProxy counts every request once at the frontend, by the class of its answer, and once more for
the server that got it. It counts from its own start; :class:`Counts` adds up over several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slm_worker.routing.config import (
    BALANCES,
    DESCRIBE,
    FULL,
    HOLD_ID,
    Balance,
    slot_name,
)
from slm_worker.wire import RoutedReplica, RouterState

_FRONTEND, _BACKEND, _SERVER = 1, 2, 4
"""Kinds of rows, as ``show stat`` takes them."""
_ANSWERED = ("served", "answered_4xx", "answered_5xx", "unanswered")
_Row = Mapping[str, int]


@dataclass(frozen=True)
class Counts:
    """Cumulative, by the names of :class:`RouterState` and :class:`RoutedReplica`."""

    router: Counter[str]
    slots: Mapping[int, Counter[str]]

    @property
    def in_progress(self) -> int:
        return self.router["requests"] - sum(self.router[name] for name in _ANSWERED)

    def plus(self, other: Counts) -> Counts:
        indices = self.slots.keys() | other.slots.keys()
        nothing: Counter[str] = Counter()
        return Counts(
            self.router + other.router,
            {i: self.slots.get(i, nothing) + other.slots.get(i, nothing) for i in indices},
        )

    def ended(self) -> Counts:
        """These counts once HAProxy is gone: nothing is in progress any more."""
        return Counts(self.router + Counter(lost=self.in_progress), self.slots)


NO_COUNTS = Counts(Counter(), {})


@dataclass(frozen=True)
class RouterStats:
    """One look at the router."""

    queued: int
    """Requests that wait here for a replica."""
    balanced: Mapping[Balance, Mapping[int, int]]
    """Requests that a replica works on, by the backend that gave them and by slot index."""
    described: Mapping[int, int]
    """The same for requests that take no place in a batch."""
    counts: Counts
    """Since HAProxy's start."""

    @property
    def in_flight(self) -> Mapping[int, int]:
        """Requests that a replica works on, by slot index."""
        return {
            index: described + sum(self.balanced[balance][index] for balance in BALANCES)
            for index, described in self.described.items()
        }

    @property
    def idle(self) -> bool:
        return not (self.counts.in_progress or self.queued or any(self.in_flight.values()))


NO_STATS = RouterStats(0, {balance: {} for balance in BALANCES}, {}, NO_COUNTS)


def commands(slots: Iterable[int]) -> list[str]:
    """What to ask: only rows that matter, since HAProxy takes 20 microseconds for each."""
    rows = [("router", _FRONTEND, -1), (FULL, _BACKEND, -1), (DESCRIBE, _BACKEND, -1)]
    for balance in BALANCES:
        rows += [(balance, _BACKEND, -1), (balance, _SERVER, HOLD_ID)]
    for index in slots:
        rows += [(name, _SERVER, index + 1) for name in (*BALANCES, DESCRIBE)]
    return [f"show stat {name} {kind} {number}" for name, kind, number in rows]


def parse_stats(text: str, *, held: int, slots: Iterable[int]) -> RouterStats:
    """Reads the answers to :func:`commands`. ``held`` requests are with the holder and count as
    queued. Raises ValueError or KeyError for anything else."""
    table = _table(text)
    indices = list(slots)
    rows = {i: [table[name, slot_name(i)] for name in (*BALANCES, DESCRIBE)] for i in indices}
    waiting = sum(table[balance, "BACKEND"]["qcur"] for balance in BALANCES)
    waiting += sum(row["qcur"] for of_slot in rows.values() for row in of_slot[: len(BALANCES)])
    return RouterStats(
        queued=waiting + held,
        balanced={
            balance: {i: rows[i][position]["scur"] for i in indices}
            for position, balance in enumerate(BALANCES)
        },
        described={i: rows[i][len(BALANCES)]["scur"] for i in indices},
        counts=_counts(table, rows),
    )


def report(counts: Counts, stats: RouterStats, restarts: int) -> RouterState:
    """``counts`` over all HAProxy processes, with what the last look saw of the present one."""
    in_flight = stats.in_flight
    return RouterState(
        queued=stats.queued,
        in_progress=stats.counts.in_progress,
        restarts=restarts,
        replicas=tuple(
            RoutedReplica(index=i, in_flight=in_flight.get(i, 0), **counts.slots.get(i, Counter()))
            for i in sorted(counts.slots.keys() | in_flight.keys())
        ),
        **counts.router,
    )


def _table(text: str) -> Mapping[tuple[str, str], _Row]:
    """Rows by proxy and server; every answer begins with the names of the columns."""
    table: dict[tuple[str, str], _Row] = {}
    wanted: list[tuple[str, int]] = []
    for line in text.splitlines():
        if line.startswith("# "):
            names = line[2:].split(",")
            wanted = wanted or [(name, names.index(name)) for name in _COLUMNS]
        elif line:
            fields = line.split(",")
            table[fields[0], fields[1]] = {name: int(fields[at] or 0) for name, at in wanted}
    return table


_ANSWERS = tuple(f"hrsp_{kind}" for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))
_COLUMNS = (
    *("qcur", "scur", "req_tot", "econ", "eresp", "wretr", "wredis", "cli_abrt", "srv_abrt"),
    *_ANSWERS,
)


def _counts(table: Mapping[tuple[str, str], _Row], rows: Mapping[int, list[_Row]]) -> Counts:
    front = table["router", "FRONTEND"]
    backends = [table[name, "BACKEND"] for name in (*BALANCES, DESCRIBE)]
    holds = [table[balance, "hold"] for balance in BALANCES]
    slots = {index: _of_slot(of_slot) for index, of_slot in rows.items()}
    rejected = table[FULL, "BACKEND"]["hrsp_4xx"]
    router = Counter(
        requests=front["req_tot"],
        served=front["hrsp_2xx"] + front["hrsp_3xx"],
        answered_4xx=front["hrsp_4xx"],
        answered_5xx=front["hrsp_5xx"],
        unanswered=front["hrsp_1xx"] + front["hrsp_other"],
        rejected=rejected,
        # A request that was held ended twice: before the holder, and behind it.
        batchable=rejected + _ended(backends[: len(BALANCES)]) - _ended(holds),
        timed_out=_sum(backends, "econ") + _sum(holds, "hrsp_5xx"),
        # Of the replicas alone: the holder sees the end of what it has passed on once more.
        cut=sum(one["cut"] for one in slots.values()),
        left=sum(one["left"] for one in slots.values()),
        retried=sum(one["retried"] for one in slots.values()),
    )
    return Counts(router, slots)


def _of_slot(rows: list[_Row]) -> Counter[str]:
    cut = _sum(rows, "srv_abrt")
    return Counter(
        served=_sum(rows, "hrsp_2xx") + _sum(rows, "hrsp_3xx"),
        refused=_sum(rows, "hrsp_4xx"),
        failed=_sum(rows, "hrsp_5xx") + _sum(rows, "eresp") - cut,
        cut=cut,
        left=_sum(rows, "cli_abrt"),
        retried=_sum(rows, "wretr") + _sum(rows, "wredis"),
    )


def _ended(rows: Iterable[_Row]) -> int:
    return sum(row[column] for row in rows for column in _ANSWERS)


def _sum(rows: Iterable[_Row], column: str) -> int:
    return sum(row[column] for row in rows)
