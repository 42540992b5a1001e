"""The dashboard of all services and of the operator."""

from __future__ import annotations

from slm_dev.dashboards.frame import RATE, Panel, figure, panel

ROWS: tuple[tuple[Panel, ...], ...] = (
    (
        figure("Services", "none", 'count(slm_service_packs{state="present"})'),
        figure("Packs that answer", "none", 'sum(slm_service_packs{state="ready"})'),
        figure("GPUs that are not healthy", "none", 'sum(slm_pack_gpu_health{state!="Healthy"})'),
        figure(
            "Output tokens a second", "none", "sum(namespace_name:slm_pack_output_tokens:rate5m)"
        ),
        figure("Operators that lead", "none", "sum(slm_leader)"),
    ),
    (
        panel(
            "Services by condition that is False",
            "none",
            ("sum by (type) (1 - slm_service_condition)", "{{type}}"),
        ),
        panel(
            "Packs",
            "none",
            ("sum by (state) (slm_service_packs)", "{{state}}"),
        ),
        panel(
            "GPUs by health",
            "none",
            ("sum by (state) (slm_pack_gpu_health)", "{{state}}"),
        ),
    ),
    (
        panel(
            "Power",
            "watt",
            ("sum(slm_pack_power_watts)", "drawn by packs"),
            ("max(slm_cluster_power_allotted_watts)", "counted under the budget"),
            ("max(slm_cluster_power_budget_watts)", "budget (0: none)"),
        ),
        panel(
            "Throughput of services",
            "none",
            ("topk(10, namespace_name:slm_pack_output_tokens:rate5m)", "{{namespace}}/{{name}}"),
        ),
        panel(
            "Energy per output token",
            "joule",
            (
                "topk(10, namespace_name:slm_pack_joules_per_output_token:rate5m)",
                "{{namespace}}/{{name}}",
            ),
        ),
    ),
    (
        panel(
            "Length of a pass",
            "s",
            *(
                (
                    f"histogram_quantile({q}, sum by (le) "
                    f"(rate(slm_operator_reconcile_seconds_bucket{RATE})))",
                    f"p{q * 100:g}",
                )
                for q in (0.5, 0.99)
            ),
        ),
        panel(
            "Lag until a pass begins",
            "s",
            *(
                (
                    f"histogram_quantile({q}, sum by (le) "
                    f"(rate(slm_operator_reconcile_lag_seconds_bucket{RATE})))",
                    f"p{q * 100:g}",
                )
                for q in (0.5, 0.99)
            ),
        ),
        panel(
            "Passes",
            "none",
            (f"sum(rate(slm_operator_reconcile_seconds_count{RATE}))", "passes/s"),
            ("sum(slm_operator_reconcile_waiting)", "services that wait"),
            (
                f"sum(rate(slm_operator_reconcile_failures_total{RATE})) or vector(0)",
                "failed/s",
            ),
        ),
    ),
    (
        panel(
            "Requests of the operator",
            "reqps",
            (f"sum by (to, code) (rate(slm_operator_requests_total{RATE}))", "{{to}} {{code}}"),
        ),
        panel(
            "Answers to the operator, p99",
            "s",
            (
                "histogram_quantile(0.99, sum by (to, le) "
                f"(rate(slm_operator_request_seconds_bucket{RATE})))",
                "{{to}}",
            ),
        ),
        panel(
            "Decisions",
            "none",
            ("sum by (reason) (slm_decisions_total)", "{{reason}}"),
        ),
    ),
    (
        panel("Leader", "none", ("max by (pod) (slm_leader)", "{{pod}}")),
        panel(
            "Requests that the activator holds",
            "none",
            ("sum by (namespace, name) (slm_activator_requests_waiting)", "{{namespace}}/{{name}}"),
        ),
        panel(
            "Refused by the activator",
            "reqps",
            (
                f"sum by (reason) (rate(slm_activator_requests_refused_total{RATE}))",
                "{{reason}}",
            ),
        ),
    ),
)
