"""What differences of cumulative counters say, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from slm_worker.wire import Counters, Histogram

T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160),
    *(2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056),
    *(2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics textbook)."""


def half_width(window: Sequence[Counters], batches: int) -> float:
    """Half width, in output tokens/s, of the 95 % interval of a window's mean throughput.

    By batch means: equal stretches of time are one sample each. Consecutive seconds of one engine
    are correlated, batches of several seconds hardly are (tests/unit/test_recorded_runs.py holds
    it to recordings of a real GPU).
    """
    count = max(2, min(batches, len(window) - 1))
    start = window[0].sampled_at_seconds
    seconds = window[-1].sampled_at_seconds - start
    edges = [_tokens_at(window, start + seconds * i / count) for i in range(count + 1)]
    rates = [(b - a) * count / seconds for a, b in pairwise(edges)]
    if fmean(rates) <= 0:
        return 0.0
    return T_QUANTILES[count - 2] * stdev(rates) / math.sqrt(count)


def quantile(before: Histogram, after: Histogram, share: float) -> float | None:
    """The ``share`` quantile in seconds of what was observed between two cumulative histograms.

    Linear inside a bucket, as Prometheus does; an observation above the last bound counts as that
    bound. None when nothing was observed.
    """
    total = after.count - before.count
    if total <= 0 or not after.bounds_seconds:
        return None
    earlier = before.cumulative or (0,) * len(after.cumulative)
    rank = share * total
    low_bound, low_count = 0.0, 0
    for bound, now, then in zip(after.bounds_seconds, after.cumulative, earlier, strict=True):
        count = now - then
        if count >= rank:
            inside = count - low_count
            part = (rank - low_count) / inside if inside else 1.0
            return low_bound + (bound - low_bound) * part
        low_bound, low_count = bound, count
    return low_bound


def mean_lengths(before: Counters, after: Counters) -> tuple[float, float] | None:
    """Mean prompt and output tokens of the requests between two counts; None without one.

    A prompt is counted when it was read, which is when its first token came; its output when it
    was completed. Where nobody observes first tokens, completions stand for both.
    """
    completed = after.requests_completed - before.requests_completed
    begun = after.ttft.count - before.ttft.count or completed
    if completed <= 0 or begun <= 0:
        return None
    return (
        (after.prompt_tokens - before.prompt_tokens) / begun,
        (after.output_tokens - before.output_tokens) / completed,
    )


def _tokens_at(window: Sequence[Counters], at_seconds: float) -> float:
    for old, new in pairwise(window):
        if new.sampled_at_seconds >= at_seconds:
            length = new.sampled_at_seconds - old.sampled_at_seconds
            part = (at_seconds - old.sampled_at_seconds) / length if length > 0 else 1.0
            return old.output_tokens + part * (new.output_tokens - old.output_tokens)
    return float(window[-1].output_tokens)
