"""The dashboard of one SLMService."""

from __future__ import annotations

from slm_dev.dashboards.frame import RATE, SOURCE, Panel, figure, panel, variable

OF = '{namespace="$namespace", name="$name"}'
"""The series of the service that is looked at."""
READY = 'state="ready"'


def total(metric: str) -> str:
    """Of all packs of the service, a second."""
    return f"sum(rate({metric}{OF}{RATE}))"


def _of(more: str) -> str:
    return f"{OF[:-1]}, {more}}}"


def _quantile(metric: str, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate({metric}_bucket{OF}{RATE})))"


ROWS: tuple[tuple[Panel, ...], ...] = (
    (
        figure(
            "Throughput at the knee",
            "none",
            f"max(slm_operating_point_output_tokens_per_second{OF})",
        ),
        figure("Power at the knee", "watt", f"max(slm_operating_point_power_watts{OF})"),
        figure(
            "Energy per token at the knee",
            "joule",
            f"max(slm_operating_point_joules_per_output_token{OF})",
        ),
        figure("Replicas at the knee", "none", f"max(slm_operating_point_replicas{OF})"),
        figure(
            "Conditions that are False",
            "none",
            f"count(max by (type) (slm_service_condition{OF}) == 0) or vector(0)",
            says="FixedReplicas and RecommendOnly of ScalingActive count too.",
        ),
    ),
    (
        panel(
            "Throughput",
            "none",
            (total("slm_pack_output_tokens_total"), "output tokens/s"),
            (
                f"max(slm_operating_point_output_tokens_per_second{OF})"
                f" * sum(slm_service_packs{_of(READY)})",
                "all packs at the knee",
            ),
            says="Below the line the packs have room.",
        ),
        panel(
            "Energy per output token",
            "joule",
            (
                f"{total('slm_pack_energy_joules_total')}"
                f" / ({total('slm_pack_output_tokens_total')} > 0)",
                "now",
            ),
            (f"max(slm_operating_point_joules_per_output_token{OF})", "at the knee"),
            says="Little load costs more per token than the knee: an idle GPU draws power too.",
        ),
        panel(
            "Power",
            "watt",
            (f"sum by (pod) (slm_pack_power_watts{OF})", "{{pod}}"),
            (f"max(slm_service_power_budget_watts{OF})", "budget of a pack"),
        ),
    ),
    (
        panel(
            "Time to first token",
            "s",
            (_quantile("slm_pack_ttft_seconds", 0.95), "p95"),
            (_quantile("slm_pack_ttft_seconds", 0.5), "p50"),
            (f"max(slm_service_slo_ttft_p95_seconds{OF})", "SLO of p95"),
        ),
        panel(
            "Time between tokens",
            "s",
            (_quantile("slm_pack_itl_seconds", 0.95), "p95"),
            (_quantile("slm_pack_itl_seconds", 0.5), "p50"),
            (f"max(slm_service_slo_itl_p95_seconds{OF})", "SLO of p95"),
        ),
        panel(
            "Requests",
            "reqps",
            (f"sum by (answer) (rate(slm_pack_router_requests_total{OF}{RATE}))", "{{answer}}"),
            (total("slm_pack_router_rejected_total"), "refused with 429"),
            (total("slm_pack_router_cut_total"), "cut"),
        ),
    ),
    (
        panel(
            "Replicas in rotation",
            "none",
            (f"sum by (pod) (slm_pack_replicas_in_rotation{OF})", "{{pod}}"),
            (f"max(slm_operating_point_replicas{OF})", "knee"),
            says="Below saturation requests are concentrated on fewer replicas.",
        ),
        panel(
            "Packs",
            "none",
            (f"max by (state) (slm_service_packs{OF})", "{{state}}"),
        ),
        panel(
            "Requests that wait or run",
            "none",
            (f"sum(slm_pack_router_queue{OF})", "wait at routers"),
            (f"sum(slm_pack_replica_waiting{OF})", "wait in engines"),
            (f"sum(slm_pack_replica_running{OF})", "run"),
        ),
    ),
    (
        panel(
            "Sequences in each batch",
            "none",
            (f"sum by (pod, replica) (slm_pack_replica_running{OF})", "{{pod}} {{replica}}"),
        ),
        panel(
            "Trouble of replicas",
            "none",
            (f"sum by (pod) (increase(slm_pack_replica_starts_total{OF}{RATE}))", "{{pod}} starts"),
            (
                f"max by (pod, replica) (slm_pack_replica_failures{OF})",
                "{{pod}} {{replica}} failures",
            ),
            (f"sum by (pod) (rate(slm_pack_preemptions_total{OF}{RATE}))", "{{pod}} preemptions/s"),
        ),
        panel(
            "GPU",
            "percentunit",
            (f"max by (pod) (slm_pack_gpu_utilization_ratio{OF})", "{{pod}} in use"),
            (f"rate(slm_pack_saturated_seconds_total{OF}{RATE})", "{{pod}} saturated"),
        ),
    ),
)
DECISIONS = {
    "name": "Decisions",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "blue",
    # The series' value is when it was decided; a counter would not show a reason's first time.
    "expr": f"max by (reason) (slm_decision_timestamp_seconds{OF}) * 1000",
    "useValueForTime": True,
    "titleFormat": "{{reason}}",
    "step": "15s",
}


VARIABLES = (
    variable("namespace", "label_values(slm_service_packs, namespace)"),
    variable("name", 'label_values(slm_service_packs{namespace="$namespace"}, name)'),
)
