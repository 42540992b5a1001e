"""A further window of a probe among what is known: more certainty, or proof that things changed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from slm_operator.pareto.noise import beyond_doubt, throughput_noise
from slm_operator.pareto.points import OperatingPoint
from slm_operator.pareto.repeats import with_window


def learned(known: Iterable[OperatingPoint], window: OperatingPoint) -> tuple[OperatingPoint, ...]:
    """``known`` and ``window``.

    A window that agrees with an earlier one of its probe is pooled with it. One that differs
    beyond doubt shows that the pack changed in between (heat, another tenant of the host, a
    new driver): what was measured between the two is taken relative to their mean, and what is
    older is forgotten, to be measured anew.
    """
    points = list(known)
    held = next((p for p in points if p.probe == window.probe), None)
    others = [p for p in points if p.probe != window.probe]
    if held is None:
        return (*others, window)
    apart = abs(held.output_tokens_per_second - window.output_tokens_per_second)
    if apart <= throughput_noise(held, window, beyond_doubt(1)):
        return (*others, with_window(held, window))
    between = [p for p in others if p.measured_at > held.measured_at]
    return (*(_as_of(window, held, p) for p in between), window)


def _as_of(window: OperatingPoint, held: OperatingPoint, between: OperatingPoint) -> OperatingPoint:
    """``between`` as it would have been measured at the time of ``window``. When in the meantime
    the change came is unknown, which its confidence tells."""
    after, before = window.output_tokens_per_second, held.output_tokens_per_second
    factor = 2 * after / (after + before)
    tokens = factor * between.output_tokens_per_second
    unsure = tokens * abs(after - before) / (after + before)
    watts = between.power_watts
    if watts is not None and window.power_watts is not None and held.power_watts is not None:
        watts *= 2 * window.power_watts / (window.power_watts + held.power_watts)
    return replace(
        between,
        output_tokens_per_second=tokens,
        confidence_tokens_per_second=math.hypot(
            factor * between.confidence_tokens_per_second, unsure
        ),
        power_watts=watts,
        measured_at=window.measured_at,
    )
