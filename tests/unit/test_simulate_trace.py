"""A recorded trace: how it is read, how it is scaled, and the warm-up before it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulate_builders import trace
from slm_operator.simulate.trace import (
    MAX_REQUESTS,
    SPREAD_SECONDS,
    Request,
    Trace,
    TraceError,
    parse,
    scaled,
    with_warm_up,
)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def written(*rows: str, header: str = HEADER) -> str:
    return "\n".join((header, *rows))


def test_the_published_format_with_its_tenths_of_microseconds() -> None:
    found = parse(
        written("2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951690,396,109")
    )
    assert found.requests == (Request(0.0, 374, 44), Request(4.314579, 396, 109))
    assert found.seconds == 4.314579
    assert (found.prompt_tokens, found.output_tokens) == (770, 153)
    assert (found.mean_prompt_tokens, found.mean_output_tokens) == (385, 76.5)


def test_rows_come_in_any_order_and_other_columns_are_ignored() -> None:
    found = parse(
        written("b,2023-11-16 18:00:02,3,4", "a,2023-11-16 18:00:00,1,2", header=f"id,{HEADER}")
    )
    assert found.requests == (Request(0.0, 1, 2), Request(2.0, 3, 4))


def test_a_cell_may_hold_a_line_separator() -> None:
    found = parse(written("2023-11-16 18:00:00,1,2,hello\u2028there", header=f"{HEADER},prompt"))
    assert found.requests == (Request(0.0, 1, 2),)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("2023-11-16T18:00:00.25Z", "2023-11-16T18:00:01Z", 0.75),
        ("2023-11-16 18:00:00.25+00:00", "2023-11-16 20:00:01.5+02:00", 1.25),
        ("2023-11-16 18:00", "2023-11-16 18:01", 60.0),
    ],
)
def test_times_in_other_forms(first: str, second: str, apart: float) -> None:
    assert parse(written(f"{first},1,1", f"{second},1,1")).seconds == apart


def test_an_engine_reads_and_answers_one_token_at_least() -> None:
    assert parse(written("2023-11-16 18:00:00,0,0")).requests == (Request(0.0, 1, 1),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty: give a header line with TIMESTAMP, ContextTokens, Generated"),
        (HEADER, "the file has a header and no row: add one line for each request"),
        (
            "TIMESTAMP,GeneratedTokens\n2023-11-16,1",
            "line 1: column ContextTokens is missing; there are TIMESTAMP, GeneratedTokens",
        ),
        (
            written("2023-11-16,1,1", "noon,1,1"),
            "line 3, column TIMESTAMP: 'noon' is no time: write one such as 2023-11-16 18:15:46",
        ),
        (written(",1,1"), "line 2, column TIMESTAMP: '' is no time"),
        (written("2023-11-16,,1"), "line 2, column ContextTokens: '' is no whole number; write"),
        (written("2023-11-16,1"), "line 2, column GeneratedTokens: '' is no whole number; write"),
        (written("2023-11-16,1,x"), "line 2, column GeneratedTokens: 'x' is no whole number"),
        (written("2023-11-16,1.5,1"), "line 2, column ContextTokens: '1.5' is no whole number"),
        (written("2023-11-16,1,-7"), "line 2, column GeneratedTokens: -7 is negative; correct it"),
        (
            written("2023-11-16 18:00:00.5+00:00,1,1", "2023-11-16 18:00:00.5,1,1"),
            "column TIMESTAMP: some times name their time zone and others do not: write all alike",
        ),
        (
            written("2023-11-16,1,1", '"2023-11-16,1,1', *["2023-11-16,1,1"] * 5),
            "line 3: the row that begins here cannot be read (unexpected end of data): close its",
        ),
        (
            written("2023-11-16,1,1", "1970-01-01,1,1", "2023-11-17,1,1"),
            "column TIMESTAMP: line 3 (1970-01-01 00:00:00) and line 4 (2023-11-17 00:00:00) are "
            "19,678.0 days apart, and a trace may take 31: remove the rows that do not belong",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_the_remedy(text: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse(text)
    assert str(caught.value).startswith(said)


requests = st.lists(
    st.builds(
        Request,
        at_seconds=st.integers(0, 4_000_000_000).map(lambda micros: micros / 1e6),
        prompt_tokens=st.integers(1, 9000),
        output_tokens=st.integers(1, 900),
    ),
    min_size=1,
    max_size=30,
)
traces = requests.map(lambda found: Trace(tuple(sorted(found, key=lambda r: r.at_seconds))))


def lengths(of: Trace) -> Counter[tuple[int, int]]:
    return Counter((r.prompt_tokens, r.output_tokens) for r in of.requests)


@given(recorded=traces, scale=st.floats(1, 20), seed=st.integers(0, 9))
def test_a_scaled_trace_repeats_requests_within_the_recorded_time(
    recorded: Trace, scale: float, seed: int
) -> None:
    found = scaled(recorded, scale, Random(seed))
    assert found == scaled(recorded, scale, Random(seed))
    times = [r.at_seconds for r in found.requests]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] == recorded.seconds
    for each, count in lengths(recorded).items():
        assert int(scale) * count <= lengths(found)[each] <= (int(scale) + 1) * count
    assert set(lengths(found)) == set(lengths(recorded))


@pytest.mark.parametrize("scale", [0.2, 0.5, 1, 1.3, 2, 20])
def test_the_expected_number_of_requests_is_the_scales(scale: float) -> None:
    recorded = trace(*((float(second), second + 1, 1) for second in range(2000)))
    found = len(scaled(recorded, scale, Random(7)).requests)
    assert found == pytest.approx(2000 * scale, rel=0.1 if scale < 1 else 0.02)


def test_another_seed_draws_other_requests() -> None:
    recorded = trace(*((float(second), second + 1, 1) for second in range(100)))
    assert scaled(recorded, 0.5, Random(1)) != scaled(recorded, 0.5, Random(2))


def test_copies_come_a_little_apart() -> None:
    recorded = trace((0.0, 1, 1), (1000.0, 2, 2), (2000.0, 3, 3))
    found = scaled(recorded, 10, Random(1))
    apart = [r.at_seconds - 1000.0 for r in found.requests if r.prompt_tokens == 2]
    assert len(set(apart)) == 10
    assert max(map(abs, apart)) <= SPREAD_SECONDS


def test_a_scale_of_one_is_the_trace_itself() -> None:
    recorded = trace((0.0, 1, 1), (1.0, 2, 2))
    assert scaled(recorded, 1, Random(1)) is recorded


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (0.0, "a rate scale of 0 leaves none of 2 requests: give a larger one"),
        (1e-9, "a rate scale of 1e-09 leaves none of 2 requests: give a larger one"),
        (MAX_REQUESTS, "4,000,000 requests are more than the 2,000,000 that can be simulated"),
        (float("inf"), "inf requests are more than the 2,000,000 that can be simulated"),
    ],
)
def test_extreme_scales_are_refused(scale: float, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        scaled(trace((0.0, 1, 1), (1.0, 1, 1)), scale, Random(1))
    assert str(caught.value).startswith(said)


def test_the_warm_up_is_the_traces_beginning_backwards() -> None:
    recorded = trace((0.0, 1, 1), (10.0, 2, 2), (40.0, 3, 3), (200.0, 4, 4))
    whole, begins = with_warm_up(recorded, 50)
    assert begins == 50
    assert whole == trace(
        (10.0, 3, 3), (40.0, 2, 2), (50.0, 1, 1), (60.0, 2, 2), (90.0, 3, 3), (250.0, 4, 4)
    )


def test_a_short_trace_is_warmed_up_by_half_of_it() -> None:
    _, begins = with_warm_up(trace((0.0, 1, 1), (100.0, 1, 1)), 600)
    assert begins == 50


@given(recorded=traces, seconds=st.floats(0, 600))
def test_after_its_warm_up_the_trace_is_as_it_was(recorded: Trace, seconds: float) -> None:
    whole, begins = with_warm_up(recorded, seconds)
    times = [r.at_seconds for r in whole.requests]
    assert times == sorted(times)
    assert times[0] >= 0
    assert begins <= seconds
    counted = [r for r in whole.requests if r.at_seconds >= begins]
    assert len(counted) == len(recorded.requests)
    for one, other in zip(counted, recorded.requests, strict=True):
        assert one.at_seconds == pytest.approx(begins + other.at_seconds)
        assert (one.prompt_tokens, one.output_tokens) == (other.prompt_tokens, other.output_tokens)
