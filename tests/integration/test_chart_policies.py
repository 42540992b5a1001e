"""Whom the chart's network policies let talk to whom."""

from __future__ import annotations

import pytest

from helm_rig import ACTIVATOR, NAMESPACE, RELEASE, Object, render
from slm_operator.activator.wire import CONTROL_PORT
from slm_worker.wire import AGENT_PORT, ROUTER_PORT

DNS_PORTS = (53, 5353)
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}


def ports(rules: list[Object]) -> set[int]:
    return {each["port"] for rule in rules for each in rule["ports"]}


def test_none_are_made_unless_asked_for() -> None:
    assert render().of("NetworkPolicy") == []


def test_nobody_reaches_the_operator_but_prometheus() -> None:
    found = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")
    assert found["spec"]["ingress"] == []
    values = {"networkPolicy": {"enabled": True, "prometheus": [PROMETHEUS]}}
    found = render(values).one("NetworkPolicy")
    assert found["spec"]["ingress"] == [
        {"from": [PROMETHEUS], "ports": [{"port": 8081, "protocol": "TCP"}]}
    ]


def test_the_operator_reaches_dns_api_server_agents_and_activator_alone() -> None:
    values = {"networkPolicy": {"enabled": True, "apiServerPorts": [6443]}}
    egress = render(values).one("NetworkPolicy")["spec"]["egress"]
    assert ports(egress) == {*DNS_PORTS, 6443, AGENT_PORT, CONTROL_PORT}


def test_dns_is_reached_at_the_ports_of_its_pods_by_both_protocols() -> None:
    """A policy sees the port behind the Service: 53, or 5353 as on OpenShift."""
    dns = render({"networkPolicy": {"enabled": True}}).one("NetworkPolicy")["spec"]["egress"][0]
    assert dns.keys() == {"ports"}, "wherever it runs"
    assert sorted((each["port"], each["protocol"]) for each in dns["ports"]) == [
        (53, "TCP"),
        (53, "UDP"),
        (5353, "TCP"),
        (5353, "UDP"),
    ]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.observability:4318", 4318),
        ("http://[fd00::7]:4318/otlp", 4318),
        ("https://collector.example", 443),
        ("http://[fd00::7]", 80),
    ],
)
def test_the_operator_reaches_the_collector_that_it_sends_traces_to(
    endpoint: str, port: int
) -> None:
    values = {
        "operator": {"tracing": {"otlpEndpoint": endpoint}},
        "networkPolicy": {"enabled": True, "apiServerPorts": [6443], "collector": [PROMETHEUS]},
    }
    egress = render(values).one("NetworkPolicy")["spec"]["egress"]
    assert ports(egress) == {*DNS_PORTS, 6443, AGENT_PORT, CONTROL_PORT, port}
    (rule,) = (each for each in egress if ports([each]) == {port})
    assert rule["to"] == [PROMETHEUS]


def test_packs_take_clients_on_the_router_and_only_ours_on_the_agent() -> None:
    client = {"podSelector": {"matchLabels": {"app": "web"}}}
    values = {
        "networkPolicy": {
            "enabled": True,
            "packNamespaces": ["a", "b"],
            "clients": [client],
            "prometheus": [PROMETHEUS],
        }
    }
    found = render(values)
    assert found.names("NetworkPolicy").count(f"{RELEASE}-packs") == 2
    spec = found.one("NetworkPolicy", f"{RELEASE}-packs", "b")["spec"]
    router, agent = spec["ingress"]
    assert (ports([router]), ports([agent])) == ({ROUTER_PORT}, {AGENT_PORT})
    given, activator, test = router["from"]
    assert given == client
    assert activator["podSelector"] == found.one("Deployment", ACTIVATOR)["spec"]["selector"]
    assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    operator, prometheus = agent["from"]
    assert operator["podSelector"] == found.one("Deployment")["spec"]["selector"]
    assert operator["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": NAMESPACE
    }
    assert prometheus == PROMETHEUS


def test_helm_test_reaches_the_pack_that_it_asks_as_clients_do() -> None:
    client = {"podSelector": {"matchLabels": {"app": "web"}}}
    found = render(
        {"watchNamespaces": ["a"], "networkPolicy": {"enabled": True, "clients": [client]}}
    )
    (pod,) = (each["metadata"] for each in found.of("Pod"))
    (service,) = (each["metadata"] for each in found.of("SLMService"))
    policy = found.one("NetworkPolicy", f"{RELEASE}-packs", service["namespace"])
    router = policy["spec"]["ingress"][0]
    given, _, test = router["from"]
    assert (ports([router]), given) == ({ROUTER_PORT}, client)
    assert test["podSelector"]["matchLabels"].items() <= pod["labels"].items()
    assert test["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": pod["namespace"]
    }


def test_clients_reach_the_activators_ports_and_the_operator_its_control() -> None:
    found = render({"networkPolicy": {"enabled": True}})
    clients, control = found.one("NetworkPolicy", ACTIVATOR)["spec"]["ingress"]
    assert clients == {"ports": [{"port": 20000, "endPort": 20999, "protocol": "TCP"}]}
    assert ports([control]) == {CONTROL_PORT}
    selector = found.one("Deployment")["spec"]["selector"]
    assert [each["podSelector"] for each in control["from"]] == [selector]
