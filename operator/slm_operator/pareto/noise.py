"""When two operating points differ: by more than both of their confidences."""

from __future__ import annotations

import math
from statistics import NormalDist

from slm_operator.pareto.points import OperatingPoint

NOISE_FLOOR = 0.01
"""Two windows of one configuration differ by about a percent even when both are precise (the
repeated runs of the published H100 measurements do); no smaller difference counts."""
FALSE_SWITCH_RATE = 1e-3
"""How often new measurements of the same truth may replace what runs."""
WINDOW_FREEDOM = 9
"""Degrees of freedom behind a window's confidence: it is made of ten batch means."""


def throughput_noise(a: OperatingPoint, b: OperatingPoint, times: float = 1.0) -> float:
    """Output tokens/s by which two points may differ without meaning; ``times`` widens their
    confidences."""
    floor = NOISE_FLOOR * max(a.output_tokens_per_second, b.output_tokens_per_second)
    both = math.hypot(a.confidence_tokens_per_second, b.confidence_tokens_per_second)
    return max(floor, times * both)


def energy_noise(a: OperatingPoint, b: OperatingPoint, times: float = 1.0) -> float:
    """Share by which energy per token may differ without meaning: it is power over throughput, and
    has the throughput's uncertainty at least."""
    return max(NOISE_FLOOR, times * energy_confidence(a, b))


def energy_confidence(a: OperatingPoint, b: OperatingPoint) -> float:
    """Half width of the 95 % interval of the ratio of their energies per token."""
    return math.hypot(*(_energy_confidence(p) for p in (a, b)))


def significantly_more(a: OperatingPoint, b: OperatingPoint) -> bool:
    """Whether ``b`` has more throughput than ``a``, by more than both confidences together."""
    return b.output_tokens_per_second - a.output_tokens_per_second > throughput_noise(a, b)


def significantly_thriftier(a: OperatingPoint, b: OperatingPoint, times: float = 1.0) -> bool:
    """Whether ``b`` spends less energy per token than ``a``; False while either is unknown."""
    energy_a, energy_b = a.joules_per_output_token, b.joules_per_output_token
    if energy_a is None or energy_b is None:
        return False
    return energy_b < energy_a * (1 - energy_noise(a, b, times))


def dominates(a: OperatingPoint, b: OperatingPoint, throughput_only: bool = False) -> bool:
    """Whether ``a`` beats ``b``: as good in throughput and energy per token within the noise, and
    better in one of them beyond it. Without energy the fewer replicas stand for the lower cost."""
    if significantly_more(a, b):
        return False
    faster = significantly_more(b, a)
    if throughput_only or a.joules_per_output_token is None or b.joules_per_output_token is None:
        if a.probe.replicas > b.probe.replicas:
            return False
        return faster or a.probe.replicas < b.probe.replicas
    if significantly_thriftier(a, b):
        return False
    return faster or significantly_thriftier(b, a)


def beyond_doubt(alternatives: int) -> float:
    """By what factor 95 % confidences are widened, so that none of ``alternatives`` that is no
    better than what runs replaces it, but for one time in 1 / FALSE_SWITCH_RATE.

    Each alternative is tested twice, on throughput and on energy, and what runs on its energy
    against each; Bonferroni's inequality divides the rate among them. Quantiles are Student's t,
    since a window's own spread is only estimated.
    """
    share = FALSE_SWITCH_RATE / (2 * max(1, alternatives))
    return student_t(1 - share, WINDOW_FREEDOM) / student_t(0.975, WINDOW_FREEDOM)


def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t for 4 degrees of freedom or more, by its expansion around the normal
    one (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )


def gain(a: OperatingPoint, b: OperatingPoint) -> float:
    """How much more ``b`` serves than ``a``, as a fraction of ``a``."""
    return b.output_tokens_per_second / max(a.output_tokens_per_second, 1e-9) - 1


def compared(a: OperatingPoint, b: OperatingPoint) -> str:
    """How much more or less than ``a`` ``b`` serves, in words."""
    more = gain(a, b)
    return f"{abs(more):.1%} {'more' if more >= 0 else 'less'} than"


def _energy_confidence(point: OperatingPoint) -> float:
    if point.energy_confidence is not None:
        return point.energy_confidence
    return point.confidence_tokens_per_second / max(point.output_tokens_per_second, 1e-9)
