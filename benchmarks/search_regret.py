"""How far from the best does the operator's search end, and after how many windows? (2 min)

Each seed runs the search as the operator does (``next_step``, ``learned``) on a curve of
:mod:`benchmarks.search_curves`, with windows whose throughput and power are off by noise. Regret is
in the terms of the objective, by the curve without noise:

- Balanced: throughput divided by what each replica has to earn (1.03 for each), as a share below
  the best; and the share by which energy per token exceeds the limit of 5 % over the least.
- MaxThroughput: throughput as a share below the most.
- MinEnergyPerToken: energy per token as a share above the least.
- A limit that some point keeps and the choice breaks adds the share by which it does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

from benchmarks import report
from benchmarks.search_curves import KINDS, Curve, measured_curves, predicted_curves
from slm_operator.pareto.drift import learned
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.search import Measure, next_step, running_layout
from slm_operator.pareto.worth import joules

SEEDS = 200
NOISES = (0.01, 0.02, 0.03, 0.05, 0.10)
GOAL_NOISE = 0.03
WINDOW_CONFIDENCE = 1.96


@dataclass(frozen=True)
class Outcome:
    curve: str
    regret: float
    probes: int
    chosen: Probe


def search(curve: Curve, noise: float, seed: int, expected: Probe | None = None) -> Outcome:
    """One search, from nothing to its end."""
    dice = random.Random(f"{curve.name} {noise} {seed}")
    space = replace(curve.space, expected=expected)
    points: tuple[OperatingPoint, ...] = ()
    probes = 0
    while isinstance(step := next_step(space, points), Measure):
        probes += 1
        points = learned(points, _window(curve.truth(step.probe), noise, dice, probes))
    chosen = running_layout(step.choice)
    return Outcome(curve.name, regret(curve, chosen), probes, chosen)


def regret(curve: Curve, chosen: Probe) -> float:
    """As a share; 0 is the best that the curve has."""
    space, objective = curve.space, curve.space.objective
    mine, everything = curve.truth(chosen), curve.candidates()
    able = [p for p in everything if not space.limits.broken_by(p)]
    if not able:
        return space.limits.excess(mine) - min(space.limits.excess(p) for p in everything)
    beyond = space.limits.excess(mine)
    least = min(joules(p) for p in able)
    if objective.kind == "MinEnergyPerToken":
        return beyond + max(0.0, joules(mine) / least - 1)
    dearest = least * (1 + objective.max_energy_increase)
    if objective.kind == "Balanced":
        able = [p for p in able if joules(p) <= dearest]
        beyond += max(0.0, joules(mine) / dearest - 1)
    best = max(_value(curve, p) for p in able)
    return beyond + max(0.0, 1 - _value(curve, mine) / best)


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    regrets = [100 * o.regret for o in outcomes]
    twentieths = quantiles(regrets, n=20)
    probes = [o.probes for o in outcomes]
    return {
        "regret_median_percent": round(median(regrets), 3),
        "regret_p95_percent": round(twentieths[-1], 3),
        "regret_max_percent": round(max(regrets), 3),
        "probes_median": median(probes),
        "probes_p95": quantiles(probes, n=20)[-1],
        "probes_max": max(probes),
    }


def _value(curve: Curve, point: OperatingPoint) -> float:
    objective = curve.space.objective
    if objective.kind == "MaxThroughput":
        return point.output_tokens_per_second
    return point.output_tokens_per_second / (
        (1 + objective.min_throughput_gain) ** point.probe.replicas
    )


def _window(truth: OperatingPoint, noise: float, dice: random.Random, order: int) -> OperatingPoint:
    tokens = truth.output_tokens_per_second * dice.gauss(1, noise)
    watts = (truth.power_watts or 0) * dice.gauss(1, noise)
    return replace(
        truth,
        output_tokens_per_second=tokens,
        confidence_tokens_per_second=WINDOW_CONFIDENCE * noise * tokens,
        power_watts=watts,
        measured_at=f"{order:03}",
    )


def _left_out(curve: Curve) -> float:
    """By how much the best row that the search never tries beats the best that it may choose."""
    space = curve.space
    own = max(_value(curve, p) for p in curve.candidates())
    rows = [curve.truth(probe) for probe in curve.outside]
    if space.objective.kind == "MinEnergyPerToken":
        least = min(joules(p) for p in curve.candidates())
        return max(0.0, 1 - min(joules(p) for p in rows) / least)
    return max(0.0, max(_value(curve, p) for p in rows) / own - 1)


def main() -> None:
    everything = [c for kind in KINDS for c in (*measured_curves(kind), *predicted_curves(kind))]
    figures: dict[str, report.Figure] = {"seeds": SEEDS, "curves": len(everything)}
    raw: dict[str, object] = {}
    for noise in NOISES:
        for told, guess in ((False, "nothing expected"), (True, "the planner's guess first")):
            if told and noise != GOAL_NOISE:
                continue
            found = {}
            for curve in everything:
                expected = curve.guess() if told else None
                found[curve.name] = [search(curve, noise, n, expected) for n in range(SEEDS)]
            raw[f"noise {noise:.0%}, {guess}"] = {
                name: summary(outcomes) for name, outcomes in found.items()
            }
            for group in ("measured", "measured, with a limit", "predicted"):
                own = [o for c in everything if c.group == group for o in found[c.name]]
                for name, value in summary(own).items():
                    figures[f"noise {noise:.0%}, {guess}, {group}: {name}"] = value
    raw["rows that the search never tries, gain over the best that it may choose"] = {
        c.name: round(_left_out(c), 4) for c in everything if c.outside
    }
    report.write("search_regret", figures, "make bench NAME=search_regret", raw)


if __name__ == "__main__":
    main()
