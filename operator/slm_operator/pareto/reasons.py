"""Why a point won or lost: the rule, the two numbers that it compared, and the sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from slm_operator.pareto.noise import (
    compared,
    energy_noise,
    gain,
    significantly_more,
    significantly_thriftier,
    throughput_noise,
)
from slm_operator.pareto.objective import NO_LIMITS, Limits, Objective
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import LOST, Quantity, Rule, Ruling, ruling
from slm_operator.pareto.worth import (
    energy_excess,
    joules,
    needed_tokens_per_second,
    power_known,
    required_ratio,
    thriftiest,
    undoubted_joules,
    undoubted_tokens_per_second,
    worth_adding,
)

MANY_PREEMPTIONS = 0.1
"""A request in ten computed again: its KV cache is too small for the batch, which is worth saying
(four replicas of the published H100 measurements: 0.3)."""


def won(
    chosen: OperatingPoint,
    allowed: Sequence[OperatingPoint],
    objective: Objective,
    throughput_only: bool,
    sentence: str,
) -> Ruling:
    """By which rule ``chosen`` won against the rest of ``allowed``, the points that keep all
    limits."""
    rivals = [p for p in allowed if p is not chosen]
    if not rivals:
        return Ruling(Rule.ONLY_POINT, sentence)
    if objective.kind == "MinEnergyPerToken" and not throughput_only:
        rival = thriftiest(rivals)
        least = joules(chosen) <= joules(rival)
        rule = Rule.LEAST_ENERGY if least else Rule.FEWER_WITHIN_NOISE
        return _by_energy(rule, rival, chosen, sentence)
    smaller = [p for p in rivals if _size(p) < _size(chosen)]
    beaten = [p for p in smaller if worth_adding(p, chosen, objective)]
    if beaten:
        needed = max(needed_tokens_per_second(p, chosen, objective) for p in beaten)
        return ruling(
            Rule.STEP_WORTH_IT, Quantity.OUTPUT_TOKENS_PER_SECOND, chosen, needed, sentence
        )
    costlier = [p for p in smaller if significantly_thriftier(p, chosen)]
    if costlier:
        return _by_energy(Rule.THRIFTIER, thriftiest(costlier), chosen, sentence)
    needed = min(
        (_worth_from(chosen, p, objective) for p in rivals if p not in smaller), default=math.inf
    )
    return ruling(Rule.FEWER_SUFFICE, Quantity.OUTPUT_TOKENS_PER_SECOND, chosen, needed, sentence)


def kept(held: OperatingPoint, among: Sequence[OperatingPoint], sentence: str) -> Ruling:
    """``held`` runs, and none of ``among`` is better beyond doubt."""
    best = max(p.output_tokens_per_second for p in among)
    quantity = Quantity.OUTPUT_TOKENS_PER_SECOND
    return ruling(Rule.BENEFIT_OF_DOUBT, quantity, held, best, sentence)


def costly(least: OperatingPoint, point: OperatingPoint, objective: Objective) -> Ruling:
    """``point`` breaks the energy limit that ``least`` sets."""
    return ruling(
        Rule.ENERGY_ABOVE_LIMIT,
        Quantity.MICROJOULES_PER_OUTPUT_TOKEN,
        point,
        joules(least) * (1 + objective.max_energy_increase) * 1e6,
        f"{joules(point):.4f} J/token is {energy_excess(least, point):.1%} above the least, "
        f"{joules(least):.4f}; "
        f"maxEnergyIncreasePercent allows {objective.max_energy_increase:.0%}",
    )


def doubtful(
    held: OperatingPoint,
    point: OperatingPoint,
    able: Sequence[OperatingPoint],
    objective: Objective,
    times: float,
) -> Ruling:
    """``point``, one of ``able``, may be better than ``held``, which runs, but not beyond doubt."""
    text = (
        f"{point.output_tokens_per_second:,.0f} tok/s and {_energy(point)} are not better beyond "
        f"doubt than the {held.output_tokens_per_second:,.0f} and {_energy(held)} of "
        f"{held.probe}, which runs"
    )
    rule, energy = Rule.NOT_BEYOND_DOUBT, Quantity.MICROJOULES_PER_OUTPUT_TOKEN
    if objective.kind == "MinEnergyPerToken" and power_known(able):
        allowed = joules(held) * (1 - energy_noise(held, point, times))
        return ruling(rule, energy, point, allowed * 1e6, text)
    needed = undoubted_tokens_per_second(held, point, objective, times)
    if point.output_tokens_per_second > needed:
        # Its throughput is beyond doubt, so its energy is not.
        allowed = undoubted_joules(point, able, objective, times)
        return ruling(rule, energy, point, allowed * 1e6, text)
    return ruling(rule, Quantity.OUTPUT_TOKENS_PER_SECOND, point, needed, text)


def with_preemptions(said: Ruling, point: OperatingPoint) -> Ruling:
    """Names a KV cache that ran full, which is often the cause of what ``said`` tells."""
    again = point.preemptions_per_request
    if again is None or again < MANY_PREEMPTIONS or said.rule not in LOST - {Rule.LIMIT_BROKEN}:
        return said
    full = f"; its KV cache ran full: {again:.2f} preemptions a request"
    return replace(said, text=said.text + full)


def lost(chosen: OperatingPoint, point: OperatingPoint, objective: Objective) -> Ruling:
    """Why ``point``, which breaks no limit, lost against ``chosen``."""
    if objective.kind == "MinEnergyPerToken" and significantly_thriftier(point, chosen):
        text = (
            f"{joules(point):.4f} J/token is {energy_excess(chosen, point):.1%} above the "
            f"{joules(chosen):.4f} of {chosen.probe}"
        )
        return _by_energy(Rule.MORE_ENERGY, chosen, point, text)
    if significantly_more(point, chosen):
        text = (
            f"{chosen.probe} serves {chosen.output_tokens_per_second:,.0f} tok/s, "
            f"{compared(point, chosen)} its {point.output_tokens_per_second:,.0f}"
        )
        needed = chosen.output_tokens_per_second
        return ruling(Rule.LESS_THROUGHPUT, Quantity.OUTPUT_TOKENS_PER_SECOND, point, needed, text)
    return _not_worth(chosen, point, objective)


def walk_rulings(
    walked: Sequence[OperatingPoint], objective: Objective, limits: Limits = NO_LIMITS
) -> dict[Probe, Ruling]:
    """What each step by rotation said, for points that took no part in the choice."""
    first = "the walk's first step, with the memory of a larger layout"
    told = {p.probe: Ruling(Rule.WALK_BEGAN, first) for p in walked[:1]}
    for fewer, more in pairwise(walked):
        if fewer.probe.max_num_seqs != more.probe.max_num_seqs:
            told[more.probe] = Ruling(Rule.WALK_BEGAN, f"{first}, with a smaller batch")
        elif worth_adding(fewer, more, objective):
            text = f"a step of the walk by rotation: {compared(fewer, more)} the step before"
            needed = needed_tokens_per_second(fewer, more, objective)
            told[more.probe] = ruling(
                Rule.WALK_WENT_ON, Quantity.OUTPUT_TOKENS_PER_SECOND, more, needed, text
            )
        else:
            end = _not_worth(fewer, more, objective)
            text = f"the walk stopped here: {end.text}"
            told[more.probe] = Ruling(Rule.WALK_STOPPED, text, end.comparison)
    broken = {p.probe: said for p in walked if (said := limits.broken_by(p)) is not None}
    return told | broken


def knee_sentence(
    chosen: OperatingPoint, among: Sequence[OperatingPoint], throughput_only: bool, note: str
) -> str:
    figures = f"{chosen.output_tokens_per_second:,.0f} output tok/s"
    energy = chosen.joules_per_output_token
    if energy is not None and chosen.power_watts is not None:
        figures += f" at {chosen.power_watts:,.0f} W ({energy:.4f} J/token)"
    text = f"{chosen.probe} is Pareto-optimal: {figures}"
    more = [p for p in among if p.probe.replicas > chosen.probe.replicas]
    fewer = [p for p in among if p.probe.replicas < chosen.probe.replicas]
    if fewer:
        best = max(fewer, key=lambda p: p.output_tokens_per_second)
        text += (
            f", {compared(best, chosen)} {best.probe} ({best.output_tokens_per_second:,.0f} tok/s)"
        )
    if more:
        rival = max(more, key=lambda p: p.output_tokens_per_second)
        text += f"; {rival.probe} would change throughput by {gain(chosen, rival):+.1%}"
        rival_energy = rival.joules_per_output_token
        if not throughput_only and energy and rival_energy:
            text += f" and energy per token by {rival_energy / energy - 1:+.1%}"
    if note:
        text += f"; {note}"
    if throughput_only:
        text += "; power is unknown here, so throughput alone decided"
    return text


def _not_worth(chosen: OperatingPoint, point: OperatingPoint, objective: Objective) -> Ruling:
    text = (
        f"{point.output_tokens_per_second:,.0f} tok/s is {compared(chosen, point)} the "
        f"{chosen.output_tokens_per_second:,.0f} of {chosen.probe}"
    )
    required = required_ratio(chosen, point, objective) - 1
    if required > 0 and gain(chosen, point) < required:
        return ruling(
            Rule.GAIN_TOO_SMALL,
            Quantity.OUTPUT_TOKENS_PER_SECOND,
            point,
            needed_tokens_per_second(chosen, point, objective),
            f"{text}; {required:.1%} more is needed, by minThroughputGainPercent "
            f"{objective.min_throughput_gain:.0%} a replica",
        )
    if significantly_thriftier(point, chosen):
        text += f", at {energy_excess(chosen, point):.1%} more energy per token"
        return _by_energy(Rule.MORE_ENERGY, chosen, point, text)
    if not significantly_more(chosen, point):
        noise = throughput_noise(chosen, point)
        return ruling(
            Rule.GAIN_WITHIN_NOISE,
            Quantity.OUTPUT_TOKENS_PER_SECOND,
            point,
            chosen.output_tokens_per_second + noise,
            f"{text}, within the noise of {noise:,.0f} tok/s",
        )
    text += (
        f"; its {joules(point):.4f} J/token is within the noise of "
        f"{energy_noise(chosen, point):.1%} or above {joules(chosen):.4f}"
    )
    return _by_energy(Rule.ENERGY_NOT_LESS, chosen, point, text)


def _energy(point: OperatingPoint) -> str:
    energy = point.joules_per_output_token
    return "unknown power" if energy is None else f"{energy:.4f} J/token"


def _worth_from(fewer: OperatingPoint, more: OperatingPoint, objective: Objective) -> float:
    """Output tokens/s that ``more`` has to exceed to be worth adding to ``fewer``."""
    return max(
        needed_tokens_per_second(fewer, more, objective),
        fewer.output_tokens_per_second + throughput_noise(fewer, more),
    )


def _size(point: OperatingPoint) -> tuple[int, int]:
    return point.probe.replicas, point.probe.max_num_seqs


def _by_energy(rule: Rule, other: OperatingPoint, point: OperatingPoint, text: str) -> Ruling:
    return ruling(rule, Quantity.MICROJOULES_PER_OUTPUT_TOKEN, point, joules(other) * 1e6, text)
