"""The router's configuration text and what is read back from HAProxy."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.load import saturating_concurrency
from slm_worker.routing.config import RouterSettings, max_in_flight, render, slot_name
from slm_worker.routing.router import parse_stats
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK


def settings(**changes: object) -> RouterSettings:
    values: dict[str, object] = {
        "address": "10.0.0.7",
        "port": 8000,
        "replica_host": "127.0.0.1",
        "run_dir": Path("/run/slm"),
    }
    return RouterSettings(**(values | changes))  # type: ignore[arg-type]


def test_every_possible_replica_has_a_slot_in_maintenance_ordered_by_index() -> None:
    lines = render(settings()).splitlines()
    slots = [line.split() for line in lines if line.startswith("  server r") and " id " in line]
    assert [slot[1] for slot in slots] == [f"r{n}" for n in range(MAX_REPLICAS_PER_PACK)]
    assert [int(slot[4]) for slot in slots] == list(range(1, MAX_REPLICAS_PER_PACK + 1))
    assert all(slot[-1] == "disabled" for slot in slots)


def test_an_ipv6_address_is_bracketed() -> None:
    assert "bind [fd00::1]:8000 " in render(settings(address="fd00::1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "localhost"}, "address 'localhost' is no IP address"),
        ({"replica_host": "x\n"}, "replica_host 'x"),
        ({"port": 0}, "port 0 is not in 1..65535"),
        ({"run_dir": Path("/run/with space")}, "run_dir '/run/with space' must be"),
        ({"run_dir": Path("relative")}, "run_dir 'relative' must be"),
        ({"run_dir": Path("/" + "x" * 80)}, "at most 80 characters"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize("index", [-1, MAX_REPLICAS_PER_PACK])
def test_an_index_without_slot_is_named(index: int) -> None:
    with pytest.raises(ValueError, match=f"replica index {index} is not in 0..31"):
        slot_name(index)


@pytest.mark.parametrize(("batch", "limit"), [(1, 3), (16, 18), (32, 34), (256, 272)])
def test_a_replica_gets_a_little_more_than_its_batch(batch: int, limit: int) -> None:
    assert max_in_flight(batch) == limit


@given(st.integers(1, MAX_REPLICAS_PER_PACK), st.integers(1, MAX_NUM_SEQS))
def test_a_saturating_load_fills_every_replica_and_leaves_requests_waiting(
    rotation: int, max_num_seqs: int
) -> None:
    slots = rotation * max_in_flight(max_num_seqs)
    assert slots + 8 <= saturating_concurrency(rotation, max_in_flight(max_num_seqs))
    assert saturating_concurrency(rotation, max_in_flight(max_num_seqs)) <= slots * 1.125 + 8


def test_stats_add_all_queues_and_the_held_request() -> None:
    text = (
        "# pxname,svname,qcur,scur,\n"
        "engines,r0,1,4,\nengines,r1,0,3,\nengines,hold,0,1,\nengines,BACKEND,5,13,\n\n"
    )
    stats = parse_stats(text, held=1, slots=[0, 1])
    assert stats.queued == 7
    assert stats.in_flight == {0: 4, 1: 3}
