"""What of an hour of bursts is kept, over several such hours (SIMULATED).

Run with ``python -m benchmarks.bursts``; it takes some two minutes. The hours are those of
``benchmarks.policies``, each from a seed of its own: many begin quiet, so that nothing tells of the
first burst before it is there.
"""

from __future__ import annotations

from statistics import median

from benchmarks import policies
from benchmarks.report import Figure, write
from slm_operator.cli.simulate import answers, study

SEEDS = range(1, 9)
POLICIES = ("pareto", "hpa", "keda-queue", "aibrix-0.4", "static:1", "oracle")
CASE = next(case for case in policies.CASES if case.name == "bursts")


def measure() -> dict[str, Figure]:
    attained: dict[str, list[float]] = {name: [] for name in POLICIES}
    gpu_hours: dict[str, list[float]] = {name: [] for name in POLICIES}
    for seed in SEEDS:
        asked = policies.question(CASE, POLICIES, seed)
        for run in answers(asked, study(asked)):
            attained[run.policy].append(100 * run.figures.slo_attainment)
            gpu_hours[run.policy].append(run.figures.gpu_hours)
    found: dict[str, Figure] = {"simulated": True, "hours": len(SEEDS)}
    for name in POLICIES:
        found |= {
            f"{name}: in SLO, least percent": round(min(attained[name]), 1),
            f"{name}: in SLO, median percent": round(median(attained[name]), 1),
            f"{name}: in SLO, most percent": round(max(attained[name]), 1),
            f"{name}: GPU-hours, median": round(median(gpu_hours[name]), 2),
        }
    return found


def main() -> None:
    write("bursts", measure(), command="python -m benchmarks.bursts")


if __name__ == "__main__":
    main()
