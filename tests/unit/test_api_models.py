"""SLMService objects as the operator reads and reports them."""

from typing import Any

import pytest
from pydantic import ValidationError

from slm_operator.api.models import Autoscaling, SLMService
from slm_operator.api.status import (
    CalibrationStatus,
    Condition,
    FrontierPoint,
    HistoryEntry,
    MeasuringStatus,
    OperatingPointStatus,
    SLMServiceStatus,
)

NOW = "2026-01-01T00:00:00Z"


def stored(spec: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """An object as the API server returns it."""
    return {
        "apiVersion": "serving.slm.dev/v1alpha1",
        "kind": "SLMService",
        "metadata": {
            "name": "chat",
            "namespace": "team",
            "uid": "1-2-3",
            "generation": 7,
            "resourceVersion": "99",
            "managedFields": [],
        },
        "spec": {"model": {"uri": "hf://facebook/opt-1.3b"}, **(spec or {})},
        **others,
    }


def service(spec: dict[str, Any] | None = None) -> SLMService:
    return SLMService.from_object(stored(spec))


def condition(**changes: Any) -> Condition:
    given = {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": "",
        "last_transition_time": NOW,
        "observed_generation": 1,
    }
    return Condition(**{**given, **changes})


def test_metadata_is_read_from_the_object() -> None:
    chat = service()
    assert (chat.name, chat.namespace, chat.uid, chat.generation) == ("chat", "team", "1-2-3", 7)
    assert not chat.deleting


def test_a_deletion_timestamp_means_deleting() -> None:
    obj = stored()
    obj["metadata"]["deletionTimestamp"] = NOW
    assert SLMService.from_object(obj).deleting


def test_the_smallest_spec_has_every_default() -> None:
    spec = service().spec
    assert (spec.engine.kind, spec.engine.image, spec.engine.args, spec.engine.env) == (
        "vLLM",
        "",
        (),
        (),
    )
    assert spec.engine.max_num_seqs is None
    assert (spec.gpu.kind, spec.gpu.resource_name) == ("NVIDIA", "nvidia.com/gpu")
    assert spec.gpu.mps is None
    assert (spec.packs, spec.replicas_per_pack, spec.autoscaling) == (1, None, None)
    assert spec.model.credentials_secret_ref is None


def test_autoscaling_left_out_means_its_defaults() -> None:
    scaling = service().autoscaling
    assert scaling == Autoscaling()
    assert (scaling.mode, scaling.objective) == ("Auto", "Balanced")
    assert (scaling.min_replicas_per_pack, scaling.max_replicas_per_pack) == (1, 8)
    assert scaling.min_throughput_gain_percent == 3
    assert scaling.max_energy_increase_percent == 5
    load = scaling.calibration
    assert (load.when, load.prompt_tokens, load.output_tokens) == ("OnStart", 128, 256)


def test_autoscaling_given_in_part_keeps_the_other_defaults() -> None:
    scaling = service({"autoscaling": {"maxReplicasPerPack": 3}}).autoscaling
    assert (scaling.min_replicas_per_pack, scaling.max_replicas_per_pack) == (1, 3)


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [
        ({"packs": 3}, {"desiredPacks": 2}, 3),
        ({"autoscaling": {"maxPacks": 4}}, {}, 1),
        ({"autoscaling": {"minPacks": 2, "maxPacks": 4}}, {}, 2),
        ({"autoscaling": {"maxPacks": 4}}, {"desiredPacks": 3, "packs": 1}, 3),
        ({"autoscaling": {"maxPacks": 4}}, {"packs": 3}, 3),
        ({"autoscaling": {"maxPacks": 2}}, {"desiredPacks": 3}, 2),
    ],
    ids=["fixed", "at least one", "fewest", "decided", "there already", "most"],
)
def test_packs_are_those_of_the_spec_or_those_decided_within_the_bounds(
    spec: dict[str, Any], status: dict[str, Any], wanted: int
) -> None:
    chat = SLMService.from_object(stored(spec, status=status))
    assert chat.wanted_packs == wanted
    assert chat.follows_demand == ("packs" not in spec)


def test_clients_send_the_name_of_the_service_unless_another_is_given() -> None:
    assert service().model_name == "chat"
    named = {"model": {"uri": "hf://facebook/opt-1.3b", "name": "facebook/opt-1.3b"}}
    assert service(named).model_name == "facebook/opt-1.3b"


def test_camel_case_fields_are_read() -> None:
    spec = service(
        {
            "model": {
                "uri": "hf://a/b",
                "credentialsSecretRef": {"name": "hf-token", "key": "token"},
            },
            "engine": {"args": ["--x"], "env": [{"name": "A", "value": "1"}], "maxNumSeqs": 64},
            "replicasPerPack": 2,
        }
    ).spec
    secret = spec.model.credentials_secret_ref
    assert secret is not None
    assert (secret.name, secret.key) == ("hf-token", "token")
    assert (spec.engine.args, spec.engine.max_num_seqs) == (("--x",), 64)
    assert [(each.name, each.value) for each in spec.engine.env] == [("A", "1")]
    assert spec.replicas_per_pack == 2


def test_fields_of_a_newer_version_are_ignored() -> None:
    newer = stored({"futureField": {"a": 1}}, status={"packs": 1, "futureReport": "x"})
    assert SLMService.from_object(newer).status.packs == 1


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {}}])
def test_an_object_without_status_has_an_empty_one(status: dict[str, Any]) -> None:
    assert SLMService.from_object(stored(**status)).status == SLMServiceStatus()


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        service().spec.packs = 2  # type: ignore[misc]


def test_a_stored_object_that_breaks_the_schema_is_refused_by_field() -> None:
    with pytest.raises(ValidationError, match="packs"):
        service({"packs": 0})


def full_status() -> SLMServiceStatus:
    figures: dict[str, Any] = {
        "replicas_per_pack": 2,
        "max_num_seqs": 256,
        "output_tokens_per_second": 10_642,
        "power_watts": 443,
        "microjoules_per_output_token": 41_630,
        "ttft_p95": "350ms",
        "itl_p95": "37.5ms",
        "measured_at": NOW,
    }
    return SLMServiceStatus(
        observed_generation=3,
        packs=1,
        ready_packs=1,
        selector="app.kubernetes.io/instance=chat",
        replicas=2,
        ready_replicas=2,
        recommended_replicas_per_pack=2,
        operating_point=OperatingPointStatus(**figures, joules_per_output_token="0.0416"),
        frontier=(
            FrontierPoint(
                **figures,
                layout_replicas=4,
                confidence_tokens_per_second=100,
                window_seconds=30,
                saturated_percent=100,
                simulated=True,
                on_frontier=True,
                chosen=True,
                why="the most throughput within the limits",
            ),
        ),
        calibration=CalibrationStatus(
            fingerprint="abc",
            phase="Searching",
            measuring=MeasuringStatus(
                layout_replicas=4,
                replicas_per_pack=2,
                max_num_seqs=256,
                since=NOW,
                window_seconds=30,
            ),
        ),
        conditions=(condition(),),
        history=(
            HistoryEntry(time=NOW, from_="1 x 256", to="2 x 256", reason="KneeFound", message="m"),
        ),
    )


def test_a_status_read_back_is_the_one_that_was_written() -> None:
    status = full_status()
    assert SLMServiceStatus.model_validate(status.to_object()) == status


def test_a_status_is_written_in_camel_case() -> None:
    written = full_status().to_object()
    assert written["operatingPoint"]["ttftP95"] == "350ms"
    assert written["operatingPoint"]["microjoulesPerOutputToken"] == 41_630
    assert written["history"][0]["from"] == "1 x 256"
    assert written["conditions"][0]["lastTransitionTime"] == NOW


def test_what_nobody_measured_is_absent_from_the_written_status() -> None:
    point = OperatingPointStatus(
        replicas_per_pack=1, max_num_seqs=8, output_tokens_per_second=129, measured_at=NOW
    )
    written = SLMServiceStatus(operating_point=point).to_object()
    assert set(written["operatingPoint"]) == {
        "replicasPerPack",
        "maxNumSeqs",
        "outputTokensPerSecond",
        "measuredAt",
    }
    assert "recommendedReplicasPerPack" not in written


def test_a_message_that_is_too_long_is_cut_rather_than_refused() -> None:
    cut = condition(message="x" * 5000).message
    assert len(cut) == 4096
    assert cut.endswith("x…")
    assert condition(message="x" * 4096).message == "x" * 4096


def test_a_duration_needs_a_unit() -> None:
    with pytest.raises(ValidationError, match=r"ttftP95|ttft_p95"):
        OperatingPointStatus(
            replicas_per_pack=1,
            max_num_seqs=8,
            output_tokens_per_second=1,
            measured_at=NOW,
            ttft_p95="350",
        )


def test_a_condition_is_found_by_its_type() -> None:
    status = full_status()
    assert status.condition("Ready") == condition()
    assert status.condition("Calibrated") is None


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [(None, None), ("0", 0), ("512", 512), ("4Gi", 4 * 2**30), ("250M", 250 * 10**6)],
)
def test_the_memory_kept_free_is_read_in_bytes(written: str | None, size_bytes: int | None) -> None:
    gpu = {} if written is None else {"memoryReserve": written}
    assert service({"gpu": gpu}).spec.gpu.memory_reserve_bytes == size_bytes
