"""Learned profiles: what one service measured, for the next one of the same configuration.

A profile holds the points of a finished search. A service that begins takes its knee for granted
as far as one window confirms it: a GPU of the same name may be slower, run hotter, or have
neighbours. What the window contradicts is dropped, and the search begins with the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from slm_operator.api.status import LayoutStatus
from slm_operator.decide import points as shown
from slm_operator.decide.profile_record import TOLERANCE, Profile, ProfileError, decode
from slm_operator.decide.snapshot import StoredProfile
from slm_operator.decide.traffic import Traffic
from slm_operator.pareto.noise import throughput_noise
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.search import Measure, SearchSpace, Settle, next_step, running_layout
from slm_operator.pareto.shift import ShiftRules


@dataclass(frozen=True)
class Finding:
    """What became of a stored profile."""

    reason: Literal["ProfileUsed", "ProfileRejected", "ProfileIgnored"]
    rule: Rule
    message: str
    knee: Probe | None = None


@dataclass(frozen=True)
class Trial:
    """A known knee that one window has to confirm."""

    knee: OperatingPoint
    points: tuple[OperatingPoint, ...]
    """All that count here, the knee among them."""
    source: str

    @property
    def step(self) -> Measure:
        why = f"does the knee that {self.source} hold here?"
        return Measure(self.knee.probe, "Confirming", Rule.KNOWN_KNEE, why)

    def judge(
        self, window: OperatingPoint, space: SearchSpace
    ) -> tuple[tuple[OperatingPoint, ...], Finding]:
        """After the knee's window: the points that are known from now on, and what was found."""
        held, probe = self.knee, self.knee.probe
        said = (
            f"{probe} served {window.output_tokens_per_second:,.0f} output tok/s here, and "
            f"{held.output_tokens_per_second:,.0f} by the knee that {self.source}"
        )
        ratio = window.output_tokens_per_second / held.output_tokens_per_second
        noise = throughput_noise(held, window) / held.output_tokens_per_second
        if abs(ratio - 1) > max(TOLERANCE, noise):
            return (window,), _rejected(
                probe, f"{said}, which is more than {TOLERANCE:.0%} apart: the search begins anew"
            )
        watts = 1.0
        if held.power_watts and window.power_watts:
            watts = window.power_watts / held.power_watts
            if abs(watts - 1) > TOLERANCE:
                drew = f"it drew {window.power_watts:,.0f} W against {held.power_watts:,.0f} W"
                return (window,), _rejected(
                    probe,
                    f"{said}; {drew}, more than {TOLERANCE:.0%} apart: the search begins anew",
                )
        adopted = (
            *(_scaled(p, ratio, watts) for p in self.points if p.probe != probe),
            window,
        )
        after = next_step(space, adopted, probe)
        if not isinstance(after, Settle) or running_layout(after.choice) != probe:
            return (window,), _rejected(
                probe,
                f"{said}; with this window another point may be better: the search begins anew",
            )
        others = len(adopted) - 1
        return adopted, Finding(
            "ProfileUsed",
            Rule.PROFILE_CONFIRMED,
            f"{said}, which is within {TOLERANCE:.0%}: its {others} other "
            f"point{'' if others == 1 else 's'} count, at {ratio:.1%} of their throughput",
            probe,
        )


def trial(
    stored: StoredProfile,
    space: SearchSpace,
    traffic: Traffic,
    simulated: bool,
    now: str,
    shifts: ShiftRules,
) -> Trial | Finding | None:
    """What to verify by a window; why there is nothing that could be; None where none is stored."""
    if stored.trouble:
        return _ignored(f"it could not be read: {stored.trouble}")
    if stored.text is None:
        return None
    try:
        profile = decode(stored.key, stored.text, now)
        held, points = _knee(profile, space, traffic, simulated, now, shifts)
    except ProfileError as error:
        return _ignored(str(error))
    source = f"{profile.written_by} measured on {profile.written_at}"
    return Trial(held, points, source)


def _knee(
    profile: Profile,
    space: SearchSpace,
    traffic: Traffic,
    simulated: bool,
    now: str,
    shifts: ShiftRules,
) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
    """The knee by what is asked for here, which may be another than where the points come from."""
    points = shown.read(profile.points)
    if any(p.simulated != simulated for p in points):
        raise ProfileError("its points are simulated" if not simulated else "its points are real")
    spoiled = [why for p in points if (why := traffic.why_not(p, now, shifts))]
    points = tuple(p for p in points if traffic.counts(p, now, shifts))
    if not points:
        raise ProfileError(spoiled[0].text)
    step = next_step(space, points)
    if isinstance(step, Measure) and step.rule is Rule.RIVAL_AGAIN:
        # The noise left it open there too, until windows enough were spent.
        step = next_step(space, points, _layout(profile.chosen))
    if isinstance(step, Measure):
        raise ProfileError(f"it leaves open what may run here: {step.why}")
    knee = running_layout(step.choice)
    held = next((p for p in points if p.probe == knee), None)
    if held is None:
        raise ProfileError(f"its knee, {knee}, was never measured in a layout of its own")
    if space.fails(knee):
        raise ProfileError(f"its knee, {knee}, could not be started here")
    return held, points


def _scaled(point: OperatingPoint, tokens: float, watts: float) -> OperatingPoint:
    """As it would have been measured where the knee's window was."""
    return shown.kept(
        replace(
            point,
            output_tokens_per_second=point.output_tokens_per_second * tokens,
            confidence_tokens_per_second=point.confidence_tokens_per_second * tokens,
            power_watts=None if point.power_watts is None else point.power_watts * watts,
        )
    )


def _rejected(knee: Probe, message: str) -> Finding:
    return Finding("ProfileRejected", Rule.PROFILE_CONTRADICTED, message, knee)


def _ignored(message: str) -> Finding:
    text = f"a profile of this configuration is stored and not used: {message}"
    return Finding("ProfileIgnored", Rule.PROFILE_UNUSABLE, text)


def _layout(layout: LayoutStatus) -> Probe:
    return Probe(layout.replicas_per_pack, layout.replicas_per_pack, layout.max_num_seqs)
