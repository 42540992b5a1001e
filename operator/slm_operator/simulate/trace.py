"""A trace of requests: when each arrived, how long its prompt was, how many tokens it was answered.

The columns are those of the Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from slm_operator import csv_file

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
SPREAD_SECONDS = 10.0
"""Copies of a request arrive up to this long before or after it: far enough not to come as one,
near enough to keep the trace's own rises and falls."""
MAX_REQUESTS = 2_000_000
"""A scaled trace above it would take a Python process minutes and gigabytes."""

MOST_TIME = timedelta(days=31)
"""What is longer is mostly one row with a wrong date, and would be simulated for hours."""


class TraceError(Exception):
    """The trace cannot be used; the text names line and column, value and remedy."""


@dataclass(frozen=True, slots=True)
class Request:
    at_seconds: float
    """Since the first request."""
    prompt_tokens: int
    output_tokens: int
    """At least 1."""


@dataclass(frozen=True)
class Trace:
    """``requests`` by arrival; at least one."""

    requests: tuple[Request, ...]

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.requests[-1].at_seconds

    @property
    def prompt_tokens(self) -> int:
        return sum(r.prompt_tokens for r in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(r.output_tokens for r in self.requests)

    @property
    def mean_prompt_tokens(self) -> float:
        return self.prompt_tokens / len(self.requests)

    @property
    def mean_output_tokens(self) -> float:
        return self.output_tokens / len(self.requests)


def parse(text: str) -> Trace:
    """Rows in any order. Raises TraceError."""
    try:
        rows = [
            (
                _moment(line, cells["TIMESTAMP"]),
                _tokens(line, "ContextTokens", cells["ContextTokens"]),
                _tokens(line, "GeneratedTokens", cells["GeneratedTokens"]),
                line,
            )
            for line, cells in csv_file.rows(text, COLUMNS, "request")
        ]
    except csv_file.CsvFileError as error:
        raise TraceError(str(error)) from None
    naive = {moment.tzinfo is None for moment, *_ in rows}
    if len(naive) > 1:
        raise TraceError(
            "column TIMESTAMP: some times name their time zone and others do not: write all alike"
        )
    rows.sort(key=lambda row: row[0])
    first, *_, first_line = rows[0]
    last, *_, last_line = rows[-1]
    if last - first > MOST_TIME:
        days = (last - first) / timedelta(days=1)
        raise TraceError(
            f"column TIMESTAMP: line {first_line} ({first}) and line {last_line} ({last}) are "
            f"{days:,.1f} days apart, and a trace may take {MOST_TIME.days}: remove the rows that "
            "do not belong to it"
        )
    return Trace(
        tuple(
            Request((moment - first).total_seconds(), prompt, output)
            for moment, prompt, output, _ in rows
        )
    )


def scaled(trace: Trace, rate_scale: float, rng: Random) -> Trace:
    """The same time with ``rate_scale`` times as many requests: each as often as the scale says, a
    part of it by chance, copies a little apart. Raises TraceError for a scale that leaves no
    request, or more than MAX_REQUESTS."""
    expected = rate_scale * len(trace.requests)
    if expected > MAX_REQUESTS:
        raise TraceError(
            f"{expected:,.0f} requests are more than the {MAX_REQUESTS:,} that can be simulated: "
            "give a smaller rate scale or a shorter trace"
        )
    if rate_scale == 1:
        return trace
    whole = int(rate_scale)
    found: list[Request] = []
    for request in trace.requests:
        copies = whole + (rng.random() < rate_scale - whole)
        for copy in range(copies):
            apart = rng.uniform(-SPREAD_SECONDS, SPREAD_SECONDS) if copy else 0.0
            at = min(max(0.0, request.at_seconds + apart), trace.seconds)
            found.append(Request(at, request.prompt_tokens, request.output_tokens))
    if not found:
        raise TraceError(
            f"a rate scale of {rate_scale:g} leaves none of {len(trace.requests)} requests: give a "
            "larger one"
        )
    return Trace(tuple(sorted(found, key=lambda r: r.at_seconds)))


def with_warm_up(trace: Trace, seconds: float) -> tuple[Trace, float]:
    """The trace after its own first ``seconds`` backwards, and when it itself begins: so that a
    service meets it in full swing, at the load that it begins with. Never more than half of it."""
    before = min(seconds, trace.seconds / 2)
    warm = [
        Request(before - r.at_seconds, r.prompt_tokens, r.output_tokens)
        for r in trace.requests
        if 0 < r.at_seconds < before  # at 0 it would arrive with the trace's own first
    ]
    later = [
        Request(before + r.at_seconds, r.prompt_tokens, r.output_tokens) for r in trace.requests
    ]
    return Trace((*reversed(warm), *later)), before


def _moment(line: int, cell: str | None) -> datetime:
    text = (cell or "").strip()
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise TraceError(
            f"line {line}, column TIMESTAMP: {text!r} is no time: write one such as "
            "2023-11-16 18:15:46.680590"
        ) from None


def _tokens(line: int, column: str, cell: str | None) -> int:
    text = (cell or "").strip()
    try:
        value = int(text)
    except ValueError:
        raise TraceError(
            f"line {line}, column {column}: {text!r} is no whole number; write one"
        ) from None
    if value < 0:
        raise TraceError(f"line {line}, column {column}: {value} is negative; correct it")
    return max(1, value)  # an engine reads and answers one token at least
