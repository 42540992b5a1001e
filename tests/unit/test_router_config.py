"""The router's configuration text, and how many requests a replica is sent."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.load import saturating_concurrency
from slm_worker.routing.config import RouterSettings, render, render_map, slot_name
from slm_worker.routing.limits import is_crowded, limit, max_in_flight
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK, Routing


def settings(**changes: object) -> RouterSettings:
    values: dict[str, object] = {
        "address": "10.0.0.7",
        "port": 8000,
        "replica_host": "127.0.0.1",
        "run_dir": Path("/run/slm"),
    }
    return RouterSettings(**(values | changes))  # type: ignore[arg-type]


def backend(name: str) -> list[str]:
    """The lines of one backend of the default configuration."""
    text = render(settings(), Routing(), listener=7)
    return text.partition(f"\nbackend {name}\n")[2].partition("\n\n")[0].splitlines()


@pytest.mark.parametrize(("name", "algorithm"), [("concentrate", "first"), ("spread", "leastconn")])
def test_every_possible_replica_has_a_slot_in_maintenance_ordered_by_index(
    name: str, algorithm: str
) -> None:
    lines = backend(name)
    assert lines[0] == f"  balance {algorithm}"
    slots = [line.split() for line in lines if line.startswith("  server r")]
    assert [slot[1] for slot in slots] == [f"r{n}" for n in range(MAX_REPLICAS_PER_PACK)]
    assert [int(slot[4]) for slot in slots] == list(range(1, MAX_REPLICAS_PER_PACK + 1))
    assert all(slot[-1] == "disabled" for slot in slots)


def test_slots_that_describe_follow_those_that_compute() -> None:
    slots = [line.split() for line in backend("describe") if line.startswith("  server ")]
    assert len(slots) == MAX_REPLICAS_PER_PACK
    assert all(slot[-2:] == ["track", f"concentrate/{slot[1]}"] for slot in slots)


def test_an_ipv6_engine_is_bracketed() -> None:
    text = render(settings(replica_host="::1"), Routing(), listener=7)
    assert "  server r0 [::1]:1 id 1 disabled" in text.splitlines()


def test_haproxy_takes_the_agents_socket_and_the_plans_patience() -> None:
    text = render(settings(), Routing(queue_timeout_seconds=45), listener=7)
    assert "  bind fd@7 " in text
    assert "  timeout queue 45s\n" in text


def test_the_map_names_the_backend_and_the_bound_of_the_queue() -> None:
    assert render_map(Routing()).startswith("backend concentrate\nmax_queued 4096\n")
    spread = Routing(mode="Spread", max_queued_requests=7)
    assert render_map(spread).startswith("backend spread\nmax_queued 7\n")


@pytest.mark.parametrize(("keeps", "value"), [(True, "keep"), (False, "close")])
def test_the_map_says_whether_answers_end_their_connections(keeps: bool, value: str) -> None:
    assert f"connections {value}\n" in render_map(Routing(), keeps_connections=keeps)


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


@pytest.mark.parametrize(("batch", "most"), [(1, 3), (16, 18), (32, 34), (256, 272)])
def test_at_most_a_replica_gets_a_little_more_than_its_batch(batch: int, most: int) -> None:
    assert max_in_flight(batch) == most


class TestMargin:
    @pytest.mark.parametrize("requests", [0, 16, 19])
    def test_replicas_get_their_batch_while_they_are_not_full_to_the_margin(
        self, requests: int
    ) -> None:
        assert not is_crowded([8, 8], requests)
        assert limit(8, crowded=False, elsewhere=0) == 8

    @pytest.mark.parametrize("requests", [20, 400])
    def test_replicas_get_a_margin_when_there_is_enough_for_all(self, requests: int) -> None:
        assert is_crowded([8, 8], requests)
        assert limit(8, crowded=True, elsewhere=0) == 10

    def test_nobody_in_rotation_is_not_crowded(self) -> None:
        assert not is_crowded([], 1000)

    def test_what_the_other_mode_still_runs_is_left_out(self) -> None:
        assert limit(8, crowded=False, elsewhere=5) == 3

    def test_the_queue_always_moves(self) -> None:
        assert limit(8, crowded=False, elsewhere=9) == 1

    @given(st.lists(st.integers(1, MAX_NUM_SEQS), min_size=1, max_size=8), st.integers(0, 10_000))
    def test_a_margin_never_keeps_a_request_from_a_free_place_in_a_batch(
        self, batches: list[int], requests: int
    ) -> None:
        crowded = is_crowded(batches, requests)
        limits = [limit(batch, crowded=crowded, elsewhere=0) for batch in batches]
        left, given_each = requests, []
        for most in limits:  # filled in order, as `balance first` does
            given_each.append(min(left, most))
            left -= given_each[-1]
        if any(given > batch for given, batch in zip(given_each, batches, strict=True)):
            assert all(given >= batch for given, batch in zip(given_each, batches, strict=True))


@given(st.integers(1, MAX_REPLICAS_PER_PACK), st.integers(1, MAX_NUM_SEQS))
def test_a_saturating_load_fills_every_replica_and_leaves_requests_waiting(
    rotation: int, max_num_seqs: int
) -> None:
    slots = rotation * max_in_flight(max_num_seqs)
    assert slots + 8 <= saturating_concurrency(rotation, max_in_flight(max_num_seqs))
    assert saturating_concurrency(rotation, max_in_flight(max_num_seqs)) <= slots * 1.125 + 8
