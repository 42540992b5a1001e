"""Which failed requests a fault explains, and what the schedule of the soak promises."""

from __future__ import annotations

from itertools import islice, repeat

from benchmarks.fault_rig.belongings import bytes_per_minute, growth_bytes
from benchmarks.fault_rig.counting import Kind, Outcome
from benchmarks.fault_rig.incidents import IN_FLIGHT, ROUTER_GONE, Incident, account
from benchmarks.faults_soak import PLAN, steps

KILLED = Incident("killed", at_seconds=10.0, until_seconds=10.5, kinds=IN_FLIGHT, at_most=2)


def failed(began: float, ended: float, kind: Kind = Kind.LOST) -> Outcome:
    return Outcome(kind, began, ended, "")


def test_a_request_in_flight_at_the_fault_is_explained() -> None:
    found = account([failed(9, 10.1), failed(9.9, 10.2, Kind.CUT)], [KILLED])
    assert found.explained == {"killed": 2}
    assert found.unexplained == ()


def test_a_request_that_ended_before_the_fault_or_was_sent_after_it_is_not() -> None:
    strangers = [failed(8, 9.9), failed(10.6, 11)]
    assert account(strangers, [KILLED]).unexplained == tuple(strangers)


def test_a_fault_of_an_engine_explains_no_refusal() -> None:
    refused = failed(9, 10.1, Kind.REFUSED)
    assert account([refused], [KILLED]).unexplained == (refused,)


def test_a_fault_explains_no_more_than_the_broken_part_had() -> None:
    found = account([failed(9, 10.1), failed(9, 10.2), failed(9, 10.3)], [KILLED])
    assert found.unexplained == (failed(9, 10.3),)


def test_what_one_fault_cannot_explain_another_may() -> None:
    router = Incident("router", 10.0, 11.0, ROUTER_GONE)
    found = account([failed(9, 10.1, Kind.UNREACHABLE), failed(9, 10.1)], [KILLED, router])
    assert found.explained == {"killed": 1, "router": 1}


def test_the_schedule_is_its_seeds_and_the_agent_dies_only_while_it_may() -> None:
    safe = list(islice(steps(3, repeat(False)), 300))
    assert safe == list(islice(steps(3, repeat(False)), 300))
    assert safe != list(islice(steps(4, repeat(False)), 300))
    assert "agent killed" not in {step.what for step in safe}
    assert "agent killed" in {step.what for step in islice(steps(3, repeat(True)), 300)}
    assert all(1 <= step.rotation <= step.replicas for step in safe if step.what == PLAN)


def test_growth_is_that_of_the_last_third_over_the_first() -> None:
    looks = [(60.0 * minute, 100 + 10 * minute) for minute in range(9)]
    assert growth_bytes(looks) == 60
    assert bytes_per_minute(looks) == 10
    assert growth_bytes(looks[:2]) is None and bytes_per_minute(looks[:2]) is None
