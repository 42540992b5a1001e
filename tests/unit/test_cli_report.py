"""The demo's report and JSON: complete, self-contained, and clear about what is simulated."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from cli_builders import CPU_SPACE, found, outcome, without_power
from slm_operator.cli import report
from slm_operator.cli.outcome import document

VOID = {"meta"}


class Page(HTMLParser):
    """Collects texts and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    assert page.open == []
    return page


def test_the_page_holds_points_decision_requests_and_machine_as_text() -> None:
    page = read(report.html(outcome()))
    assert "10,642 ± 21" in page.texts
    assert any("2 replicas x 256 is Pareto-optimal" in t for t in page.texts)
    assert "KneeFound" in page.texts
    assert "4,603" in page.texts
    assert "a machine <with> 2 cores" in page.texts


def test_the_page_refers_to_nothing_outside_and_runs_no_script() -> None:
    text = report.html(outcome())
    assert read(text).addresses == []
    assert "<script" not in text
    assert "url(" not in text


def test_the_page_follows_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in report.html(outcome())


def test_simulated_figures_have_a_banner_and_measured_ones_have_none() -> None:
    assert '<p class="simulated">' in report.html(outcome())
    measured = found(CPU_SPACE, without_power)
    real = measured.model_copy(
        update={
            "frontier": tuple(p.model_copy(update={"simulated": False}) for p in measured.frontier)
        }
    )
    assert '<p class="simulated">' not in report.html(outcome(real, gpu="CPU"))


def test_unknown_power_is_a_dash() -> None:
    page = read(report.html(outcome(found(CPU_SPACE, without_power), gpu="CPU")))
    assert page.texts.count("-") == 2 * 4


def test_the_picture_says_the_decision() -> None:
    assert "2 replicas on one GPU: 10,642 output tokens/s at 443 W" in report.image(outcome())


def test_the_document_is_plain_json_with_units_in_its_names() -> None:
    read_back = json.loads(json.dumps(document(outcome())))
    assert read_back["knee"] == {
        "replicasPerPack": 2,
        "maxNumSeqs": 256,
        "outputTokensPerSecond": 10642,
        "powerWatts": 443,
        "microjoulesPerOutputToken": pytest.approx(41640, abs=10),
    }
    assert read_back["simulated"] is True
    assert read_back["requests"] == {"sent": 331, "completed": 331, "failed": 0}
    assert len(read_back["points"]) == 4
    assert read_back["decisions"][0]["from"] == ""
    assert read_back["calibrationLoad"]["cancelled"] == 2754
