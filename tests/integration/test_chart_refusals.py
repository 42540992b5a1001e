"""Values that the chart refuses, by name."""

from __future__ import annotations

import pytest

from helm_rig import Values, refusal, render
from slm_operator.activator.wire import CONTROL_PORT


def test_ports_in_the_wrong_order_are_refused() -> None:
    said = refusal({"activator": {"ports": {"first": 30000, "last": 20000}}})
    assert "activator.ports.last 20000 is below activator.ports.first 30000" in said


@pytest.mark.parametrize(
    ("first", "last"), [(8000, 8999), (CONTROL_PORT, 9000), (8000, CONTROL_PORT)]
)
def test_the_activators_control_port_is_no_services(first: int, last: int) -> None:
    said = refusal({"activator": {"ports": {"first": first, "last": last}}})
    assert f"activator.ports {first} to {last} has {CONTROL_PORT}" in said


@pytest.mark.parametrize(
    "ports",
    [
        {"first": CONTROL_PORT + 1, "last": CONTROL_PORT + 9},
        {"first": 8000, "last": CONTROL_PORT - 1},
    ],
    ids=["above", "below"],
)
def test_ports_beside_the_activators_control_port_are_taken(ports: Values) -> None:
    assert render({"activator": {"ports": ports}}).of("Deployment")


@pytest.mark.parametrize("windows", [{"maxSeconds": 20}, {"minSeconds": 120.5}])
def test_a_longest_window_below_the_shortest_is_refused(windows: Values) -> None:
    said = refusal({"operator": {"windows": windows}})
    assert "operator.windows.maxSeconds" in said
    assert "is below operator.windows.minSeconds" in said


def test_the_operators_rights_are_bound_to_no_account_that_nobody_named() -> None:
    said = refusal({"serviceAccount": {"create": False}})
    assert "serviceAccount.create is false and serviceAccount.name is empty" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"imgae": {}}, "additional properties 'imgae' not allowed"),
        ({"operator": {"replica": 2}}, "at '/operator': additional properties 'replica'"),
        ({"operator": {"replicas": 0}}, "at '/operator/replicas': minimum: got 0, want 1"),
        ({"operator": {"replicas": "2"}}, "at '/operator/replicas': got string, want integer"),
        ({"operator": {"logFormat": "xml"}}, "at '/operator/logFormat': value must be one of"),
        (
            {"operator": {"tracing": {"otlpEndpoint": "collector:4318"}}},
            "at '/operator/tracing/otlpEndpoint': 'collector:4318' does not match pattern",
        ),
        ({"operator": {"clusterPowerBudgetWatts": 0}}, "at '/operator/clusterPowerBudgetWatts'"),
        (
            {"operator": {"resources": {"limits": {"memory": "1Gb"}}}},
            "/operator/resources/limits/memory",
        ),
        ({"operator": {"tolerations": [{"efect": "a"}]}}, "at '/operator/tolerations/0'"),
        ({"operator": {"extraArgs": ["--a", "b"]}}, "at '/operator/extraArgs/1'"),
        ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy'"),
        ({"worker": {"image": {"pullPolicy": "Always"}}}, "at '/worker/image'"),
        ({"watchNamespaces": "a"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["A"]}, "at '/watchNamespaces/0'"),
        ({"networkPolicy": {"clients": [{}]}}, "at '/networkPolicy/clients/0'"),
        ({"activator": {"ports": {"first": 80}}}, "at '/activator/ports/first'"),
        (
            {"monitoring": {"podMonitor": {"interval": "15"}}},
            "at '/monitoring/podMonitor/interval'",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_bad_values_are_refused_by_name(values: Values, said: str) -> None:
    assert said in refusal(values)
