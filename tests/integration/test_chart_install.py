"""The chart on a real API server: what it makes is taken, and a release's life loses nothing.

There is no node: what its Pods do is shown where there is one.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from helm_rig import (
    CHART,
    CRD,
    RELEASE,
    Object,
    Rendered,
    Values,
    previous_chart,
    render,
    run_helm,
    spec_fields,
)
from kubectl_rig import Kubectl
from slm_dev.controlplane import ControlPlane
from slm_dev.local_node.addresses import AddressPool
from slm_dev.program import Program
from slm_operator.api.models import GROUP, PLURAL
from slm_operator.keys import KEY_LENGTH
from slm_operator.main import KEY_VARIABLE

WAIT_SECONDS = 90.0
EVERYTHING: Values = {
    "networkPolicy": {
        "enabled": True,
        "packNamespaces": ["default"],
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "chat"}}}],
        "prometheus": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    },
    "monitoring": {"dashboards": {"enabled": True}},
    "operator": {
        "clusterPowerBudgetWatts": 2000,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule",
            }
        ],
        "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "extraEnv": [{"name": "PYTHONUNBUFFERED", "value": "1"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "podAnnotations": {"example.com/a": "b"},
    },
    "imagePullSecrets": [{"name": "registry"}],
    "commonLabels": {"team": "platform"},
    "commonAnnotations": {"example.com/owner": "platform"},
}


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    kubectl = Kubectl(control_plane, tmp_path_factory.mktemp("kubectl"))
    kubectl.install_crd()
    return kubectl


class Helm:
    """Runs helm for one release in a namespace of its own."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.namespace = namespace
        self._options = ("--kubeconfig", str(kubeconfig), "--namespace", namespace)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_helm(*arguments, *self._options)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def helm(control_plane: ControlPlane, kubectl: Kubectl) -> Iterator[Helm]:
    namespace = f"slm-system-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", namespace)
    yield Helm(control_plane.kubeconfig("admin"), namespace)
    # Nothing of a release may be left to the tests that share the API server.
    mine = f"app.kubernetes.io/part-of=slm-operator,app.kubernetes.io/instance={RELEASE}"
    kubectl("delete", "clusterrole,clusterrolebinding", "--selector", mine)
    kubectl("delete", "slm", "--all", "--namespace", namespace)


def dry_run(kubectl: Kubectl, rendered: Rendered) -> str:
    """The API server's words on what it would make."""
    text = yaml.safe_dump_all(rendered.objects)
    return kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"),
        *("-f", "-"),
        stdin=text,
    )


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_api_server_takes_every_object(
    kubectl: Kubectl, namespace: str, values: Values
) -> None:
    rendered = render(values, "--namespace", namespace)
    assert dry_run(kubectl, rendered).count("(server dry run)") == len(rendered.objects)


def test_the_pods_keep_the_restricted_pod_security_standard(
    kubectl: Kubectl, namespace: str
) -> None:
    kubectl(
        *("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"),
        "pod-security.kubernetes.io/enforce-version=latest",
    )
    rendered = render(EVERYTHING, "--namespace", namespace)
    pods = [pod(each["spec"]["template"]["spec"], each) for each in rendered.of("Deployment")]
    pods += rendered.of("Pod")
    assert len(pods) == 3
    dry_run(kubectl, Rendered(pods))
    # As a check of the check: the namespace does refuse others.
    bad = pod({"containers": [{"name": "a", "image": "a"}]}, pods[0])
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        dry_run(kubectl, Rendered([bad]))


def pod(spec: Object, owner: Object) -> Object:
    metadata = {"name": owner["metadata"]["name"], "namespace": owner["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    return previous_chart(tmp_path)


def test_upgrade_rollback_and_uninstall_keep_services_and_key(
    kubectl: Kubectl, helm: Helm, previous: Path
) -> None:
    def crd_knows_rollouts() -> bool:
        return "rollout" in spec_fields(json.loads(kubectl("get", "crd", CRD, "-o", "json")))

    def image() -> str:
        where = "jsonpath={.spec.template.spec.containers[0].image}"
        return kubectl("get", "deployment", RELEASE, "-n", helm.namespace, "-o", where)

    def key() -> str:
        where = "jsonpath={.data.operator-key}"
        return kubectl("get", "secret", f"{RELEASE}-key", "-n", helm.namespace, "-o", where)

    def uid() -> str:
        return kubectl("get", "slm", "chat", "-n", helm.namespace, "-o", "jsonpath={.metadata.uid}")

    helm("install", RELEASE, str(previous), "--take-ownership")
    assert not crd_knows_rollouts()
    assert image() == "slm-operator:0.0.9"
    service = (CHART.parents[1] / "examples" / "smallest.yaml").read_text()
    kubectl("apply", "-n", helm.namespace, "-f", "-", stdin=service.replace("smallest", "chat"))
    first_key, first_uid = key(), uid()
    assert len(first_key) >= 32

    helm("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values")
    assert crd_knows_rollouts()
    assert image() == "slm-operator:0.1.0"
    assert (key(), uid()) == (first_key, first_uid)

    helm("rollback", RELEASE, "1")
    assert not crd_knows_rollouts()
    assert image() == "slm-operator:0.0.9"
    assert (key(), uid()) == (first_key, first_uid)

    helm("upgrade", RELEASE, str(CHART), "--reset-then-reuse-values")
    said = helm("uninstall", RELEASE)
    assert f"[CustomResourceDefinition] {CRD}" in said
    assert crd_knows_rollouts()
    assert (key(), uid()) == (first_key, first_uid)
    left = kubectl("get", "deployments,services,roles,pdb", "-n", helm.namespace, "-o", "name")
    assert left == ""

    helm("install", RELEASE, str(CHART))
    assert (key(), uid()) == (first_key, first_uid)
    helm("uninstall", RELEASE)


def test_a_crd_that_kubectl_made_is_taken_over_when_asked(kubectl: Kubectl, helm: Helm) -> None:
    kubectl("annotate", "crd", CRD, "meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-")
    refused = helm.run("install", RELEASE, str(CHART))
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    helm("install", RELEASE, str(CHART), "--take-ownership")
    helm("uninstall", RELEASE)


async def test_an_operator_of_one_namespace_serves_it_with_its_role_alone(
    control_plane: ControlPlane, kubectl: Kubectl, helm: Helm, namespace: str, tmp_path: Path
) -> None:
    options = ("--set", f"watchNamespaces={{{namespace}}}", "--set", "activator.enabled=false")
    helm("install", RELEASE, str(CHART), "--take-ownership", *options)
    token = kubectl("create", "token", RELEASE, "--namespace", helm.namespace).strip()
    own = yaml.safe_load(control_plane.kubeconfig("admin").read_text())
    own["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(own))
    (deployment,) = json.loads(kubectl("get", "deployments", "-n", helm.namespace, "-o", "json"))[
        "items"
    ]
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    service = (CHART.parents[1] / "examples" / "smallest.yaml").read_text()
    for where in (namespace, helm.namespace):
        kubectl("apply", "-n", where, "-f", "-", stdin=service)

    variables = {"KUBECONFIG": str(kubeconfig), KEY_VARIABLE: "k" * KEY_LENGTH}
    addresses = AddressPool()
    address = addresses.claim()
    command = ["slm_operator", *arguments, f"--health-address={address}"]
    operator = Program(tmp_path, "operator", command, {**os.environ, **variables})
    operator.launch()
    try:
        await until(
            lambda: bool(kubectl("get", "pod", "-n", namespace, "-o", "name")), operator.check
        )
        assert kubectl("get", "pod", "-n", helm.namespace, "-o", "name") == ""
        assert "orbidden" not in operator.log_tail()
    finally:
        await operator.stop()
        addresses.release(address)
        kubectl("delete", "slm", "--all", "-n", namespace)
        kubectl("delete", "role,rolebinding", "--all", "-n", namespace)
        helm("uninstall", RELEASE)


async def until(holds: Callable[[], bool], check: Callable[[], None]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await asyncio.to_thread(holds):
            check()
            await asyncio.sleep(0.2)


async def test_every_right_of_the_operator_exists(kubectl: Kubectl, helm: Helm) -> None:
    """The account of the release may do what the file of rights says, and read no Secret."""
    helm("install", RELEASE, str(CHART), "--take-ownership")
    account = f"system:serviceaccount:{helm.namespace}:{RELEASE}"

    def may(verb: str, what: str, namespace: str) -> bool:
        return kubectl.run(
            *("auth", "can-i", verb, what, f"--as={account}", "--namespace", namespace)
        ).stdout.startswith("yes")

    # The API server learns of new roles by a watch of its own.
    for verb, what, where in (
        ("watch", f"{PLURAL}.{GROUP}", "default"),
        ("create", "pods", "default"),
        ("update", f"leases.coordination.k8s.io/{RELEASE}", helm.namespace),
    ):
        await until(functools.partial(may, verb, what, where), lambda: None)
    assert not may("update", f"leases.coordination.k8s.io/{RELEASE}", "default")
    assert not may("get", "secrets", "default")
    assert not may("update", f"{PLURAL}.{GROUP}", "default")
    helm("uninstall", RELEASE)
