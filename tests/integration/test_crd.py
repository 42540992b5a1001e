"""The CRD on a real API server: what it stores, what it refuses, and with which words."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from typer.testing import CliRunner

from cli_builders import found, object_of
from crd_cases import ACCEPTED, REFUSED, Object, spec, with_args
from kubectl_rig import Kubectl
from slm_dev.controlplane import ControlPlane
from slm_operator.api.crd import crd
from slm_operator.api.models import API_VERSION, GROUP, PLURAL, VERSION, SLMService
from slm_operator.api.rules import VALIDATIONS
from slm_operator.api.status import Condition, OperatingPointStatus, SLMServiceStatus
from slm_operator.cli.app import app
from slm_operator.cli.local.request import Request, manifest
from slm_worker.owned_arguments import OWNED_ENGINE_ARGUMENTS

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
NOW = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """With the CRD installed and served."""
    kubectl = Kubectl(control_plane, tmp_path_factory.mktemp("kubectl"))
    kubectl.install_crd()
    return kubectl


class Services:
    """SLMServices of one namespace, with fieldValidation Strict."""

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self._api = client.CustomObjectsApi(api_client)
        self._where: Any = {
            "group": GROUP,
            "version": VERSION,
            "plural": PLURAL,
            "namespace": namespace,
        }

    def create(self, spec: Object, name: str | None = None) -> Object:
        obj = {
            "apiVersion": API_VERSION,
            "kind": "SLMService",
            "metadata": {"name": name or f"chat-{uuid.uuid4().hex[:6]}"},
            "spec": spec,
        }
        return self._plain(
            self._api.create_namespaced_custom_object(
                **self._where, body=obj, field_validation="Strict"
            )
        )

    def refusal(self, spec: Object, name: str | None = None) -> str:
        """The message with which the API server refuses to create it."""
        with pytest.raises(client.ApiException) as caught:
            self.create(spec, name)
        assert caught.value.status in (400, 422)
        message: str = json.loads(caught.value.body or "{}")["message"]
        return message

    def patch(self, name: str, patch: Object) -> Object:
        return self._plain(
            self._api.patch_namespaced_custom_object(**self._where, name=name, body=patch)
        )

    def patch_status(self, name: str, status: Object) -> Object:
        return self._plain(
            self._api.patch_namespaced_custom_object_status(
                **self._where, name=name, body={"status": status}, field_validation="Strict"
            )
        )

    @staticmethod
    def _plain(answer: Any) -> Object:
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def services(control_plane: ControlPlane, kubectl: Kubectl, namespace: str) -> Iterator[Services]:
    with config.new_client_from_config(str(control_plane.kubeconfig("admin"))) as api_client:
        yield Services(api_client, namespace)


def test_the_crd_is_structural_and_its_rules_are_affordable(kubectl: Kubectl) -> None:
    crd = json.loads(kubectl("get", f"crd/{PLURAL}.{GROUP}", "-o", "json"))
    conditions = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_applied_and_reads_back_with_defaults(
    path: Path, kubectl: Kubectl, namespace: str
) -> None:
    kubectl("apply", "--validate=strict", f"--namespace={namespace}", "-f", str(path))
    (stored,) = json.loads(kubectl("get", "slm", f"--namespace={namespace}", "-o", "json"))["items"]
    written = yaml.safe_load(path.read_text())

    read = SLMService.from_object(stored)
    assert read.namespace == namespace
    assert read.spec == SLMService.from_object({**stored, "spec": written["spec"]}).spec, (
        "the API server's defaults and the models' differ"
    )
    assert stored["spec"]["engine"]["kind"] == written["spec"].get("engine", {}).get("kind", "vLLM")
    assert stored["spec"]["gpu"]["resourceName"] == "nvidia.com/gpu"
    assert ("autoscaling" in stored["spec"]) == ("autoscaling" in written["spec"])


def test_a_block_given_in_part_is_filled_with_defaults(services: Services) -> None:
    stored = services.create(spec(autoscaling={"maxReplicasPerPack": 3}))["spec"]["autoscaling"]
    assert stored == {
        "mode": "Auto",
        "minReplicasPerPack": 1,
        "maxReplicasPerPack": 3,
        "objective": "Balanced",
        "minThroughputGainPercent": 3,
        "maxEnergyIncreasePercent": 5,
        "calibration": {"when": "OnStart", "promptTokens": 128, "outputTokens": 256},
        "scaleDownStabilization": "5m",
        "powerPriority": 0,
    }


@pytest.mark.parametrize(
    "asked",
    [
        Request("hf://facebook/opt-1.3b", "NVIDIA"),
        Request(
            "file:///models/7B_chat.v2",
            "CPU",
            engine_args=("--dtype=float32", "--max-model-len", "512"),
            max_num_seqs=8,
            max_replicas=2,
            objective="MaxThroughput",
            ttft_p95="500ms",
            itl_p95="0.05s",
            power_budget_watts=400,
            prompt_tokens=16,
            output_tokens=64,
        ),
    ],
)
def test_what_slmctl_local_asks_for_is_accepted(asked: Request, services: Services) -> None:
    wanted = manifest(asked)
    services.create(wanted["spec"], wanted["metadata"]["name"])


@pytest.mark.parametrize("accepted", ACCEPTED)
def test_is_accepted(accepted: Object, services: Services) -> None:
    services.create(accepted)


@pytest.mark.parametrize(("refused", "words"), REFUSED)
def test_is_refused_with_field_and_remedy(
    refused: Object, words: list[str], services: Services
) -> None:
    message = services.refusal(refused)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    "name", ["a.b", "1chat", "chat-" + "x" * 46], ids=["dot", "digit first", "51 characters"]
)
def test_a_name_that_no_service_or_pod_could_bear_is_refused(name: str, services: Services) -> None:
    message = services.refusal(spec(), name)
    assert f"metadata.name is {name}: Services and Pods are named after it" in message
    assert "use at most 50" in message


def test_a_name_that_is_that_of_another_services_packs_is_refused_for_new_services_alone(
    services: Services, kubectl: Kubectl, tmp_path: Path
) -> None:
    message = services.refusal(spec(), "chat-packs")
    assert "metadata.name is chat-packs: it must not end in -packs" in message
    assert "use another ending" in message
    services.create(spec(), "chat-packs-a")

    former = crd()
    (version,) = former["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    root[VALIDATIONS] = [each for each in root[VALIDATIONS] if "oldSelf" not in each["rule"]]
    manifest = tmp_path / "crd.json"
    manifest.write_text(json.dumps(former))
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(manifest))
    try:
        soon(lambda: services.create(spec(), "old-packs"))
    finally:
        kubectl.install_crd()
    soon(lambda: services.refusal(spec(), f"new{uuid.uuid4().hex[:6]}-packs"))
    assert services.patch("old-packs", {"spec": {"packs": 2}})["spec"]["packs"] == 2
    status = SLMServiceStatus(observed_generation=2).to_object()
    assert services.patch_status("old-packs", status)["status"]["observedGeneration"] == 2


def soon(act: Callable[[], object]) -> None:
    """The API server takes another CRD into account a moment after it was stored."""
    deadline = time.monotonic() + 30
    while True:
        try:
            act()
        except (client.ApiException, pytest.fail.Exception):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def test_each_engine_argument_that_the_operator_owns_is_refused_in_every_form(
    services: Services,
) -> None:
    forms = [
        form
        for name in OWNED_ENGINE_ARGUMENTS
        for form in (name, f"{name}=1", f"{name}.a=1", name[:2] + name[2:].replace("-", "_"))
    ]
    for start in range(0, len(forms), 64):
        batch = forms[start : start + 64]
        message = services.refusal(with_args(*batch))
        missed = [
            form for form in batch if f"spec.engine.args has {form.split('=')[0]}, " not in message
        ]
        assert missed == []
        assert message.count("remove it") == len(batch)


@pytest.mark.parametrize(
    "shortened", ["--por", "--served-model=x", "--max_num_s=4", "--", "-t", "-as=4", "-n2"]
)
def test_a_shortened_argument_that_the_operator_owns_is_refused(
    shortened: str, services: Services
) -> None:
    message = services.refusal(with_args("--enforce-eager", shortened))
    assert "spec.engine.args[1]" in message
    assert f"spec.engine.args has {shortened.split('=')[0]}, which the operator sets" in message


def test_a_refused_argument_keeps_its_value_out_of_the_message(services: Services) -> None:
    assert "hunter2" not in services.refusal(with_args("--api-key=hunter2"))


def test_the_scale_subresource_counts_packs(
    kubectl: Kubectl, services: Services, namespace: str
) -> None:
    services.create(spec(), "chat")
    services.patch_status("chat", SLMServiceStatus(packs=1, selector="a=b").to_object())
    kubectl("scale", "slm/chat", "--replicas=3", f"--namespace={namespace}")

    raw = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/chat/scale"
    scale = json.loads(kubectl("get", "--raw", raw))
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 1, "selector": "a=b"}


def test_scaling_to_zero_is_refused(services: Services) -> None:
    services.create(spec(), "chat")
    with pytest.raises(client.ApiException, match="greater than or equal to 1"):
        services.patch("chat", {"spec": {"packs": 0}})


def test_spec_and_status_are_written_apart(services: Services) -> None:
    services.create(spec(), "chat")
    reported = SLMServiceStatus(
        observed_generation=1,
        packs=1,
        conditions=(
            Condition(
                type="Ready",
                status="False",
                reason="Starting",
                message="m",
                last_transition_time=NOW,
                observed_generation=1,
            ),
        ),
    )
    after_status = services.patch_status("chat", reported.to_object())
    assert SLMService.from_object(after_status).status == reported
    assert after_status["metadata"]["generation"] == 1

    after_spec = services.patch("chat", {"spec": {"packs": 2}, "status": {"packs": 9}})
    assert after_spec["metadata"]["generation"] == 2
    assert SLMService.from_object(after_spec).status == reported


def test_kubectl_shows_what_matters(kubectl: Kubectl, services: Services, namespace: str) -> None:
    services.create(spec(), "chat")
    services.patch_status(
        "chat",
        SLMServiceStatus(
            packs=1,
            ready_packs=1,
            ready_replicas=2,
            operating_point=OperatingPointStatus(
                replicas_per_pack=2,
                max_num_seqs=256,
                output_tokens_per_second=10_642,
                microjoules_per_output_token=41_630,
                joules_per_output_token="0.0416",
                measured_at=NOW,
            ),
            conditions=(
                Condition(
                    type="Ready",
                    status="True",
                    reason="Serving",
                    message="m",
                    last_transition_time=NOW,
                    observed_generation=1,
                ),
            ),
        ).to_object(),
    )
    header, row = kubectl("get", "slm", f"--namespace={namespace}").splitlines()
    assert header.split() == (
        ["NAME", "MODEL", "PACKS", "REPLICAS", "TOK/S", "J/TOK", "READY", "REASON", "AGE"]
    )
    assert row.split()[:-1] == (
        ["chat", "hf://facebook/opt-1.3b", "1", "2", "10642", "0.0416", "True", "Serving"]
    )


def test_kubectl_explains_the_fields(kubectl: Kubectl) -> None:
    assert "Number of packs" in kubectl("explain", "slm.spec.packs")


def test_a_recommendation_is_written_by_a_manager_of_its_own(
    control_plane: ControlPlane, kubectl: Kubectl, services: Services, namespace: str
) -> None:
    recommending = object_of(found())
    recommending["spec"]["autoscaling"] = {"mode": "Recommend"}
    services.create(recommending["spec"], "chat")
    services.patch_status("chat", recommending["status"])
    kubeconfig = f"--kubeconfig={control_plane.kubeconfig('admin')}"
    command = ["recommend", "chat", "--apply", f"--namespace={namespace}", kubeconfig]

    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    shown = kubectl("get", "slm/chat", f"-n{namespace}", "-o=json", "--show-managed-fields")
    stored = json.loads(shown)
    assert stored["spec"]["replicasPerPack"] == 2
    assert stored["spec"]["engine"] == {"image": "", "kind": "Simulated", "maxNumSeqs": 256}
    (owned,) = [
        e for e in stored["metadata"]["managedFields"] if e["manager"] == "slmctl-recommend"
    ]
    assert owned["fieldsV1"] == {
        "f:spec": {"f:engine": {"f:maxNumSeqs": {}}, "f:replicasPerPack": {}}
    }

    # Once somebody else has set the count, it is theirs.
    patch = '--patch={"spec":{"replicasPerPack":3}}'
    kubectl("patch", "slm/chat", f"-n{namespace}", "--type=merge", "--field-manager=argocd", patch)
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1
    assert "argocd" in refused.output and "--force" in refused.output
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    assert (
        json.loads(kubectl("get", "slm/chat", f"-n{namespace}", "-o=json"))["spec"][
            "replicasPerPack"
        ]
        == 2
    )
