"""What ``slmctl local`` found, as text, JSON, and an SLMService for a cluster."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import yaml
from rich.console import Console

from cli_builders import answer, condition
from slm_operator.api.models import SLMService
from slm_operator.cli.local.answer import Answer, document, manifest_text, slmservice, text
from slm_operator.cli.local.pack import readable


def shown(found: Answer) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    console.print(text(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def comments(found: Answer) -> str:
    lines = manifest_text(found).splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_the_yaml_is_the_service_that_was_asked_for_with_the_chosen_batch() -> None:
    one = answer(max_replicas=4)
    written = yaml.safe_load(manifest_text(one))
    assert written == slmservice(one)
    assert written["spec"]["engine"] == {"kind": "Simulated", "maxNumSeqs": 256}
    assert written["spec"]["autoscaling"] == {"maxReplicasPerPack": 4}
    assert "replicasPerPack" not in written["spec"]
    metadata = written["metadata"] | {"namespace": "default", "uid": "u"}
    assert SLMService.from_object(written | {"metadata": metadata}).name == "opt-1-3b"


def test_the_yaml_says_what_it_rests_on_and_how_to_fix_the_count() -> None:
    said = comments(answer())
    assert "Measured by slmctl local on Simulated H100 SXM 64 GB" in said
    assert "2 replicas x 256: 10,642 ± 21 tok/s, 443 W" in said
    assert "(simulated)" in said
    assert "write spec.replicasPerPack: 2." in said
    assert "in place of spec.autoscaling" in comments(answer(max_replicas=4))


def test_a_model_in_a_directory_comes_with_the_warning_that_a_cluster_has_another() -> None:
    assert "inside the worker's container" in comments(answer("file:///models/x"))
    assert "inside the worker's container" not in comments(answer())


def test_json_holds_knee_points_and_the_service() -> None:
    told = json.loads(json.dumps(document(answer())))
    assert told["knee"] == {
        "replicasPerPack": 2,
        "maxNumSeqs": 256,
        "outputTokensPerSecond": 10642,
        "powerWatts": 443,
        "microjoulesPerOutputToken": 41637,
    }
    assert told["simulated"] is True
    assert told["seconds"] == 88.5
    assert "is Pareto-optimal" in told["why"]
    assert [p["replicasPerPack"] for p in told["points"] if p["chosen"]] == [2]
    assert told["slmService"]["kind"] == "SLMService"


def test_the_text_has_table_picture_reasons_and_where_it_was_measured() -> None:
    said = shown(answer())
    for part in ("10,642 ± 21", "J/output token", "◆ chosen", "is Pareto-optimal"):
        assert part in said
    assert "Measured on Simulated H100 SXM 64 GB of a machine with 2 cores, in 88 s." in said
    assert "The figures are simulated: no GPU was measured." in said


def test_power_that_nothing_measures_is_unknown() -> None:
    one = answer(gpu="CPU", max_num_seqs=8)
    assert document(one)["knee"]["powerWatts"] is None
    assert "power unknown" in comments(one)


def test_a_knee_at_the_end_of_what_was_tried_says_so() -> None:
    assert answer().bounded == ""
    most = answer(max_replicas=2)
    assert most.bounded == "No more than 2 were tried: a larger --max-replicas may serve more."
    assert most.bounded in shown(most)
    broken = most.service.status.model_copy(
        update={"conditions": (condition("PowerBudgetMet", "False", "OverBudget"),)}
    )
    service = most.service.model_copy(update={"status": broken})
    assert replace(most, service=service).bounded == ""


def test_a_line_of_the_agents_log_is_shown_as_a_person_reads_it() -> None:
    line = (
        '{"time": "2026-01-01T10:20:30.1+00:00", "level": "error", "message": "no", "replica": 1}'
    )
    assert readable(line) == "10:20:30 error: replica 1: no"
    assert readable(line.replace(', "replica": 1', "")) == "10:20:30 error: no"
    for other in ("Traceback (most recent call last):", "17", '{"level": "x"}'):
        assert readable(other) == other
