"""What the chart makes of its values, as helm renders it; no cluster is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.main import get_command

from helm_rig import (
    ACTIVATOR,
    CHART,
    MONITORING,
    NAMESPACE,
    RELEASE,
    Object,
    Rendered,
    Values,
    render,
    run_helm,
)
from slm_operator import main
from slm_operator.activator import main as activator_main
from slm_operator.activator.wire import CONTROL_PORT, TOKEN_LENGTH, TOKEN_VARIABLE
from slm_operator.keys import KEY_LENGTH
from slm_operator.main import KEY_FILE_VARIABLE, TRACES_GO_TO
from slm_operator.render.children import MANAGED_BY, MANAGED_BY_LABEL

RIGHTS = CHART / "files" / "operator-rbac.yaml"


@pytest.fixture(scope="module")
def defaults() -> Rendered:
    return render()


def rights(kind: str) -> list[Object]:
    (found,) = (e for e in yaml.safe_load_all(RIGHTS.read_text()) if e["kind"] == kind)
    rules: list[Object] = found["rules"]
    return rules


def options(start: Any) -> set[str]:
    app = Typer()
    app.command()(start)
    return {option for each in get_command(app).params for option in each.opts}


def test_lint_finds_nothing() -> None:
    done = run_helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


# Images and arguments


def test_tags_are_those_of_the_chart(defaults: Rendered) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert defaults.container()["image"] == f"slm-operator:{version}"
    assert defaults.container(ACTIVATOR)["image"] == f"slm-operator:{version}"
    assert f"--worker-image=slm-worker:{version}" in defaults.arguments()


def test_a_digest_pins_an_image() -> None:
    digest = "sha256:" + "ab" * 32
    image = {"repository": "registry.example/slm", "tag": "2", "digest": digest}
    found = render({"image": image, "worker": {"image": image}})
    assert found.container()["image"] == f"registry.example/slm:2@{digest}"
    assert f"--worker-image=registry.example/slm:2@{digest}" in found.arguments()


def test_pull_secrets_are_those_of_every_pod() -> None:
    found = render({"imagePullSecrets": [{"name": "registry"}]})
    pods = [found.pod(), found.pod(ACTIVATOR), found.of("Pod")[0]["spec"]]
    assert [each["imagePullSecrets"] for each in pods] == [[{"name": "registry"}]] * 3


def test_the_pack_of_helm_test_is_pulled_with_them_too(defaults: Rendered) -> None:
    (service,) = render({"imagePullSecrets": [{"name": "registry"}]}).of("SLMService")
    assert service["spec"]["podTemplate"] == {"imagePullSecrets": [{"name": "registry"}]}
    (plain,) = defaults.of("SLMService")
    assert "podTemplate" not in plain["spec"]


@pytest.mark.parametrize(
    ("values", "argument"),
    [
        ({"operator": {"logFormat": "text"}}, "--log-format=text"),
        (
            {"operator": {"clusterPowerBudgetWatts": 2_000_000}},
            "--cluster-power-budget-watts=2000000",
        ),
        ({"operator": {"demandSampleSeconds": 2.5}}, "--demand-sample-seconds=2.5"),
        ({"operator": {"windows": {"minSeconds": 4}}}, "--min-window-seconds=4"),
        ({"operator": {"windows": {"maxSeconds": 240}}}, "--max-window-seconds=240"),
        ({"operator": {"windows": {"warmupSeconds": 0}}}, "--warmup-seconds=0"),
        (
            {"operator": {"extraArgs": ["--activator-address=10.0.0.9"]}},
            "--activator-address=10.0.0.9",
        ),
        (
            {"activator": {"ports": {"first": 30000, "last": 30009}}},
            "--activator-ports=30000-30009",
        ),
        ({"fullnameOverride": "slm"}, "--lease-name=slm"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_values_become_arguments(values: Values, argument: str) -> None:
    found = render(values)
    assert argument in found.arguments(found.names("Deployment")[-1])


def test_the_operator_is_told_of_a_collector_only_where_there_is_one(defaults: Rendered) -> None:
    def told(found: Rendered) -> list[str]:
        return [e["value"] for e in found.container()["env"] if e["name"] in TRACES_GO_TO]

    assert told(defaults) == []
    url = "http://collector.observability:4318"
    assert told(render({"operator": {"tracing": {"otlpEndpoint": url}}})) == [url]


def test_both_programs_know_their_arguments() -> None:
    found = render({"operator": {"clusterPowerBudgetWatts": 5}})
    for name, start in ((RELEASE, main.start), (ACTIVATOR, activator_main.start)):
        given = {each.partition("=")[0] for each in found.arguments(name)}
        assert given <= options(start)


def test_without_budget_none_is_given(defaults: Rendered) -> None:
    assert not any("power" in each for each in defaults.arguments())


def test_two_operators_share_a_lease_of_their_namespace(defaults: Rendered) -> None:
    assert defaults.one("Deployment")["spec"]["replicas"] == 2
    assert {
        "--leader-election",
        f"--lease-name={RELEASE}",
        f"--lease-namespace={NAMESPACE}",
    } <= set(defaults.arguments())


# Pods


@pytest.mark.parametrize("name", [RELEASE, ACTIVATOR])
def test_pods_have_no_privileges(defaults: Rendered, name: str) -> None:
    assert defaults.pod(name)["securityContext"]["runAsNonRoot"] is True
    assert defaults.pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert defaults.container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_no_pod_looks_like_a_pack(defaults: Rendered) -> None:
    for each in defaults.of("Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert labels.get(MANAGED_BY_LABEL) != MANAGED_BY


def test_only_the_operator_has_a_token_of_the_api_server(defaults: Rendered) -> None:
    assert defaults.pod()["automountServiceAccountToken"] is True
    assert defaults.pod(ACTIVATOR)["automountServiceAccountToken"] is False
    assert defaults.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_operators_prefer_different_nodes_unless_told_otherwise(defaults: Rendered) -> None:
    assert "podAntiAffinity" in defaults.pod()["affinity"]
    own: Values = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}
    assert render({"operator": {"affinity": own}}).pod()["affinity"] == own


def test_a_spread_constraint_counts_the_operators_own_pods() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
    }
    found = render({"operator": {"topologySpreadConstraints": [constraint]}})
    selector = found.one("Deployment")["spec"]["selector"]
    assert found.pod()["topologySpreadConstraints"] == [{**constraint, "labelSelector": selector}]


def test_a_spread_constraint_with_a_selector_of_its_own_is_left_alone() -> None:
    constraint = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"tier": "control"}},
    }
    found = render({"operator": {"topologySpreadConstraints": [constraint]}})
    assert found.pod()["topologySpreadConstraints"] == [constraint]


@pytest.mark.parametrize(
    ("value", "field", "given"),
    [
        ("nodeSelector", "nodeSelector", {"a": "b"}),
        ("tolerations", "tolerations", [{"key": "a", "operator": "Exists"}]),
        ("priorityClassName", "priorityClassName", "system-cluster-critical"),
    ],
)
@pytest.mark.parametrize(("group", "name"), [("operator", RELEASE), ("activator", ACTIVATOR)])
def test_scheduling_is_passed_on(
    value: str, field: str, given: object, group: str, name: str
) -> None:
    assert render({group: {value: given}}).pod(name)[field] == given


def test_extras_are_added_to_what_is_there(defaults: Rendered) -> None:
    env = {"name": "A", "value": "b"}
    volume, mount = {"name": "v", "emptyDir": {}}, {"name": "v", "mountPath": "/v"}
    found = render(
        {
            "operator": {
                "extraEnv": [env],
                "extraVolumes": [volume],
                "extraVolumeMounts": [mount],
                "podLabels": {"pod": "label"},
                "podAnnotations": {"pod": "annotation"},
            },
            "commonLabels": {"team": "x"},
            "commonAnnotations": {"owner": "y"},
        }
    )
    before = defaults.container()
    assert found.container()["env"] == [*before["env"], env]
    assert found.container()["volumeMounts"] == [*before["volumeMounts"], mount]
    assert found.pod()["volumes"] == [*defaults.pod()["volumes"], volume]
    metadata = found.one("Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"] | {"pod": "label", "team": "x"} == metadata["labels"]
    assert metadata["annotations"] == {"pod": "annotation", "owner": "y"}
    for each in found.objects:
        assert each["metadata"]["labels"]["team"] == "x", each["kind"]
        assert each["metadata"]["annotations"]["owner"] == "y", each["kind"]


def test_labels_of_all_objects_replace_none_of_the_charts_own() -> None:
    found = render({"commonLabels": {"app.kubernetes.io/name": "other"}})
    labels = found.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "slm-operator"


@pytest.mark.parametrize(
    ("operator", "expected"),
    [({}, [RELEASE]), ({"replicas": 1}, []), ({"maxUnavailable": None}, [])],
    ids=["two", "one", "none wanted"],
)
def test_a_disruption_budget_guards_several(operator: Values, expected: list[str]) -> None:
    assert render({"operator": operator}).names("PodDisruptionBudget") == expected


# Rights, CRD, secret


def test_the_rights_are_those_of_the_one_file(defaults: Rendered) -> None:
    assert defaults.of("ClusterRole")[0]["rules"] == rights("ClusterRole")
    lease, by_name = rights("Role")
    by_name = {**by_name, "resourceNames": [RELEASE]}
    assert defaults.one("Role", f"{RELEASE}-leader-election")["rules"] == [lease, by_name]
    assert defaults.names("Role") == [f"{RELEASE}-leader-election"]


def test_watched_namespaces_get_the_rights_and_the_cluster_but_the_look_at_kinds() -> None:
    found = render({"watchNamespaces": ["a", "b"]})
    (kinds,) = found.of("ClusterRole")[0]["rules"]
    assert (kinds["resources"], kinds["verbs"]) == (
        ["customresourcedefinitions"],
        ["list", "watch"],
    )
    for namespace in ("a", "b"):
        role = found.one("Role", RELEASE, namespace)
        assert [kinds, *role["rules"]] == sorted(
            rights("ClusterRole"), key=lambda rule: rule != kinds
        )
        binding = found.one("RoleBinding", RELEASE, namespace)
        assert binding["subjects"][0]["namespace"] == NAMESPACE
    told = [each for each in found.arguments() if each.startswith("--watch")]
    assert told == ["--watch-namespace=a", "--watch-namespace=b"]
    (service,) = found.of("SLMService")
    assert service["metadata"]["namespace"] == "a"


def test_the_lease_that_may_be_held_is_the_one_that_is_named() -> None:
    found = render({"fullnameOverride": "slm"})
    rule = found.one("Role", "slm-leader-election")["rules"][1]
    assert rule["resourceNames"] == ["slm"]


def test_bindings_name_the_account_of_the_pods() -> None:
    found = render({"serviceAccount": {"create": False, "name": "own"}})
    assert found.pod()["serviceAccountName"] == "own"
    assert found.of("ServiceAccount") == []
    for each in found.of("ClusterRoleBinding") + found.of("RoleBinding"):
        assert each["subjects"] == [
            {"kind": "ServiceAccount", "name": "own", "namespace": NAMESPACE}
        ]


def test_the_crd_is_a_template_that_stays(defaults: Rendered) -> None:
    (crd,) = defaults.of("CustomResourceDefinition")
    file = CHART / "files" / "crds" / f"{crd['metadata']['name']}.yaml"
    assert crd["spec"] == yaml.safe_load(file.read_text())["spec"]
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (goes,) = render({"crds": {"keep": False}}).of("CustomResourceDefinition")
    assert "annotations" not in goes["metadata"]
    assert render({"crds": {"install": False}}).of("CustomResourceDefinition") == []


def test_both_programs_read_one_secret(defaults: Rendered) -> None:
    secret = defaults.one("Secret", f"{RELEASE}-key")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    env = {e["name"]: e for e in defaults.container()["env"]}
    assert set(env) == {KEY_FILE_VARIABLE, TOKEN_VARIABLE}
    taken = env[TOKEN_VARIABLE]["valueFrom"]["secretKeyRef"]["key"]
    volume = key_volume(defaults)
    (item,) = volume["items"]
    assert {taken, item["key"]} == set(secret["data"])
    (mount,) = [m for m in defaults.container()["volumeMounts"] if m["name"] == "key"]
    assert "subPath" not in mount, "the kubelet would never bring a newer key"
    assert env[KEY_FILE_VARIABLE]["value"] == f"{mount['mountPath']}/{item['path']}"
    assert volume["secretName"] == secret["metadata"]["name"]
    assert volume["defaultMode"] == 0o440
    assert all(len(each) >= max(KEY_LENGTH, TOKEN_LENGTH) for each in secret["data"].values())
    (token,) = defaults.container(ACTIVATOR)["env"]
    assert (token["name"], token["valueFrom"]["secretKeyRef"]["name"]) == (
        TOKEN_VARIABLE,
        secret["metadata"]["name"],
    )


def test_a_secret_of_ones_own_is_used_and_none_made() -> None:
    found = render({"secret": {"existing": "mine"}})
    assert found.of("Secret") == []
    for name in (RELEASE, ACTIVATOR):
        for each in found.container(name)["env"]:
            assert "value" in each or each["valueFrom"]["secretKeyRef"]["name"] == "mine"
    assert key_volume(found)["secretName"] == "mine"


def key_volume(found: Rendered) -> Object:
    spec = found.one("Deployment", RELEASE)["spec"]["template"]["spec"]
    (volume,) = [v for v in spec["volumes"] if v["name"] == "key"]
    secret: Object = volume["secret"]
    return secret


# Activator


def test_the_operator_reaches_the_one_activator_by_its_pods_address(defaults: Rendered) -> None:
    service = defaults.one("Service", ACTIVATOR)
    deployment = defaults.one("Deployment", ACTIVATOR)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["replicas"] == 1
    assert f"--activator-url=http://{ACTIVATOR}.{NAMESPACE}.svc:{CONTROL_PORT}" in (
        defaults.arguments()
    )


def test_without_activator_nothing_speaks_of_it() -> None:
    values = {
        "activator": {"enabled": False},
        "networkPolicy": {"enabled": True, "packNamespaces": ["a"]},
        "monitoring": {"serviceMonitor": {"enabled": True}},
        "secret": {"existing": "mine"},
    }
    found = render(values, *MONITORING).objects
    assert [e["kind"] for e in found if ACTIVATOR in json.dumps(e)] == []
    assert not any(TOKEN_VARIABLE in json.dumps(each) for each in found)


# helm test


def test_the_test_asks_the_service_that_it_makes(defaults: Rendered) -> None:
    service, pod = defaults.one("SLMService", f"{RELEASE}-test"), defaults.of("Pod")[0]
    assert service["spec"]["engine"]["kind"] == service["spec"]["gpu"]["kind"] == "Simulated"
    weights = [e["metadata"]["annotations"]["helm.sh/hook-weight"] for e in (service, pod)]
    assert weights == ["0", "1"]
    (container,) = pod["spec"]["containers"]
    where = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert f"--url=http://{where}" in container["args"]
    assert f"--model={service['metadata']['name']}" in container["args"]


def test_the_tests_pod_stays_so_that_helm_can_show_its_log(defaults: Rendered) -> None:
    """`helm test --logs` asks for the log of a Pod named like each hook, once those that go when
    they succeeded are gone."""
    hooks = [defaults.one("SLMService", f"{RELEASE}-test"), *defaults.of("Pod")]
    assert {e["metadata"]["name"] for e in hooks} == {f"{RELEASE}-test"}
    policies = [e["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for e in hooks]
    assert policies == ["before-hook-creation,hook-succeeded", "before-hook-creation"]
