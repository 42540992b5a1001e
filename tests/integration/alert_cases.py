"""Situations in which an alert fires or is silent: the series that Prometheus holds, one sample a
minute, and when the alert fires with which labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOURS = 420
"""Minutes for which a series goes on."""
SERVICE = {"namespace": "default", "name": "chat"}
POD = SERVICE | {"pod": "chat-pack-0"}
OPERATOR = {"namespace": "slm"}


def series(metric: str, values: str = "", **labels: str) -> tuple[str, str]:
    named = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{metric}{{{named}}}", values


def steady(metric: str, value: float, **labels: str) -> tuple[str, str]:
    return series(metric, f"{value:g}x{HOURS}", **labels)


def rising(metric: str, by: float, **labels: str) -> tuple[str, str]:
    """A counter that rises by so much a minute."""
    return series(metric, f"0+{by:g}x{HOURS}", **labels)


def condition(kind: str, reason: str, value: int) -> tuple[str, str]:
    return steady("slm_service_condition", value, type=kind, reason=reason, **SERVICE)


def packs(desired: int, ready: int) -> tuple[tuple[str, str], ...]:
    counts = {"desired": desired, "ready": ready}
    return tuple(
        steady("slm_service_packs", count, state=state, **SERVICE)
        for state, count in counts.items()
    )


def latencies(metric: str, slow: float) -> tuple[tuple[str, str], ...]:
    """60 observations a minute, of which ``slow`` are between half a second and a second."""
    counts = {"0.5": 60 - slow, "1": 60.0, "+Inf": 60.0}
    return tuple(rising(f"{metric}_bucket", n, le=bound, **POD) for bound, n in counts.items())


CALIBRATED = condition("Calibrated", "KneeFound", 1)
TTFT = "slm_pack_ttft_seconds"
SLO = steady("slm_service_slo_ttft_p95_seconds", 0.5, **SERVICE)
BUDGET = steady("slm_service_power_budget_watts", 400, **SERVICE)
PASSES = "slm_operator_reconcile_failures_total"
SENT = "slm_operator_requests_total"
API = {"to": "apiserver", "method": "GET"} | OPERATOR


@dataclass(frozen=True)
class Case:
    name: str
    alert: str
    given: tuple[tuple[str, str], ...]
    fires: Mapping[str, str] | None = None
    """Labels of the alert; None: it is silent throughout."""
    before_minutes: int = 0
    """At which it does not fire yet: its `for` and what else has to pass."""
    at_minutes: int = 60
    """At which it is asked for."""


def fires(
    alert: str,
    name: str,
    *given: tuple[str, str],
    labels: Mapping[str, str] = SERVICE,
    before_minutes: int = 0,
    at_minutes: int = 60,
) -> Case:
    return Case(name, alert, given, dict(labels), before_minutes, at_minutes)


def silent(alert: str, name: str, *given: tuple[str, str], at_minutes: int = 60) -> Case:
    return Case(name, alert, given, at_minutes=at_minutes)


def lags(slow: float) -> tuple[tuple[str, str], ...]:
    counts = {"5": 100 - slow, "10": 100.0, "+Inf": 100.0}
    metric = "slm_operator_reconcile_lag_seconds_bucket"
    return tuple(rising(metric, n, le=bound, **OPERATOR) for bound, n in counts.items())


def answers(failed: float) -> tuple[tuple[str, str], ...]:
    """100 requests a minute, of which so many are answered with 5xx."""
    metric = "slm_pack_router_requests_total"
    return (
        rising(metric, 100 - failed, answer="2xx", **POD),
        rising(metric, failed, answer="5xx", **POD),
        rising("slm_pack_router_cut_total", 0, **POD),
        rising("slm_pack_router_lost_total", 0, **POD),
    )


DOWN = condition("Ready", "GPULost", 0)
CASES = (
    fires("SLMServiceDown", "no pack answers", *packs(2, 0), DOWN, before_minutes=1),
    silent(
        "SLMServiceDown", "the first pack starts", *packs(1, 0), condition("Ready", "Starting", 0)
    ),
    silent("SLMServiceDown", "it is scaled to zero", *packs(0, 0)),
    silent("SLMServiceDown", "one of two answers", *packs(2, 1), DOWN),
    fires("SLMPackDown", "one of two does not answer", *packs(2, 1), before_minutes=14),
    silent("SLMPackDown", "both answer", *packs(2, 2)),
    fires("SLMPackNotScraped", "none is scraped", *packs(2, 2), before_minutes=9),
    fires(
        "SLMPackNotScraped",
        "one of two is scraped",
        *packs(2, 2),
        steady("slm_pack_settled", 1, **POD),
        before_minutes=9,
    ),
    silent("SLMPackNotScraped", "all are", *packs(1, 1), steady("slm_pack_settled", 1, **POD)),
    fires(
        "SLMMetricsStale",
        "an agent is silent",
        condition("MetricsAvailable", "AgentUnreachable", 0),
        labels=SERVICE | {"type": "MetricsAvailable"},
        before_minutes=9,
    ),
    fires(
        "SLMMetricsStale",
        "the demand is not known",
        condition("ScalingActive", "HeldStale", 0),
        labels=SERVICE | {"type": "ScalingActive"},
        before_minutes=9,
    ),
    silent(
        "SLMMetricsStale",
        "all is measured, and the count is fixed",
        condition("MetricsAvailable", "Measured", 1),
        condition("ScalingActive", "FixedReplicas", 0),
    ),
    fires(
        "SLMSLOBroken",
        "one first token in ten is late",
        *latencies(TTFT, 6),
        SLO,
        CALIBRATED,
        labels=SERVICE | {"latency": "TTFT"},
        before_minutes=9,
    ),
    fires(
        "SLMSLOBroken",
        "one token in ten is late",
        *latencies("slm_pack_itl_seconds", 6),
        steady("slm_service_slo_itl_p95_seconds", 0.5, **SERVICE),
        CALIBRATED,
        labels=SERVICE | {"latency": "ITL"},
        before_minutes=9,
    ),
    silent("SLMSLOBroken", "one in a hundred is late", *latencies(TTFT, 0.6), SLO, CALIBRATED),
    silent("SLMSLOBroken", "no SLO is asked for", *latencies(TTFT, 6), CALIBRATED),
    silent(
        "SLMSLOBroken",
        "a search fills the pack",
        *latencies(TTFT, 6),
        SLO,
        condition("Calibrated", "Searching", 0),
    ),
    fires(
        "SLMSLOOutOfReach",
        "the nearest point is too slow",
        condition("SLOMet", "LatencyAboveSLO", 0),
        labels=SERVICE | {"reason": "LatencyAboveSLO"},
        before_minutes=14,
    ),
    silent("SLMSLOOutOfReach", "the SLO is kept", condition("SLOMet", "Kept", 1)),
    fires(
        "SLMPowerOverBudget",
        "a GPU draws more",
        steady("slm_pack_power_watts", 450, **POD),
        BUDGET,
        CALIBRATED,
        labels=POD,
        before_minutes=9,
    ),
    silent(
        "SLMPowerOverBudget",
        "it draws less",
        steady("slm_pack_power_watts", 399, **POD),
        BUDGET,
        CALIBRATED,
    ),
    silent(
        "SLMPowerOverBudget",
        "a search measures what is not allowed",
        steady("slm_pack_power_watts", 450, **POD),
        BUDGET,
        condition("Calibrated", "Searching", 0),
    ),
    fires(
        "SLMPowerBudgetOutOfReach",
        "no point keeps it",
        condition("PowerBudgetMet", "PowerAboveBudget", 0),
        labels=SERVICE | {"reason": "PowerAboveBudget"},
        before_minutes=14,
    ),
    silent("SLMPowerBudgetOutOfReach", "no limit", condition("PowerBudgetMet", "NoLimit", 1)),
    fires(
        "SLMCalibrationStuck",
        "nothing was ever decided",
        condition("Calibrated", "NotSaturated", 0),
        *packs(1, 1),
        before_minutes=29,
    ),
    fires(
        "SLMCalibrationStuck",
        "the last decision was hours ago",
        condition("Calibrated", "Searching", 0),
        *packs(1, 1),
        steady("slm_decision_timestamp_seconds", 3600, reason="Probed", **SERVICE),
        before_minutes=100,
        at_minutes=160,
    ),
    silent(
        "SLMCalibrationStuck",
        "a point is decided every ten minutes",
        condition("Calibrated", "Searching", 0),
        *packs(1, 1),
        rising("slm_decision_timestamp_seconds", 60, reason="Probed", **SERVICE),
        at_minutes=120,
    ),
    silent(
        "SLMCalibrationStuck",
        "users do not fill what is to be measured",
        condition("Calibrated", "WaitingForLoad", 0),
        *packs(1, 1),
        at_minutes=120,
    ),
    fires(
        "SLMCrashLoop",
        "a replica failed three times in a row",
        steady("slm_pack_replica_failures", 3, replica="1", **POD),
        labels=POD | {"replica": "1"},
        before_minutes=4,
    ),
    fires(
        "SLMCrashLoop",
        "an agent ends again and again",
        condition("Ready", "CrashLoopBackOff", 0),
        labels=SERVICE | {"reason": "CrashLoopBackOff"},
        before_minutes=4,
    ),
    fires(
        "SLMCrashLoop",
        "a replica is started every four minutes",
        rising("slm_pack_replica_starts_total", 0.25, **POD),
        CALIBRATED,
        labels=POD,
        before_minutes=30,
        at_minutes=90,
    ),
    silent(
        "SLMCrashLoop",
        "a replica died once, and a search starts many",
        steady("slm_pack_replica_failures", 1, replica="1", **POD),
        rising("slm_pack_replica_starts_total", 0.5, **POD),
        condition("Calibrated", "Searching", 0),
        at_minutes=90,
    ),
    fires(
        "SLMNoGPU",
        "the scheduler finds no node",
        condition("GPUAllocated", "Unschedulable", 0),
        before_minutes=4,
    ),
    silent("SLMNoGPU", "a GPU is lost", condition("GPUAllocated", "GPULost", 0)),
    fires(
        "SLMGPUUnhealthy",
        "it is lost",
        steady("slm_pack_gpu_health", 1, state="Lost", **POD),
        steady("slm_pack_gpu_health", 0, state="Healthy", **POD),
        labels=POD | {"state": "Lost"},
        before_minutes=4,
    ),
    silent(
        "SLMGPUUnhealthy",
        "it is healthy",
        steady("slm_pack_gpu_health", 1, state="Healthy", **POD),
        steady("slm_pack_gpu_health", 0, state="Lost", **POD),
    ),
    fires(
        "SLMRolloutStuck",
        "the first pack was no good",
        condition("Progressing", "RolledBack", 0),
        labels=SERVICE | {"reason": "RolledBack"},
        before_minutes=4,
    ),
    silent("SLMRolloutStuck", "packs are replaced", condition("Progressing", "PacksUpdating", 1)),
    fires("SLMRequestsFailing", "two in a hundred fail", *answers(2), before_minutes=4),
    silent("SLMRequestsFailing", "one in two hundred fails", *answers(0.5)),
    silent("SLMRequestsFailing", "no request comes", *[(s, f"0x{HOURS}") for s, _ in answers(1)]),
    fires(
        "SLMRequestsRefused",
        "queues are full",
        rising("slm_pack_router_rejected_total", 5, **POD),
        before_minutes=9,
    ),
    silent("SLMRequestsRefused", "none", rising("slm_pack_router_rejected_total", 0, **POD)),
    fires("SLMOperatorDown", "nobody tells", labels={}, before_minutes=4),
    silent("SLMOperatorDown", "one stands by", steady("slm_leader", 0, **OPERATOR)),
    fires(
        "SLMOperatorWithoutLeader",
        "two stand by",
        steady("slm_leader", 0, pod="a", **OPERATOR),
        steady("slm_leader", 0, pod="b", **OPERATOR),
        labels=OPERATOR,
        before_minutes=1,
    ),
    silent(
        "SLMOperatorWithoutLeader",
        "one of two leads",
        steady("slm_leader", 0, pod="a", **OPERATOR),
        steady("slm_leader", 1, pod="b", **OPERATOR),
    ),
    fires(
        "SLMOperatorSeveralLeaders",
        "two act",
        steady("slm_leader", 1, pod="a", **OPERATOR),
        steady("slm_leader", 1, pod="b", **OPERATOR),
        labels=OPERATOR,
    ),
    silent("SLMOperatorSeveralLeaders", "one acts", steady("slm_leader", 1, **OPERATOR)),
    fires(
        "SLMReconcileErrors",
        "one object cannot be read, once a minute",
        rising(PASSES, 1, reason="UnreadableObject", **OPERATOR),
        labels=OPERATOR | {"reason": "UnreadableObject"},
        before_minutes=9,
    ),
    silent(
        "SLMReconcileErrors",
        "a thousand failed once, when the API server restarted",
        series(PASSES, f"0x20 1000x{HOURS}", reason="Unreachable", **OPERATOR),
        at_minutes=25,
    ),
    fires(
        "SLMReconcileLag", "two in a hundred wait long", *lags(2), labels=OPERATOR, before_minutes=9
    ),
    silent("SLMReconcileLag", "one in two hundred does", *lags(0.5)),
    fires(
        "SLMAPIServerFailing",
        "half of the requests get 503",
        rising(SENT, 30, code="200", **API),
        rising(SENT, 30, code="503", **API),
        labels=OPERATOR,
        before_minutes=4,
    ),
    silent(
        "SLMAPIServerFailing",
        "agents are silent, and something is not found",
        rising(SENT, 30, code="200", **API),
        rising(SENT, 30, code="404", **API),
        rising(SENT, 30, to="agent", method="GET", code="none", **OPERATOR),
    ),
    fires(
        "SLMClusterPowerOverBudget",
        "the least is too much",
        steady("slm_cluster_power_budget_watts", 1000, **OPERATOR),
        steady("slm_cluster_power_allotted_watts", 1100, **OPERATOR),
        labels=OPERATOR,
        before_minutes=9,
    ),
    silent(
        "SLMClusterPowerOverBudget",
        "there is no budget",
        steady("slm_cluster_power_budget_watts", 0, **OPERATOR),
        steady("slm_cluster_power_allotted_watts", 1100, **OPERATOR),
    ),
    fires(
        "SLMActivatorDown",
        "it does not answer",
        condition("ScalingActive", "ActivatorUnreachable", 0),
        labels=SERVICE | {"reason": "ActivatorUnreachable"},
        before_minutes=1,
    ),
    silent("SLMActivatorDown", "at zero", condition("ScalingActive", "ScaledToZero", 1)),
    fires(
        "SLMActivatorRefuses",
        "one request found no room",
        series("slm_activator_requests_refused_total", f"0x50 1x{HOURS}", reason="Full", **SERVICE),
        labels=SERVICE | {"reason": "Full"},
        before_minutes=50,
        at_minutes=55,
    ),
    silent(
        "SLMActivatorRefuses",
        "monitoring asks a service at zero for its models",
        rising("slm_activator_requests_refused_total", 4, reason="Asleep", **SERVICE),
    ),
)
