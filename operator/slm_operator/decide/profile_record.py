"""The record of a finished search that services of one configuration share: one entry of a
ConfigMap, bounded in number and size, with a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from slm_operator.api.base import ApiModel
from slm_operator.api.status import FrontierPoint, LayoutStatus, ShortText, Timestamp
from slm_operator.decide.times import moment
from slm_worker.wire import MAX_NUM_SEQS, MAX_REPLICAS_PER_PACK

MOST_POINTS = 32
"""Twice the windows of one search."""
MOST_PROFILES = 24
"""In one ConfigMap, which may hold 1 MiB."""
MOST_BYTES = 32 * 1024
"""Of one profile: 32 points take some 20 KiB."""
TOLERANCE = 0.08
"""By how much GPUs of one kind differ on average, in five clusters (Sinha and others, "Not All GPUs
Are Created Equal", SC 2022). A curve that is as a whole that much higher or lower has its knee
where it had it."""
CLOCK_SKEW = timedelta(hours=1)
"""What is dated later than that from now has no date that could be trusted."""
MOST_TOKENS_PER_SECOND = 10_000_000
MOST_WATTS = 100_000
"""Far above any GPU: a figure beyond is damage."""


class Profile(ApiModel):
    """What one service measured. Another ``version`` is of another release, and not read."""

    version: Literal[1] = 1
    key: ShortText
    written_at: Timestamp
    written_by: ShortText
    """The service that measured it."""
    model: Annotated[str, Field(max_length=512)]
    gpu: ShortText
    prompt_tokens: int
    output_tokens: int
    chosen: LayoutStatus
    """What that service chose, by its own objective and limits."""
    points: Annotated[tuple[FrontierPoint, ...], Field(min_length=1, max_length=MOST_POINTS)]


class ProfileError(Exception):
    """An entry cannot be used; the message says why."""


def encode(profile: Profile) -> str:
    return profile.model_dump_json(by_alias=True, exclude_none=True)


def decode(key: str, text: str, now: str) -> Profile:
    """Raises ProfileError for what is foreign, damaged, or of another release."""
    if len(text.encode()) > MOST_BYTES:
        raise ProfileError(f"it has more than {MOST_BYTES:,} bytes")
    try:
        profile = Profile.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the text"
        raise ProfileError(f"{where}: {fault['msg']}") from error
    if profile.key != key:
        raise ProfileError(f"it is of another configuration, {profile.key}")
    latest = _moment(now, "now") + CLOCK_SKEW
    for point in profile.points:
        _check(point)
        if _moment(point.measured_at, "points.measuredAt") > latest:
            raise ProfileError(f"points.measuredAt: {point.measured_at} has not been yet")
    return profile


def merged(stored: str | None, own: Profile, now: str) -> Profile:
    """``own``, and what the stored one knows beyond it: relative to a probe that both have, if they
    agree on it. What they disagree on, and what they share no probe with, is out of date."""
    before = _readable(own.key, stored, now)
    if before is None:
        return own
    mine = {_probe(p): p for p in own.points}
    ratios = [
        mine[_probe(p)].output_tokens_per_second / p.output_tokens_per_second
        for p in before.points
        if _probe(p) in mine
    ]
    if not ratios or any(abs(r - 1) > TOLERANCE for r in ratios):
        return own
    others = [_rescaled(p, fmean(ratios)) for p in before.points if _probe(p) not in mine]
    newest = sorted(others, key=lambda p: p.measured_at, reverse=True)
    kept = newest[: MOST_POINTS - len(mine)]
    return own.model_copy(update={"points": (*reversed(kept), *own.points)})


def same_findings(stored: str | None, new: Profile, now: str) -> bool:
    """Whether writing ``new`` would tell nobody anything."""
    before = _readable(new.key, stored, now)
    return before is not None and (before.chosen, before.points) == (new.chosen, new.points)


def oldest(entries: Mapping[str, str], key: str, now: str) -> tuple[str, ...]:
    """The keys that have to go for ``key`` to be written: those that nobody could use, then those
    written longest ago."""

    def age(entry: str) -> str:
        found = _readable(entry, entries[entry], now)
        return found.written_at if found else ""

    others = sorted((e for e in entries if e != key), key=age)
    return tuple(others[: max(0, len(others) + 1 - MOST_PROFILES)])


def stripped(points: tuple[FrontierPoint, ...]) -> tuple[FrontierPoint, ...]:
    """What one window or several measured, without what one service thought of it; the newest
    ``MOST_POINTS``."""
    newest = sorted(points, key=lambda p: p.measured_at)[-MOST_POINTS:]
    return tuple(p.model_copy(update={"why": "", "rule": None, "compared": None}) for p in newest)


def _readable(key: str, stored: str | None, now: str) -> Profile | None:
    try:
        return decode(key, stored, now) if stored is not None else None
    except ProfileError:
        return None


def _check(point: FrontierPoint) -> None:
    """Raises ProfileError for a figure that no window can have measured."""
    within = {
        "replicasPerPack": (point.replicas_per_pack, 1, MAX_REPLICAS_PER_PACK),
        "layoutReplicas": (
            point.layout_replicas,
            point.replicas_per_pack,
            MAX_REPLICAS_PER_PACK,
        ),
        "maxNumSeqs": (point.max_num_seqs, 1, MAX_NUM_SEQS),
        "outputTokensPerSecond": (point.output_tokens_per_second, 1, MOST_TOKENS_PER_SECOND),
        "confidenceTokensPerSecond": (
            point.confidence_tokens_per_second,
            0,
            MOST_TOKENS_PER_SECOND,
        ),
        "powerWatts": (point.power_watts, 1, MOST_WATTS),
        "microjoulesPerOutputToken": (
            point.microjoules_per_output_token,
            1,
            MOST_WATTS * 1_000_000,
        ),
        "windowSeconds": (point.window_seconds, 1, 10**6),
        "windows": (point.windows, 1, 10**6),
        "saturatedPercent": (point.saturated_percent, 0, 100),
    }
    for name, (value, least, most) in within.items():
        if value is not None and not least <= value <= most:
            raise ProfileError(f"points.{name}: {value} is not between {least} and {most}")


def _rescaled(point: FrontierPoint, tokens: float) -> FrontierPoint:
    energy = point.microjoules_per_output_token
    return point.model_copy(
        update={
            "chosen": False,
            "output_tokens_per_second": max(1, round(point.output_tokens_per_second * tokens)),
            "microjoules_per_output_token": None if energy is None else round(energy / tokens),
        }
    )


def _probe(point: FrontierPoint) -> tuple[int, int, int]:
    return point.layout_replicas, point.replicas_per_pack, point.max_num_seqs


def _moment(timestamp: str, name: str) -> datetime:
    try:
        found = moment(timestamp)
    except ValueError as error:
        raise ProfileError(f"{name}: {timestamp!r} is no time") from error
    if found.tzinfo is None:
        raise ProfileError(f"{name}: {timestamp!r} has no time zone")
    return found
