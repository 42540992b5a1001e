"""What decides: the rules by name, and what one of them said of a point.

docs/explaining.md tells each rule in words; a test holds the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from slm_operator.pareto.points import OperatingPoint


class Rule(StrEnum):
    """The closed vocabulary of decisions: what made a point win or lose, why one is measured next,
    and why one runs that was not chosen."""

    # It won.
    ONLY_POINT = "OnlyPoint"
    STEP_WORTH_IT = "StepWorthIt"
    FEWER_SUFFICE = "FewerSuffice"
    THRIFTIER = "Thriftier"
    LEAST_ENERGY = "LeastEnergy"
    FEWER_WITHIN_NOISE = "FewerWithinNoise"
    BENEFIT_OF_DOUBT = "BenefitOfDoubt"
    NEAREST_TO_LIMITS = "NearestToLimits"

    # It lost.
    LIMIT_BROKEN = "LimitBroken"
    ENERGY_ABOVE_LIMIT = "EnergyAboveLimit"
    LESS_THROUGHPUT = "LessThroughput"
    GAIN_TOO_SMALL = "GainTooSmall"
    GAIN_WITHIN_NOISE = "GainWithinNoise"
    MORE_ENERGY = "MoreEnergy"
    ENERGY_NOT_LESS = "EnergyNotLess"
    NOT_BEYOND_DOUBT = "NotBeyondDoubt"

    # It took no part in the choice.
    WALK_BEGAN = "WalkBegan"
    WALK_WENT_ON = "WalkWentOn"
    WALK_STOPPED = "WalkStopped"
    OUTSIDE_SPACE = "OutsideSpace"
    OTHER_TRAFFIC = "OtherTraffic"
    OUTDATED = "Outdated"

    # It is measured next.
    NEXT_IN_ROTATION = "NextInRotation"
    LARGER_BATCH = "LargerBatch"
    OWN_LAYOUT = "OwnLayout"
    FEWER_IN_OWN_LAYOUT = "FewerInOwnLayout"
    SMALLER_BATCH = "SmallerBatch"
    WHAT_STARTS = "WhatStarts"
    RIVAL_AGAIN = "RivalAgain"
    INCUMBENT_AGAIN = "IncumbentAgain"
    KNOWN_KNEE = "KnownKnee"

    # What another service measured.
    PROFILE_CONFIRMED = "ProfileConfirmed"
    PROFILE_CONTRADICTED = "ProfileContradicted"
    PROFILE_UNUSABLE = "ProfileUnusable"

    # It runs without a choice.
    BEING_MEASURED = "BeingMeasured"
    AWAITS_LOAD = "AwaitsLoad"
    FIXED_BY_SPEC = "FixedBySpec"
    FEWEST_ALLOWED = "FewestAllowed"

    # A finished search goes on.
    CONFIGURATION_CHANGED = "ConfigurationChanged"
    POINT_MISSING = "PointMissing"

    # Packs are added or removed.
    DEMAND_RISING = "DemandRising"
    DEMAND_FALLING = "DemandFalling"
    NO_REQUESTS = "NoRequests"
    REQUESTS_HELD = "RequestsHeld"
    CANNOT_HOLD = "CannotHold"
    PACK_BOUNDS = "PackBounds"

    # It cannot be had.
    LAYOUT_FAILED = "LayoutFailed"
    USERS_WAITED = "UsersWaited"

    # It has to be measured anew.
    TRAFFIC_SHIFTED = "TrafficShifted"


LOST = frozenset(
    {
        Rule.LIMIT_BROKEN,
        Rule.ENERGY_ABOVE_LIMIT,
        Rule.LESS_THROUGHPUT,
        Rule.GAIN_TOO_SMALL,
        Rule.GAIN_WITHIN_NOISE,
        Rule.MORE_ENERGY,
        Rule.ENERGY_NOT_LESS,
        Rule.NOT_BEYOND_DOUBT,
    }
)
"""The rules by which a point that took part in the choice loses."""


class Quantity(StrEnum):
    """What a rule compares, named as the API names it, with the unit that it is told in there."""

    OUTPUT_TOKENS_PER_SECOND = "outputTokensPerSecond"
    MICROJOULES_PER_OUTPUT_TOKEN = "microjoulesPerOutputToken"  # noqa: S105 - not a secret
    POWER_WATTS = "powerWatts"
    TTFT_P95_MICROSECONDS = "ttftP95Microseconds"
    ITL_P95_MICROSECONDS = "itlP95Microseconds"
    ITL_P99_MICROSECONDS = "itlP99Microseconds"
    PREEMPTIONS_PER_HUNDRED_REQUESTS = "preemptionsPerHundredRequests"

    def of(self, point: OperatingPoint) -> float | None:
        """This quantity of ``point``, in its unit; None where it is unknown."""
        match self:
            case Quantity.OUTPUT_TOKENS_PER_SECOND:
                return point.output_tokens_per_second
            case Quantity.MICROJOULES_PER_OUTPUT_TOKEN:
                return _times(1_000_000, point.joules_per_output_token)
            case Quantity.POWER_WATTS:
                return point.power_watts
            case Quantity.TTFT_P95_MICROSECONDS:
                return _times(1_000_000, point.ttft_p95_seconds)
            case Quantity.ITL_P95_MICROSECONDS:
                return _times(1_000_000, point.itl_p95_seconds)
            case Quantity.ITL_P99_MICROSECONDS:
                return _times(1_000_000, point.itl_p99_seconds)
            case Quantity.PREEMPTIONS_PER_HUNDRED_REQUESTS:
                return _times(100, point.preemptions_per_request)


@dataclass(frozen=True)
class Comparison:
    """The two numbers that a rule held against each other, in the quantity's unit."""

    quantity: Quantity
    value: float
    """The point's own."""
    bound: float
    """What it was held against: a limit, or what another point made necessary."""


@dataclass(frozen=True)
class Ruling:
    """What a rule said of one point."""

    rule: Rule
    text: str
    """In words, with both numbers."""
    comparison: Comparison | None = None
    """None where the rule compares nothing, as when a point is the only one, or where one of its
    numbers is unknown."""


def ruling(
    rule: Rule, quantity: Quantity, point: OperatingPoint, bound: float, text: str
) -> Ruling:
    """A ruling on ``point``; ``bound`` in the unit of ``quantity``. Where one of the two numbers is
    unknown nothing was compared."""
    value = quantity.of(point)
    if value is None or not math.isfinite(bound):
        return Ruling(rule, text)
    return Ruling(rule, text, Comparison(quantity, value, bound))


def _times(factor: int, value: float | None) -> float | None:
    return None if value is None else value * factor
