"""What `slmctl explain` tells a person on call, and what it says when there is nothing to tell."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builders import h100, point
from cli_builders import (
    CPU_SPACE,
    H100_SPACE,
    NOW,
    condition,
    found,
    object_of,
    searching,
    service,
    settled,
    without_power,
)
from cli_world import Cluster, slmctl
from slm_operator.api.models import SLMService
from slm_operator.api.status import (
    CalibrationStatus,
    Compared,
    FailedLayout,
    HistoryEntry,
    SLMServiceStatus,
    WorkloadStatus,
)
from slm_operator.cli.account import (
    ANEW,
    PROGRESS,
    STALE,
    Account,
    NotExplainedError,
    account,
    document,
)
from slm_operator.cli.explain import text
from slm_operator.cli.quantities import both, needed
from slm_operator.decide import explanation
from slm_operator.decide import points as shown
from slm_operator.pareto.points import Probe
from slm_operator.pareto.rulings import Quantity
from slm_operator.pareto.search import Measure, next_step

LATER = datetime(2026, 1, 1, 0, 4, tzinfo=UTC)


def explained(status: SLMServiceStatus, **spec: Any) -> Account:
    obj: dict[str, Any] = object_of(status)
    obj["spec"] |= spec
    return account(SLMService.from_object(obj))


def lines(told: Account) -> str:
    """The text with its lines joined, so that no width cuts a phrase."""
    console = Console(width=400, highlight=False)
    with console.capture() as captured:
        console.print(text(told, LATER))
    return " ".join(captured.get().split())


def test_the_knee_is_told_with_its_rule_both_numbers_and_since_when() -> None:
    told = explained(found())
    assert (told.running.what, told.running.rule) == ("2 replicas x 256", "StepWorthIt")
    assert told.running.since == NOW
    shown = lines(told)
    for part in (
        "Runs 2 replicas x 256; 2 of 2 replicas and 1 of 1 packs ready",
        "Since 2026-01-01T00:00:00Z (4m ago)",
        "Rule StepWorthIt: 10,642 against 8,371 tok/s",
        "Figures 10,642 ± 21 tok/s, 443 W, 0.0416 J/token (simulated); TTFT p95 350ms",
        "objective Balanced, minThroughputGainPercent 3, maxEnergyIncreasePercent 5",
        "Waits for nothing: the decision stands until one of its inputs changes",
        "Trouble none",
        "KneeFound: nothing → 2 replicas x 256 by StepWorthIt",
        "instead of 1 replica x 512 (LessThroughput)",
        "The figures are simulated: no GPU was measured.",
    ):
        assert part in shown, shown


def test_a_probe_names_its_own_rule_and_that_of_the_point_behind_it() -> None:
    walked = [h100(Probe(3, n, 256)) for n in (2, 3)]
    step = next_step(H100_SPACE, walked)
    assert isinstance(step, Measure)
    told = explanation.probed(service(), walked[-1], walked, step, H100_SPACE)
    status = found().model_copy(update={"history": (explanation.entry(told, NOW),)})
    assert "by LargerBatch, after GainTooSmall: 10,660 against 10,961 tok/s" in lines(
        explained(status)
    )


def test_every_alternative_says_why_not_and_those_that_lost_come_first() -> None:
    told = explained(found())
    assert [(p.replicas_per_pack, p.max_num_seqs, p.rule) for p in told.alternatives] == [
        (3, 256, "GainTooSmall"),
        (1, 512, "LessThroughput"),
        (2, 256, "WalkBegan"),
    ]
    assert "LessThroughput: 2 replicas x 256 serves 10,642 tok/s, 30.9% more than" in lines(told)


def test_what_would_change_the_decision_names_both_numbers() -> None:
    assert explained(found()).would_change == (
        "3 replicas x 256 would have to serve more than 10,961 tok/s; it served 10,660 (2.7% less)",
        "1 replica x 512 would have to serve more than 10,642 tok/s; it served 8,128 (23.6% less)",
        ANEW,
        STALE,
    )


@pytest.mark.parametrize(
    ("quantity", "value", "bound", "said"),
    [
        (
            Quantity.MICROJOULES_PER_OUTPUT_TOKEN,
            44_100,
            43_700,
            "spend less than 0.0437 J/token; it spent 0.0441 (0.9% more)",
        ),
        (Quantity.POWER_WATTS, 443, 420, "draw at most 420 W; it drew 443 (5.5% more)"),
        (
            Quantity.ITL_P95_MICROSECONDS,
            50_200,
            50_000,
            "keep 50.0 ms ITL p95; it had 50.2 (0.4% more)",
        ),
        (
            Quantity.PREEMPTIONS_PER_HUNDRED_REQUESTS,
            1,
            0,
            "keep within 0 preemptions a hundred requests; it had 1",
        ),
        ("kelvin", 350, 340, "keep 340 kelvin; it had 350 (2.9% more)"),
    ],
)
def test_each_kind_of_number_is_told_in_its_unit(
    quantity: str, value: int, bound: int, said: str
) -> None:
    compared = Compared(quantity=quantity, value=value, bound=bound)
    assert needed(compared) == f"would have to {said}"


def test_every_quantity_has_its_words() -> None:
    for quantity in Quantity:
        assert quantity.value not in both(Compared(quantity=quantity, value=1, bound=1))


def test_without_power_nothing_is_said_of_energy() -> None:
    told = explained(found(CPU_SPACE, without_power))
    assert "power unknown" in lines(told)
    assert not any("J/token" in line for line in told.would_change)


def test_while_it_measures_it_says_what_and_what_it_waits_for() -> None:
    points = [h100(Probe(4, 1, 256))]
    status = searching().model_copy(update={"frontier": shown.frontier(points, H100_SPACE, None)})
    told = explained(status)
    assert told.chosen is None
    assert (told.running.what, told.running.rule) == ("1 of 4 replicas x 256", "BeingMeasured")
    assert told.waits_for.startswith("measuring 1 replica x 256: how much?")
    assert told.would_change == ()
    assert "Measured so far" in lines(told)
    assert explained(status, packs=3).running.why.endswith("; the others run 1 replica x 256")


def test_while_live_calibration_waits_for_requests_all_replicas_serve() -> None:
    waiting = CalibrationStatus(
        fingerprint="f",
        phase="Waiting",
        workload=WorkloadStatus(prompt_tokens=1100, output_tokens=90, arrivals="Bursty"),
    )
    message = "2 replicas x 256 (of 3 started) is measured once more than 512 are in flight"
    status = found().model_copy(
        update={
            "calibration": waiting,
            "frontier": shown.frontier([h100(Probe(3, 2, 256))], H100_SPACE, None),
            "replicas": 3,
            "conditions": (condition("Calibrated", "False", "WaitingForLoad", message),),
        }
    )
    told = explained(status, autoscaling={"calibration": {"when": "Live"}})
    assert (told.running.what, told.running.rule, told.running.since) == (
        "all 3 replicas that were started",
        "AwaitsLoad",
        NOW,
    )
    assert told.troubles == ()
    assert f"Waits for Waiting: {message}" in lines(told)
    assert "Counts for prompts of 1,100 tokens, answers of 90, bursty arrivals" in lines(told)


def test_without_calibration_no_age_makes_it_measure() -> None:
    told = explained(found(), autoscaling={"calibration": {"when": "Never"}})
    assert told.would_change[-1] == ANEW


def test_every_reason_of_progress_is_one_that_the_conditions_page_lists() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/conditions.md").read_text()
    assert [reason for reason in PROGRESS if f"`{reason}`" not in page] == []


def test_advice_is_told_apart_from_what_runs() -> None:
    told = explained(found(), replicasPerPack=1, autoscaling={"mode": "Recommend"})
    assert (told.running.what, told.running.rule) == ("1 replica x 256", "FixedBySpec")
    assert "Advice 2 replicas x 256 is Pareto-optimal" in lines(told)
    lazy = explained(found(), autoscaling={"mode": "Recommend", "minReplicasPerPack": 2})
    assert (lazy.running.what, lazy.running.rule) == ("2 replicas x 256", "FewestAllowed")


def test_a_fixed_count_is_the_users_decision() -> None:
    status = SLMServiceStatus(
        calibration=CalibrationStatus(fingerprint="f", phase="Fixed"),
        conditions=(condition("Calibrated", "True", "FixedReplicas"),),
    )
    told = explained(status, replicasPerPack=3)
    assert (told.running.what, told.running.rule) == ("3 replicas x 256", "FixedBySpec")
    assert told.running.since == NOW
    assert "spec.replicasPerPack fixes 3 replicas" in lines(told)


def test_a_decision_older_than_the_history_is_not_dated() -> None:
    probed = HistoryEntry(time=NOW, from_="a", to="b", reason="Probed", message="so")
    told = explained(found().model_copy(update={"history": (probed,)}))
    assert told.running.since is None
    assert "Since before the decisions kept" in lines(told)
    other = found(
        curve=lambda p: point(
            p.replicas, 1000, 100, layout=p.layout_replicas, max_num_seqs=p.max_num_seqs
        )
    )
    mixed = explained(found().model_copy(update={"history": other.history}))
    assert mixed.running.since is None, "the last knee kept was another one"


def test_each_cause_of_trouble_is_told_once_and_what_is_on_its_way_is_none() -> None:
    conditions = (
        condition("Ready", "False", "OutOfMemory", "no memory"),
        condition("GPUAllocated", "True", "Allocated"),
        condition("MetricsAvailable", "False", "AgentUnreachable", "gone"),
        condition("MPSReady", "False", "OutOfMemory", "no memory"),
        condition("Calibrated", "False", "Searching"),
        condition("ScalingActive", "False", "RecommendOnly"),
    )
    told = explained(found().model_copy(update={"conditions": conditions}))
    assert [(c.type, c.reason) for c in told.troubles] == [
        ("Ready", "OutOfMemory"),
        ("MetricsAvailable", "AgentUnreachable"),
    ]
    assert "Trouble Ready: OutOfMemory: no memory" in lines(told)


def test_layouts_that_could_not_be_had_are_told_with_cause_and_expiry() -> None:
    status = found()
    assert status.calibration is not None
    failed = FailedLayout(
        replicas_per_pack=4, max_num_seqs=256, why="OutOfMemory: no memory", until=NOW
    )
    calibration = status.calibration.model_copy(update={"failed_layouts": (failed,)})
    told = explained(status.model_copy(update={"calibration": calibration}))
    assert f"- 4 replicas x 256 until {NOW}: OutOfMemory: no memory" in lines(told)
    assert document(told)["leftOut"][0]["until"] == NOW


def test_json_holds_the_whole_account(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(found())), "explain", "chat", "-o", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer == document(explained(found()))
    assert answer["runs"] == {
        "layout": "2 replicas x 256",
        "since": NOW,
        "rule": "StepWorthIt",
        "why": answer["chosen"]["why"],
        "packs": 1,
        "readyPacks": 1,
        "replicas": 2,
        "readyReplicas": 2,
    }
    assert answer["simulated"] is True
    assert answer["chosen"]["compared"] == {
        "quantity": "outputTokensPerSecond",
        "value": 10642,
        "bound": 8371,
    }
    assert answer["inputs"]["minThroughputGainPercent"] == "3"
    assert all(p["rule"] and p["why"] for p in answer["alternatives"])
    assert answer["history"][-1]["rule"] == "StepWorthIt"


def test_the_command_prints_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    result = slmctl(monkeypatch, Cluster(object_of(found())), "explain", "chat")
    assert result.exit_code == 0
    assert "What would change the decision" in result.stdout


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (SLMServiceStatus(), "the operator has not seen this service yet; does it run?"),
        (searching(), "nothing has been decided for chat yet: measuring 1 replica x 256"),
    ],
    ids=["not seen", "first window"],
)
def test_before_the_first_decision_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, status: SLMServiceStatus, said: str
) -> None:
    with pytest.raises(NotExplainedError, match=r"nothing has been decided for chat yet"):
        explained(status)
    result = slmctl(monkeypatch, Cluster(object_of(status)), "explain", "chat")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_status_without_rules_is_of_an_earlier_release() -> None:
    old = tuple(p.model_copy(update={"rule": None, "compared": None}) for p in settled())
    with pytest.raises(NotExplainedError, match="earlier release") as refused:
        explained(found().model_copy(update={"frontier": old}))
    assert "`slmctl points chat`" in str(refused.value)


def test_a_status_that_cannot_be_read_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, Any] = object_of(found())
    del stored["status"]["history"][0]["message"]
    result = slmctl(monkeypatch, Cluster(stored), "explain", "chat")
    assert result.exit_code == 1
    assert "does not fit this slmctl (status.history.0.message: Field required)" in result.stderr
    assert "use the slmctl of the operator's release" in result.stderr
