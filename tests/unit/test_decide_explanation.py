"""Decisions as values: each holds the figures that it was taken on, and fits into the status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import h100, point, service
from slm_operator.api.crd import crd
from slm_operator.api.status import HISTORY_KEPT, INPUTS_KEPT, HistoryEntry, SLMServiceStatus
from slm_operator.decide import points as shown
from slm_operator.decide.explanation import (
    Explanation,
    entry,
    inputs,
    is_told,
    knee,
    layout_failed,
    probed,
)
from slm_operator.decide.snapshot import Unstartable
from slm_operator.pareto.choice import choose
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.search import Measure, SearchSpace, Settle

NOW = "2026-01-01T00:00:00Z"
STATUS_SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
OUT_OF_MEMORY = Unstartable(4, 256, "OutOfMemory: no memory", "2026-01-01T01:00:00Z")


TWO = Probe(2, 2, 256)
SPACE = SearchSpace(1, 4, 256, batch_is_free=True, objective=Objective())


def settle(points: list[OperatingPoint]) -> Settle:
    return Settle(choose(points, Objective()), ())


def own_layouts() -> list[OperatingPoint]:
    return [h100(Probe(n, n, 256)) for n in (1, 2, 3)] + [h100(Probe(1, 1, 512))]


def test_the_knee_holds_its_rule_its_figures_and_what_was_asked_for() -> None:
    told = entry(knee(service(), h100(Probe(3, 3, 256)), settle(own_layouts())), NOW)
    assert (told.reason, told.rule) == ("KneeFound", "StepWorthIt")
    assert (told.from_, told.to) == ("3 replicas x 256", "2 replicas x 256")
    assert told.point is not None and told.point.compared is not None
    assert (told.point.output_tokens_per_second, told.point.confidence_tokens_per_second) == (
        10642,
        21,
    )
    assert (told.point.power_watts, told.point.microjoules_per_output_token) == (443, 41637)
    compared = told.point.compared
    # One replica with 512 sequences serves 8,127.6, and 3 % more is needed.
    assert (compared.quantity, compared.value, compared.bound) == (
        "outputTokensPerSecond",
        10642,
        8371,
    )
    assert {i.name: i.value for i in told.inputs} == {
        "objective": "Balanced",
        "minThroughputGainPercent": "3",
        "maxEnergyIncreasePercent": "5",
        "mode": "Auto",
        "minReplicasPerPack": "1",
        "maxReplicasPerPack": "4",
        "calibration.when": "OnStart",
        "calibration.promptTokens": "128",
        "calibration.outputTokens": "256",
        "maxNumSeqs": "256",
    }


def test_limits_are_inputs_and_all_that_can_be_asked_for_fits() -> None:
    asked = {"slo": {"ttftP95": "500ms", "itlP95": "50ms"}, "powerBudgetWatts": 400}
    found = inputs(service({"autoscaling": asked}))
    assert {(i.name, i.value) for i in found} >= {
        ("slo.ttftP95", "500ms"),
        ("slo.itlP95", "50ms"),
        ("powerBudgetWatts", "400"),
    }
    assert len(found) < INPUTS_KEPT


def test_each_alternative_says_by_which_rule_it_lost_with_both_numbers() -> None:
    told = entry(knee(service(), None, settle(own_layouts())), NOW)
    found = {
        (a.replicas_per_pack, a.max_num_seqs): (a.rule, a.compared and a.compared.bound)
        for a in told.alternatives
    }
    assert found == {
        (1, 256): ("LessThroughput", 10642),
        (1, 512): ("LessThroughput", 10642),
        (3, 256): ("GainTooSmall", 10961),
    }
    assert all(a.why for a in told.alternatives)


def test_a_probe_in_rotation_is_judged_as_a_step_of_the_walk() -> None:
    walked = [h100(Probe(4, n, 256)) for n in (1, 2)]
    step = Measure(Probe(4, 3, 256), "Searching", Rule.NEXT_IN_ROTATION, "how much do 3 serve?")
    first = probed(service(), walked[0], walked[:1], step, SPACE)
    second = probed(service(), walked[1], walked, step, SPACE)
    assert first.ruling is not None and second.ruling is not None
    assert (first.rule, first.ruling.rule) == (Rule.NEXT_IN_ROTATION, Rule.WALK_BEGAN)
    assert second.ruling.rule is Rule.WALK_WENT_ON
    assert second.telling == (
        "NextInRotation after WalkWentOn (outputTokensPerSecond 10,642 against 8,123): 2 replicas "
        "x 256 (of 4 started): 10,642 ± 21 output tok/s at 443 W; next: how much do 3 serve?"
    )


def test_a_probe_in_its_own_layout_is_judged_among_all_points() -> None:
    points = [h100(Probe(4, n, 256)) for n in (1, 2)] + [h100(Probe(1, 1, 512))]
    step = Measure(Probe(2, 2, 256), "Confirming", Rule.OWN_LAYOUT, "alone")
    told = probed(service(), points[-1], points, step, SPACE)
    assert told.ruling is not None
    assert told.ruling.rule is Rule.LESS_THROUGHPUT


def test_a_further_window_is_judged_by_what_is_known_with_it() -> None:
    window, pooled = point(1, 1100, 110), point(1, 1000, 100)
    known = [point(2, 1500, 150), pooled]
    step = Measure(TWO, "Confirming", Rule.RIVAL_AGAIN, "which is better?")
    told = entry(probed(service(), window, known, step, SPACE), NOW)
    assert told.message.startswith("1 replica x 256: 1,100 ± 0 output tok/s")
    assert told.point is not None and told.point.compared is not None
    assert told.point.output_tokens_per_second == told.point.compared.value == 1000


def test_a_step_that_broke_a_limit_says_so() -> None:
    walked = [point(1, 1000, 100, layout=3), point(2, 1500, 150, layout=3)]
    bounded = replace(SPACE, limits=Limits(power_watts=120))
    step = Measure(TWO, "Confirming", Rule.OWN_LAYOUT, "alone")
    told = probed(service(), walked[1], walked, step, bounded)
    assert told.ruling is not None
    assert told.ruling.rule is Rule.LIMIT_BROKEN


def test_a_layout_that_failed_names_its_rule_and_its_cause() -> None:
    told = layout_failed(OUT_OF_MEMORY, settle(own_layouts()))
    assert told.telling == "LayoutFailed: it could not be started: OutOfMemory: no memory"
    assert entry(told, NOW).from_ == "4 replicas x 256"


def test_a_fact_is_told_once_in_a_search_and_again_in_the_next() -> None:
    failed = layout_failed(OUT_OF_MEMORY, None)
    search = [entry(failed, NOW)]
    assert not is_told(failed, [])
    assert is_told(failed, search)
    assert not is_told(layout_failed(replace(OUT_OF_MEMORY, why="another cause"), None), search)
    over = [*search, entry(knee(service(), None, settle(own_layouts())), NOW)]
    assert not is_told(failed, over)


def test_of_many_alternatives_the_fastest_are_kept_and_the_rest_counted() -> None:
    points = [point(1, 1000, 100)] + [point(n, 990 - n, 100) for n in range(2, 14)]
    told = entry(knee(service(), None, settle(points)), NOW)
    assert [a.replicas_per_pack for a in told.alternatives] == list(range(2, 10))
    assert told.alternatives_omitted == 4


texts = st.text(max_size=6000)
measured = st.builds(
    point,
    st.integers(1, 32),
    st.floats(0.1, 1e6),
    st.none() | st.floats(0, 2000),
    max_num_seqs=st.integers(1, 4096),
    confidence=st.floats(0, 1e5),
)
curves = st.lists(
    measured, min_size=1, max_size=40, unique_by=lambda p: (p.probe.replicas, p.probe.max_num_seqs)
)
knees = curves.map(lambda points: knee(service(), None, settle(points)))
failures = st.builds(
    lambda why, replicas: layout_failed(Unstartable(replicas, 256, why, NOW), None),
    texts,
    st.integers(1, 32),
)
steps = st.builds(
    Measure, st.just(Probe(4, 2, 256)), st.just("Searching"), st.sampled_from(Rule), texts
)
probes = st.builds(
    lambda points, step: probed(service(), points[-1], points, step, SPACE), curves, steps
)


@given(knees)
def test_every_number_of_a_decision_is_that_of_the_point_that_it_names(told: Explanation) -> None:
    written = entry(told, NOW)
    assert told.point is not None and written.point is not None
    pairs = [(written.point, told.point)]
    for alternative in written.alternatives:
        (same,) = [
            v.point
            for v in told.alternatives
            if (v.point.probe.replicas, v.point.probe.max_num_seqs)
            == (alternative.replicas_per_pack, alternative.max_num_seqs)
        ]
        pairs.append((alternative, same))
    for says, truth in pairs:
        energy = truth.joules_per_output_token
        assert says.output_tokens_per_second == round(truth.output_tokens_per_second)
        assert says.confidence_tokens_per_second == round(truth.confidence_tokens_per_second)
        assert says.microjoules_per_output_token == (energy and round(energy * 1e6))
        if says.compared is None:
            continue
        own = {
            "outputTokensPerSecond": says.output_tokens_per_second,
            "microjoulesPerOutputToken": says.microjoules_per_output_token,
        }
        assert says.compared.value == own[says.compared.quantity]
    assert len(written.alternatives) + written.alternatives_omitted == len(told.alternatives)


def faults(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Where ``value`` breaks the bounds of a structural schema."""
    kind = schema["type"]
    if kind == "object":
        known = schema["properties"]
        found = [
            f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value
        ]
        for name, child in value.items():
            found += faults(child, known[name], f"{path}.{name}")
        return found
    if kind == "array":
        found = [f"{path} is too long"] if len(value) > schema["maxItems"] else []
        for one in value:
            found += faults(one, schema["items"], f"{path}[]")
        return found
    if kind == "string":
        return [f"{path} is too long"] if len(value) > schema.get("maxLength", 1 << 20) else []
    if kind == "integer":
        fits = isinstance(value, int) and abs(value) < 1 << 63
        return [] if fits else [f"{path} is no 64-bit integer: {value!r}"]
    return []


@given(st.lists(knees | failures | probes, min_size=1, max_size=HISTORY_KEPT))
def test_what_a_status_keeps_of_any_decisions_is_within_the_bounds_of_its_schema(
    told: list[Explanation],
) -> None:
    status = SLMServiceStatus(history=tuple(entry(one, NOW) for one in told))
    written = status.to_object()
    assert faults(written, STATUS_SCHEMA) == []
    assert SLMServiceStatus.model_validate(written) == status


def test_a_history_of_an_earlier_release_is_read() -> None:
    old = {"time": NOW, "from": "", "to": "2", "reason": "KneeFound", "message": "so"}
    read = HistoryEntry.model_validate(old)
    assert (read.rule, read.inputs, read.alternatives, read.point) == (None, (), (), None)


@pytest.mark.parametrize("settled", [True, False])
def test_each_point_of_the_status_names_its_rule(settled: bool) -> None:
    points = [h100(Probe(4, n, 256)) for n in (1, 2, 3)] + own_layouts()[:2]
    end = Settle(choose(points[3:], Objective()), tuple(points[:3]))
    found = shown.frontier(points, None, end if settled else None)
    assert all(p.rule for p in found)
