"""What the benchmarks compute by themselves."""

import json
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import purposes
from benchmarks.calibrated import calibrated_status
from benchmarks.operator_process import AuditLog, requests_of
from benchmarks.scale import SPEC, Step, figures
from benchmarks.scale_picture import CURVES, picture
from benchmarks.vllm_replicas import SpoiltWindowError, Window, between, summary
from slm_worker.wire import Counters


def audited(verb: str, resource: str, user: str = "slm-operator", **more: Any) -> str:
    event = {
        "verb": verb,
        "user": {"username": user},
        "objectRef": {"resource": resource, **more},
        "stageTimestamp": "1970-01-01T00:01:00.5Z",
    }
    return json.dumps(event)


def test_requests_are_counted_by_user_as_reads_and_writes() -> None:
    log = [
        audited("list", "pods"),
        audited("watch", "slmservices"),
        audited("patch", "slmservices", subresource="status"),
        audited("patch", "slmservices", subresource="status"),
        audited("create", "events"),
        audited("create", "slmservices", user="admin"),
        json.dumps({"verb": "get", "user": {"username": "slm-operator"}}),
    ]
    asked = requests_of("slm-operator", log)
    assert (asked.reads, asked.writes, asked.last_write_at) == (3, 3, 60.5)
    assert asked.verbs["patch slmservices/status"] == 2


def test_a_benchmark_is_a_module_with_a_main(tmp_path: Path) -> None:
    (tmp_path / "fast.py").write_text('"""How fast.\n\nIn detail."""\ndef main() -> None: ...\n')
    (tmp_path / "helper.py").write_text('"""Helps."""\n')
    (tmp_path / "__main__.py").write_text('"""Lists."""\ndef main() -> None: ...\n')
    assert purposes(tmp_path) == {"fast": "How fast."}


def counted(seconds: float, tokens: int, **more: Any) -> Counters:
    return Counters(sampled_at_seconds=seconds, output_tokens=tokens, **more)


def test_a_window_is_tokens_over_the_agents_own_clock() -> None:
    window = between(counted(10, 1000), counted(50, 5000, saturated_seconds=30))
    assert window == Window(tokens_per_second=100, saturated_fraction=0.75)


@pytest.mark.parametrize("change", [{"replica_starts": 1}, {"missed_samples": 1}])
def test_a_restart_or_a_missed_sample_spoils_a_window(change: dict[str, int]) -> None:
    with pytest.raises(SpoiltWindowError):
        between(counted(10, 1000), counted(50, 5000, **change))


def test_replica_counts_are_compared_with_one_replica_of_the_same_run() -> None:
    figures = summary("rotation_of", {1: [Window(90, 1), Window(110, 1)], 2: [Window(150, 0.5)]})
    assert figures["rotation_of_1_tokens_per_second"] == 100
    assert figures["rotation_of_2_ratio_to_1"] == 1.5
    assert figures["rotation_of_1_tokens_per_second_each"] == "90, 110"


def step(services: int, figure: float) -> Step:
    values = {field.name: figure for field in fields(Step)}
    return Step(**values | {"services": services, "packs": 2 * services})  # type: ignore[arg-type]


def test_growth_is_one_where_the_cost_grew_as_the_services_did() -> None:
    shown = figures([step(100, 2.0), step(1000, 20.0)])
    assert (shown["services"], shown["cpu_cores"], shown["cpu_cores_growth"]) == (1000, 20.0, 1.0)
    assert figures([step(100, 2.0), step(1000, 4.0)])["rss_mb_growth"] == 0.2


def test_the_picture_shows_each_size_and_goal_and_stays_inside_its_frame() -> None:
    drawn = picture([asdict(step(100, 2.0)), asdict(step(1000, 900.0))])
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"100", "1,000", "300", "30", "900.0"} <= texts
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 2 * len(CURVES)
    assert all(0 < float(c.attrib["cy"]) < 560 and float(c.attrib["cx"]) < 760 for c in circles)


def test_a_calibrated_status_is_what_the_search_ends_with() -> None:
    status = calibrated_status(SPEC, datetime(2026, 1, 1, tzinfo=UTC))
    assert status.recommended_replicas_per_pack == 2
    assert status.calibration is not None
    assert status.calibration.phase == "Done"
    assert len(status.frontier) > 2


def test_an_audit_log_is_read_from_the_middle_of_a_line_to_the_middle_of_another(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.log"
    line = audited("patch", "slmservices") + "\n"
    path.write_text(line * 3 + line[:20])
    log = AuditLog(path)
    counts = {at: log.since(at).writes for at in (0, 1, len(line) - 1, len(line), len(line) + 1)}
    assert counts == {0: 3, 1: 2, len(line) - 1: 2, len(line): 2, len(line) + 1: 1}
