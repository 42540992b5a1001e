"""What a service becomes in the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from builders import service
from slm_operator.render import children
from slm_worker import agent, ending
from slm_worker.gpu import mps
from slm_worker.replicas import output, process
from slm_worker.routing import haproxy, holder
from slm_worker.wire import CONFIG_VARIABLE, TOKEN_FILE_VARIABLE, MpsConfig, PackConfig


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e for e in container(pod)["env"]}


def test_the_agent_is_told_what_is_fixed_for_its_life() -> None:
    pod = children.pack_pod(service(), 0, "worker:1")
    config = PackConfig.model_validate_json(env(pod)[CONFIG_VARIABLE]["value"])
    assert (config.model.uri, config.model.name) == ("hf://facebook/opt-1.3b", "chat")
    assert container(pod)["image"] == "worker:1"


def test_the_token_is_a_file_of_a_mounted_secret_and_stands_nowhere_else() -> None:
    pod = children.pack_pod(service(), 0, "worker:1")
    assert env(pod)[TOKEN_FILE_VARIABLE] == {"name": TOKEN_FILE_VARIABLE, "value": "/run/slm/token"}
    mount = {"name": "agent-token", "mountPath": "/run/slm", "readOnly": True}
    assert mount in container(pod)["volumeMounts"], "no subPath: it would never see a new token"
    secret = {v["name"]: v.get("secret") for v in pod["spec"]["volumes"]}["agent-token"]
    assert secret["secretName"] == "chat-agent-token"
    assert secret["defaultMode"] == 0o440, "for the group of the Pod, and nobody else"
    assert children.token_secret(service(), "s3cret")["stringData"] == {"token": "s3cret"}


def test_an_nvidia_pack_owns_one_whole_gpu_and_a_simulated_one_none() -> None:
    nvidia = service({"engine": {}, "gpu": {"kind": "NVIDIA", "resourceName": "example.com/gpu"}})
    limits = container(children.pack_pod(nvidia, 0, "w"))["resources"]["limits"]
    assert limits == {"example.com/gpu": "1"}
    assert "resources" not in container(children.pack_pod(service(), 0, "w"))


def test_a_pod_runs_with_the_least_rights() -> None:
    pod = children.pack_pod(service(), 0, "w")
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_credentials_reach_the_engine_by_reference() -> None:
    model = {"uri": "hf://a/b", "credentialsSecretRef": {"name": "hf", "key": "t"}}
    pod = children.pack_pod(service({"model": model}), 0, "w")
    assert env(pod)["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hf", "key": "t"}


def test_an_hf_model_can_be_downloaded_below_a_writable_home() -> None:
    pod = children.pack_pod(service(), 0, "w")
    home = env(pod)["HOME"]["value"]
    (mount,) = (m for m in container(pod)["volumeMounts"] if m["mountPath"] == home)
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    assert volumes[mount["name"]] == {"name": "tmp", "emptyDir": {}}


def test_the_users_variables_come_last_and_each_name_once() -> None:
    asked = {
        "model": {"uri": "hf://a/b", "credentialsSecretRef": {"name": "hf", "key": "t"}},
        "engine": {
            "kind": "Simulated",
            "env": [
                {"name": "HOME", "value": "/models"},
                {"name": "HF_TOKEN", "value": "mine"},
            ],
        },
    }
    pod = children.pack_pod(service(asked), 0, "w")
    assert env(pod)["HOME"] == {"name": "HOME", "value": "/models"}
    assert env(pod)["HF_TOKEN"] == {"name": "HF_TOKEN", "value": "mine"}
    names = [variable["name"] for variable in container(pod)["env"]]
    assert len(names) == len(set(names))


def test_the_agent_is_told_how_much_memory_to_keep_free() -> None:
    asked = {"engine": {}, "gpu": {"memoryReserve": "4Gi"}}
    assert children.pack_config(service(asked)).gpu.memory_reserve_bytes == 4 * 2**30
    assert children.pack_config(service()).gpu.memory_reserve_bytes is None


def test_the_agent_is_told_how_replicas_share_the_gpu() -> None:
    asked = {"engine": {}, "gpu": {"mps": {"activeThreadPercentage": 50}}}
    told = children.pack_config(service(asked)).gpu.mps
    assert told == MpsConfig(active_thread_percentage=50, fallback="OneReplica")
    sliced = {"engine": {}, "gpu": {"mps": {"fallback": "TimeSlicing"}}}
    told = children.pack_config(service(sliced)).gpu.mps
    assert told == MpsConfig(active_thread_percentage=None, fallback="TimeSlicing")
    assert children.pack_config(service()).gpu.mps == MpsConfig()


def test_an_agent_may_end_as_slowly_as_it_can() -> None:
    engines = (
        process.TERMINATE_GRACE_SECONDS
        + process.SECOND_TERMINATE_GRACE_SECONDS
        + process.GROUP_END_SECONDS
        + output.OUTPUT_END_SECONDS
    )
    router = haproxy.FINISH_TIMEOUT_SECONDS + holder.CLOSE_SECONDS
    longest = agent.LINGER_ON_EXIT_SECONDS + ending.DRAIN_ON_EXIT_SECONDS + engines + router
    longest += mps.MpsTimings().release_seconds + mps.MpsTimings().end_seconds
    pod = children.pack_pod(service(), 0, "w")
    a_pass = haproxy.COMMAND_TIMEOUT_SECONDS
    assert longest + a_pass < pod["spec"]["terminationGracePeriodSeconds"]


def test_every_child_is_owned_by_its_service() -> None:
    built = (
        children.pack_pod(service(), 1, "w"),
        children.token_secret(service(), "t"),
        children.front_service(service()),
    )
    for child in built:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("SLMService", "u1", True)
        assert child["metadata"]["labels"].items() >= children.selector(service()).items()


def test_only_what_runs_changes_the_template_hash() -> None:
    before = children.template_hash(service(), "w")
    assert children.template_hash(service({"packs": 3}), "w") == before
    assert children.template_hash(service({"replicasPerPack": 2}), "w") == before
    assert children.template_hash(service(), "w2") != before
    changed = service({"model": {"uri": "hf://facebook/opt-350m"}})
    assert children.template_hash(changed, "w") != before


@pytest.mark.parametrize(
    ("uri", "told", "source"),
    [
        (
            "pvc://models/opt/1.3b/",
            "file:///mnt/model/opt/1.3b",
            {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        ),
        (
            "pvc://models",
            "file:///mnt/model",
            {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        ),
        (
            "oci://registry.example.com/opt:v1",
            "file:///mnt/model",
            {"image": {"reference": "registry.example.com/opt:v1", "pullPolicy": "IfNotPresent"}},
        ),
    ],
    ids=["path in a claim", "whole claim", "image"],
)
def test_a_model_in_a_volume_is_a_directory_of_the_pack(
    uri: str, told: str, source: dict[str, Any]
) -> None:
    wanted = service({"model": {"uri": uri}})
    assert children.pack_config(wanted).model.uri == told
    pod = children.pack_pod(wanted, 0, "w")
    assert {"name": "model", **source} in pod["spec"]["volumes"]
    mount = {"name": "model", "mountPath": "/mnt/model", "readOnly": True}
    assert mount in container(pod)["volumeMounts"]


@pytest.mark.parametrize("uri", ["hf://a/b", "file:///models/opt"])
def test_other_models_need_no_volume(uri: str) -> None:
    wanted = service({"model": {"uri": uri}})
    assert children.pack_config(wanted).model.uri == uri
    pod = children.pack_pod(wanted, 0, "w")
    assert [v["name"] for v in pod["spec"]["volumes"]] == ["tmp", "shm", "agent-token"]


TEMPLATE: dict[str, Any] = {
    "labels": {"team": "a"},
    "annotations": {"example.com/why": "because"},
    "nodeSelector": {"nvidia.com/gpu.product": "H100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {
        "requests": {"cpu": 4, "ephemeral-storage": "20Gi"},
        "limits": {"memory": "16Gi"},
    },
    "volumes": [
        {
            "name": "models",
            "mountPath": "/models",
            "readOnly": True,
            "persistentVolumeClaim": {"claimName": "models"},
        },
        {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "1Gi"}},
    ],
    "imagePullSecrets": [{"name": "registry"}],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
}


def test_the_pod_template_is_added_to_what_the_operator_sets() -> None:
    plain = children.pack_pod(service({"engine": {}, "gpu": {}}), 0, "w")
    pod = children.pack_pod(service({"engine": {}, "gpu": {}, "podTemplate": TEMPLATE}), 0, "w")
    spec, metadata = pod["spec"], pod["metadata"]
    assert metadata["labels"] == plain["metadata"]["labels"] | {"team": "a"}
    assert metadata["annotations"]["example.com/why"] == "because"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}
    assert spec["tolerations"] == TEMPLATE["tolerations"]
    assert container(pod)["resources"] == {
        "requests": {"cpu": "4", "ephemeral-storage": "20Gi"},
        "limits": {"nvidia.com/gpu": "1", "memory": "16Gi"},
    }
    assert spec["volumes"][len(plain["spec"]["volumes"]) :] == [
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
    ]
    assert container(pod)["volumeMounts"][len(container(plain)["volumeMounts"]) :] == [
        {"name": "models", "mountPath": "/models", "readOnly": True},
        {"name": "scratch", "mountPath": "/scratch"},
    ]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("high", "nvidia")
    for kept in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert spec[kept] == plain["spec"][kept]


def test_the_operators_own_labels_win() -> None:
    own = {"labels": {"app.kubernetes.io/instance": "other", "serving.slm.dev/pack": "9"}}
    pod = children.pack_pod(service({"podTemplate": own}), 1, "w")
    assert pod["metadata"]["labels"] == children.pack_pod(service(), 1, "w")["metadata"]["labels"]


@pytest.mark.parametrize("field", sorted(TEMPLATE))
def test_each_change_of_the_template_replaces_the_packs(field: str) -> None:
    before = children.template_hash(service({"podTemplate": {}}), "w")
    assert before == children.template_hash(service(), "w")
    changed = service({"podTemplate": {field: TEMPLATE[field]}})
    assert children.template_hash(changed, "w") != before


@pytest.mark.parametrize(("packs", "stay"), [(4, 3), (2, 1), (1, 0), (0, 0)])
def test_a_drain_takes_one_pack_at_a_time_and_is_never_held_up_by_a_lone_one(
    packs: int, stay: int
) -> None:
    budget = children.disruption_budget(service(), packs)
    assert budget["spec"]["minAvailable"] == stay
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    labels = children.pack_pod(service(), 0, "w")["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_packs_have_addresses_of_their_own_beside_the_front() -> None:
    front, packs = children.front_service(service()), children.headless_service(service())
    assert (front["metadata"]["name"], packs["metadata"]["name"]) == ("chat", "chat-packs")
    assert packs["spec"]["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in packs["spec"], "only packs that answer"
    assert packs["spec"]["selector"] == front["spec"]["selector"]


def test_packs_prefer_different_nodes_and_insist_on_none() -> None:
    (spread,) = children.pack_pod(service(), 0, "w")["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname",
        "ScheduleAnyway",
    )
