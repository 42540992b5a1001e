"""What `get` and `points` show, and what the demo tells while it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from cli_builders import (
    CPU_SPACE,
    condition,
    found,
    outcome,
    searching,
    service,
    settled,
    without_power,
)
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cli import story, tables
from slm_operator.cli.outcome import Requests
from slm_operator.cli.progress import Look, live_picture, summary


def text(shown: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def test_the_points_fit_eighty_columns_with_all_figures() -> None:
    shown = text(tables.points_table(settled()))
    chosen = next(line for line in shown.splitlines() if line.startswith("◆"))
    assert chosen.split()[1:] == [
        *("2", "2", "256", "10,642", "±", "21", "443", "0.0416", "350ms", "37ms", "yes")
    ]
    assert "…" not in shown


def test_simulated_points_say_so() -> None:
    assert "simulated" in text(tables.points_table(settled()))


def test_unknown_power_and_energy_are_dashes() -> None:
    row = text(tables.points_table(settled(CPU_SPACE, without_power))).splitlines()[-1]
    assert row.split()[7:9] == ["-", "-"]


def test_every_point_has_its_reason() -> None:
    shown = text(tables.reasons(settled()), width=400)
    assert "2 replicas x 256 (of 3 started): the walk's first step" in shown
    assert "◆ 2 replicas x 256: 2 replicas x 256 is Pareto-optimal" in " ".join(shown.split())


def test_a_list_marks_simulated_figures_and_fits_eighty_columns() -> None:
    row = text(tables.services_table([(service(found()), "3m")])).splitlines()[1].split()
    assert row[2:] == [
        *("simulated", "1/1", "2/2", "10,642", "443", "0.0416", "True", "Serving", "3m")
    ]


def test_a_real_gpu_has_no_mark() -> None:
    shown = text(tables.services_table([(service(found(), gpu="NVIDIA"), "3m")]), width=160)
    assert "simulated" not in shown


def test_a_service_that_the_operator_has_not_seen_says_so() -> None:
    shown = text(tables.services_table([(service(), "3m")]), width=160)
    assert "NotSeenYet" in shown
    assert "does it run?" in tables.standing(service())


def test_details_show_conditions_operating_point_and_decisions() -> None:
    shown = text(tables.details(service(found())), width=300)
    assert "10,642 output tok/s at 443 W, 0.0416 J/token" in shown
    assert "Calibrated" in shown
    assert "KneeFound" in shown
    assert tables.SIMULATED_NOTE in shown


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2026-01-01T11:59:01Z", "59s"),
        ("2026-01-01T11:58:00Z", "2m"),
        ("2026-01-01T09:00:00Z", "3h"),
        ("2025-12-29T12:00:00Z", "3d"),
        ("2026-01-01T12:00:09Z", "0s"),
    ],
)
def test_an_age_is_in_its_largest_unit(created: str, shown: str) -> None:
    assert tables.age(created, datetime(2026, 1, 1, 12, tzinfo=UTC)) == shown


def test_the_news_of_a_run_are_told_once() -> None:
    nothing = SLMServiceStatus()
    first = story.news(nothing, searching())
    assert first == ["measuring 1 replica x 256 (of 4 started), at least 36 s"]
    assert story.news(searching(), searching()) == []
    done = story.news(searching(), found())
    assert len([line for line in done if line.startswith("measured ")]) == 4
    assert done[-1].startswith("decided KneeFound: 2 replicas x 256 is Pareto-optimal")
    assert "(simulated)" in done[0]


def test_why_a_service_is_not_ready_is_news() -> None:
    broken = SLMServiceStatus(conditions=(condition("Ready", "False", "DoesNotFit", "0 fit"),))
    assert story.news(SLMServiceStatus(), broken) == ["not ready: DoesNotFit: 0 fit"]
    assert story.news(broken, broken) == []


def test_the_live_picture_says_how_long_the_measurement_still_takes() -> None:
    now = datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)
    look = Look(searching(), 12.0, Requests(8, 6, 0))
    shown = text(live_picture(look, now, 50))
    assert "measuring 1 x 256" in shown
    assert "26 s left" in shown
    assert "8 requests sent, 6 completed, 0 failed" in shown


def test_a_measurement_past_its_least_length_waits_for_certainty() -> None:
    now = datetime(2026, 1, 1, 0, 1, 0, tzinfo=UTC)
    shown = text(live_picture(Look(searching(), 60.0, Requests(0, 0, 0)), now, 50))
    assert "until it is certain enough" in shown


def test_the_summary_has_picture_decision_requests_and_report() -> None:
    shown = text(summary(outcome(), Path("report/demo-simulated.html")), width=200)
    assert "◆" in shown
    assert "331 requests sent, 331 completed, 0 failed" in shown
    assert "report/demo-simulated.html" in shown
    assert tables.SIMULATED_NOTE in shown


def test_replicas_that_start_are_counted_until_all_are_ready() -> None:
    begun = searching().model_copy(update={"ready_replicas": 1})
    further = searching().model_copy(update={"ready_replicas": 2})
    assert "starting replicas: 1 of 4 ready" in story.news(SLMServiceStatus(), begun)
    assert story.news(begun, begun) == []
    assert story.news(begun, further) == ["starting replicas: 2 of 4 ready"]
    assert story.news(further, searching()) == []
    shown = text(live_picture(Look(begun, 12.0), datetime(2026, 1, 1, tzinfo=UTC), 50))
    assert "starting replicas: 1 of 4 ready" in shown
    assert "s left" not in shown


def test_on_a_low_terminal_the_picture_gives_way_before_the_reasons() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    points = settled()
    reasons, picture = points[0].why[:20], "J/output token"

    def fitting(height: int) -> str:
        return text(live_picture(Look(found(), 90.0), now, height), width=160)

    assert all(part in fitting(50) for part in ("TOK/S", reasons, picture))
    assert reasons in fitting(30)
    assert picture not in fitting(30)
    assert reasons not in fitting(15)
    assert "TOK/S" in fitting(15)
