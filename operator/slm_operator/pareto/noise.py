"""When two operating points differ: by more than both of their confidences."""

from __future__ import annotations

import math

from slm_operator.pareto.points import OperatingPoint

NOISE_FLOOR = 0.01
"""Two windows of one configuration differ by about a percent even when both are precise (the
repeated runs of the published H100 measurements do); no smaller difference counts."""


def throughput_noise(a: OperatingPoint, b: OperatingPoint) -> float:
    """Output tokens/s by which two points may differ without meaning."""
    floor = NOISE_FLOOR * max(a.output_tokens_per_second, b.output_tokens_per_second)
    return max(floor, math.hypot(a.confidence_tokens_per_second, b.confidence_tokens_per_second))


def energy_noise(a: OperatingPoint, b: OperatingPoint) -> float:
    """Share by which energy per token may differ without meaning: it is power over throughput, and
    has the throughput's uncertainty at least."""
    return max(NOISE_FLOOR, math.hypot(*(_relative_confidence(p) for p in (a, b))))


def significantly_more(a: OperatingPoint, b: OperatingPoint) -> bool:
    """Whether ``b`` has more throughput than ``a``, by more than both confidences together."""
    return b.output_tokens_per_second - a.output_tokens_per_second > throughput_noise(a, b)


def significantly_thriftier(a: OperatingPoint, b: OperatingPoint) -> bool:
    """Whether ``b`` spends less energy per token than ``a``; False while either is unknown."""
    energy_a, energy_b = a.joules_per_output_token, b.joules_per_output_token
    if energy_a is None or energy_b is None:
        return False
    return energy_b < energy_a * (1 - energy_noise(a, b))


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


def gain(a: OperatingPoint, b: OperatingPoint) -> float:
    """How much more ``b`` serves than ``a``, as a fraction of ``a``."""
    return b.output_tokens_per_second / max(a.output_tokens_per_second, 1e-9) - 1


def compared(a: OperatingPoint, b: OperatingPoint) -> str:
    """How much more or less than ``a`` ``b`` serves, in words."""
    more = gain(a, b)
    return f"{abs(more):.1%} {'more' if more >= 0 else 'less'} than"


def _relative_confidence(point: OperatingPoint) -> float:
    return point.confidence_tokens_per_second / max(point.output_tokens_per_second, 1e-9)
