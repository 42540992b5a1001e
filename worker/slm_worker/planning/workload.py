"""PURE: the work that predictions are about: a batch of requests, all sent at once.

Every measured row (``data/README.md``) is the mean of such a run, its ramp and its tail included,
so predictions are on the same basis. While a queue lasts, the batch is full; in the tail the last
and longest sequences run nearly alone, and that weighs the more, the larger the batch.

The lengths of answers: a few are trivial, the others exponential up to a longest one. Its two
figures are taken from the traces of the measured runs, where a running sequence holds 369 to 407
tokens (the model: 389), and the last sequences end sooner than exponential ones would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

STUDY_REQUESTS = 2000
"""Requests of one measured run."""
TRIVIAL_SHARE = 0.09
"""Share of answers that end with their first token."""
LONGEST_OUTPUT = 3.5
"""Longest answer over the mean of those that are not trivial."""
_SCALE = 1.2004816759218393
"""Mean of the exponential before the cut, for a mean of one after it."""
_SQUARED_VARIATION = 0.868
"""Variance of all lengths over their squared mean: 1.6993 / (1 - TRIVIAL_SHARE) - 1."""


@dataclass(frozen=True)
class Workload:
    """Requests that arrive together; lengths in tokens, >= 1."""

    prompt_tokens: float
    output_tokens: float
    requests: int = STUDY_REQUESTS


STUDY = Workload(prompt_tokens=111, output_tokens=292)
"""The mean lengths of the measured runs. Llama-2-7B wrote longer answers (323) of less spread, so
that its running sequences held as many tokens as those of OPT-1.3B: some 390."""


def mean_context(workload: Workload) -> float:
    """Tokens that a running sequence holds on average, while there is a queue: long answers run
    longer, and so are met more often."""
    return workload.prompt_tokens + workload.output_tokens * (1 + _SQUARED_VARIATION) / 2


@cache
def output_lengths(workload: Workload, replicas: int, longest_tokens: int) -> tuple[int, ...]:
    """Output tokens of each request that one of ``replicas`` serves, in order of arrival; none
    above ``longest_tokens``, where the engine ends an answer.

    Evenly spaced quantiles of the distribution, in the order of a van der Corput sequence: mixed
    like random ones, but without luck.
    """
    count = max(1, round(workload.requests / replicas))
    order = sorted(range(count), key=_bits_reversed)
    rank_of = {request: rank for rank, request in enumerate(order)}
    return tuple(
        min(longest_tokens, _length(workload, (rank_of[request] + 0.5) / count))
        for request in range(count)
    )


def _length(workload: Workload, quantile: float) -> int:
    if quantile < TRIVIAL_SHARE:
        return 1
    share = (quantile - TRIVIAL_SHARE) / (1 - TRIVIAL_SHARE)
    mean = max(1.0, workload.output_tokens - TRIVIAL_SHARE) / (1 - TRIVIAL_SHARE)
    kept = 1 - math.exp(-LONGEST_OUTPUT / _SCALE)
    return max(1, round(-mean * _SCALE * math.log(1 - kept * share)))


def _bits_reversed(number: int) -> int:
    return int(f"{number:032b}"[::-1], 2)
