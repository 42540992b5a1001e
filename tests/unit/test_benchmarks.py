"""What the benchmarks compute by themselves."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import purposes
from benchmarks.operator_idle import requests_of
from benchmarks.vllm_replicas import SpoiltWindowError, Window, between, summary
from slm_worker.wire import Counters


def audited(verb: str, resource: str, user: str = "slm-operator", **more: Any) -> str:
    event = {"verb": verb, "user": {"username": user}, "objectRef": {"resource": resource, **more}}
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
    asked = requests_of("slm-operator", iter(log))
    assert (asked.reads, asked.writes) == (3, 3)
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
