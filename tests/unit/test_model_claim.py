"""The development cluster's claim with the small model: what a service names is what is there."""

from pathlib import Path
from typing import Any

from slm_dev.cluster.model_claim import CLAIM, MODEL_URI, volume_and_claim
from slm_operator.api.pod_rules import MODEL_MOUNT
from slm_operator.render.model_volume import mount, path_in_pod

FOLDER = Path("/var/lib/models")


def test_volume_and_claim_are_bound_to_each_other_alone() -> None:
    volume, claim = volume_and_claim("team-a", FOLDER)

    assert volume["spec"]["claimRef"] == {"namespace": "team-a", "name": CLAIM}
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"] == f"team-a-{CLAIM}"
    for each in (volume, claim):
        assert each["spec"]["storageClassName"] == ""
        assert each["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_a_service_that_names_it_gets_the_models_folder() -> None:
    pod: dict[str, Any] = {"volumes": [], "containers": [{"volumeMounts": []}]}

    mount(pod, MODEL_URI)

    (mounted,) = pod["volumes"]
    assert mounted["persistentVolumeClaim"] == {"claimName": CLAIM, "readOnly": True}
    assert path_in_pod(MODEL_URI) == f"file://{MODEL_MOUNT}/smollm2-135m-instruct"
