"""What HAProxy's tables say of the router's requests."""

from __future__ import annotations

import pytest

from slm_worker.routing.stats import (
    NO_COUNTS,
    NO_STATS,
    RouterStats,
    commands,
    parse_stats,
    report,
)
from slm_worker.wire import RoutedReplica

COLUMNS = (
    *("pxname", "svname", "qcur", "qmax", "scur", "req_tot", "econ", "eresp", "wretr", "wredis"),
    *("cli_abrt", "srv_abrt", "hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"),
    *("hrsp_other", ""),
)
ROWS = (
    ("router", "FRONTEND"),
    ("full", "BACKEND"),
    ("describe", "BACKEND"),
    ("concentrate", "BACKEND"),
    ("concentrate", "hold"),
    ("spread", "BACKEND"),
    ("spread", "hold"),
)


def table(**cells: dict[str, int]) -> str:
    """HAProxy's answers for replicas 0 and 1, empty but for ``cells``: ``proxy__server`` to the
    values of its columns."""
    slots = [(name, f"r{i}") for name in ("concentrate", "spread", "describe") for i in (0, 1)]
    answers = []
    for proxy, server in (*ROWS, *slots):
        given = {"pxname": proxy, "svname": server} | cells.get(f"{proxy}__{server}", {})
        row = ",".join(str(given.get(column, "")) for column in COLUMNS)
        answers.append(f"# {','.join(COLUMNS)}\n{row}\n")
    return "\n".join(answers) + "\n"


def read(held: int = 0, **cells: dict[str, int]) -> RouterStats:
    return parse_stats(table(**cells), held=held, slots=[0, 1])


def test_only_rows_that_are_read_are_asked_for() -> None:
    assert commands([]) == [
        "show stat router 1 -1",
        "show stat full 2 -1",
        "show stat describe 2 -1",
        "show stat concentrate 2 -1",
        "show stat concentrate 4 1000",
        "show stat spread 2 -1",
        "show stat spread 4 1000",
    ]
    assert commands([3])[7:] == [
        "show stat concentrate 4 4",
        "show stat spread 4 4",
        "show stat describe 4 4",
    ]


def test_all_queues_and_held_requests_are_waiting() -> None:
    stats = read(
        held=1,
        concentrate__BACKEND={"qcur": 5},
        concentrate__r0={"qcur": 1},
        spread__BACKEND={"qcur": 2},
    )
    assert stats.queued == 9


def test_a_replica_works_on_what_any_backend_gave_it() -> None:
    stats = read(
        concentrate__r0={"scur": 4}, spread__r0={"scur": 3}, describe__r0={"scur": 1}, spread__r1={}
    )
    assert stats.in_flight == {0: 8, 1: 0}
    assert stats.balanced == {"concentrate": {0: 4, 1: 0}, "spread": {0: 3, 1: 0}}


FRONT = {
    "req_tot": 20,
    "hrsp_2xx": 10,
    "hrsp_4xx": 4,
    "hrsp_5xx": 3,
    "hrsp_other": 1,
}


def test_every_request_is_accounted_for() -> None:
    stats = read(
        router__FRONTEND=FRONT,
        full__BACKEND={"hrsp_4xx": 2},
        concentrate__BACKEND={"econ": 1, "hrsp_2xx": 9, "hrsp_other": 1},
        spread__hold={"hrsp_5xx": 1},
        concentrate__r0={"hrsp_2xx": 9, "eresp": 2, "srv_abrt": 1, "wretr": 1, "wredis": 2},
        describe__r0={"hrsp_2xx": 1, "cli_abrt": 1},
        spread__r1={"hrsp_4xx": 1, "hrsp_5xx": 1},
    )
    state = report(NO_COUNTS.plus(stats.counts), stats, restarts=0)
    assert state.model_dump(exclude={"replicas", "queued", "restarts", "lost"}) == {
        "requests": 20,
        "served": 10,
        "answered_4xx": 4,
        "answered_5xx": 3,
        "unanswered": 1,
        "in_progress": 2,
        "rejected": 2,
        "timed_out": 2,
        "batchable": 11,
        "cut": 1,
        "left": 1,
        "retried": 3,
    }
    assert state.replicas == (
        RoutedReplica(index=0, served=10, failed=1, cut=1, left=1, retried=3),
        RoutedReplica(index=1, refused=1, failed=1),
    )


def test_work_is_what_asked_for_a_place_in_a_batch_each_request_once() -> None:
    stats = read(
        router__FRONTEND={"req_tot": 40, "hrsp_2xx": 30, "hrsp_4xx": 10},
        full__BACKEND={"hrsp_4xx": 3},
        describe__BACKEND={"hrsp_2xx": 20},
        concentrate__BACKEND={"hrsp_2xx": 9, "hrsp_5xx": 1},
        spread__BACKEND={"hrsp_2xx": 2},
        concentrate__hold={"hrsp_2xx": 1},
    )
    assert report(stats.counts, stats, restarts=0).batchable == 3 + 9 + 1 + 2 - 1


@pytest.mark.parametrize(("column", "name"), [("srv_abrt", "cut"), ("cli_abrt", "left")])
def test_a_request_that_was_held_and_broke_off_is_counted_once(column: str, name: str) -> None:
    """HAProxy counts it before the holder, and behind it once more."""
    stats = read(concentrate__hold={column: 1}, concentrate__r0={column: 1})
    assert getattr(report(stats.counts, stats, restarts=0), name) == 1


def test_a_client_that_left_while_it_was_held_left_no_replica() -> None:
    stats = read(
        router__FRONTEND={"req_tot": 1, "hrsp_other": 1}, concentrate__hold={"cli_abrt": 1}
    )
    state = report(stats.counts, stats, restarts=0)
    assert (state.unanswered, state.left) == (1, 0)


def test_a_router_is_idle_only_without_any_request() -> None:
    assert read().idle
    assert not read(held=1).idle
    assert not read(describe__r1={"scur": 1}).idle
    assert not read(router__FRONTEND=FRONT).idle


def test_counts_go_on_over_a_death_and_what_it_cut_is_lost() -> None:
    dead = read(router__FRONTEND=FRONT, concentrate__r0={"hrsp_2xx": 10})
    alive = read(router__FRONTEND={"req_tot": 6, "hrsp_2xx": 5}, concentrate__r0={"hrsp_2xx": 5})
    counts = NO_COUNTS.plus(dead.counts.ended()).plus(alive.counts)
    state = report(counts, alive, restarts=1)
    assert (state.requests, state.served, state.in_progress, state.lost) == (26, 15, 1, 2)
    assert state.replicas[0].served == 15
    parts = state.served + state.answered_4xx + state.answered_5xx + state.unanswered
    assert state.requests == parts + state.lost + state.in_progress


def test_nothing_seen_is_nothing_counted() -> None:
    assert report(NO_COUNTS, NO_STATS, restarts=0).requests == 0


def test_a_missing_row_is_named() -> None:
    with pytest.raises(KeyError, match="BACKEND"):
        parse_stats("\n", held=0, slots=[])
