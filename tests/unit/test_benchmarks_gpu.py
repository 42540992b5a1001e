"""What the GPU benchmark computes by itself: order, windows, arguments, parts, and the summary."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.carry import CarryError, collect, join, manifest, shared_libraries, split
from benchmarks.gpu.lengths import Length, TraceLoad, lengths_of, read_lengths
from benchmarks.gpu.models import LEAST_VOCABULARY, MODELS, write_model
from benchmarks.gpu.points import Point, quantile, schedule, window
from benchmarks.gpu.summary import NothingMeasuredError, figures, plot, read, summarize
from benchmarks.gpu.sweep import not_starting
from benchmarks.gpu.vllm_standin import translated
from builders import pack_state
from slm_worker.model_files import read_footprint
from slm_worker.wire import (
    Counters,
    EngineConfig,
    Histogram,
    ModelRef,
    Problem,
    ReplicaPhase,
    ReplicaState,
)

A, B, C = Point(1, 256, 1), Point(1, 512, 1), Point(2, 256, 2)


@pytest.mark.parametrize(
    ("rounds", "order"),
    [(1, (A, B, C, A)), (2, (A, B, C, C, B, A)), (3, (A, B, C, C, B, A, A, B, C, A))],
)
def test_the_first_point_is_measured_again_at_the_end(
    rounds: int, order: tuple[Point, ...]
) -> None:
    assert schedule((A, B, C), rounds) == order


def test_points_that_repeat_one_are_taken_as_they_are() -> None:
    assert schedule((A, C, A, B), 1) == (A, C, A, B)


def test_a_point_may_be_a_rotation_of_a_larger_layout() -> None:
    point = Point.parse("2x256of4")
    assert point == Point(2, 256, 4) and str(point) == "2x256of4" and str(C) == "2x256"
    assert not point.probe.committed and C.probe.committed
    with pytest.raises(ValueError, match="3 in rotation of 2 started"):
        Point.parse("3x256of2")


@pytest.mark.parametrize("text", ["2", "x256", "2x", "ax256", "2x-1", "0x1", "2x256of"])
def test_a_point_is_written_as_replicas_times_sequences(text: str) -> None:
    assert Point.parse("2x256") == C
    with pytest.raises(ValueError, match="REPLICASxSEQUENCES"):
        Point.parse(text)


def counted(seconds: float, **more: Any) -> Counters:
    return Counters(sampled_at_seconds=seconds, saturated_seconds=seconds, **more)


def test_a_window_is_the_difference_of_two_samples() -> None:
    measured = window(
        counted(10, output_tokens=100, requests_completed=3, energy_millijoules=5_000),
        counted(20, output_tokens=1_100, requests_completed=8, energy_millijoules=25_000),
    )
    assert (measured.tokens_per_second, measured.requests_per_second) == (100, 0.5)
    assert (measured.watts, measured.microjoules_per_output_token) == (2, 20_000)
    assert measured.spoilt == ""


def test_without_an_energy_counter_power_is_unknown() -> None:
    measured = window(counted(10), counted(20, output_tokens=10))
    assert measured.watts is None and measured.microjoules_per_output_token is None


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (counted(20, output_tokens=1, replica_starts=1), "a replica was started"),
        (counted(20, output_tokens=1, missed_samples=1), "a replica missed a sample"),
        (counted(20), "no token was written"),
        (
            Counters(sampled_at_seconds=20, output_tokens=1, saturated_seconds=15),
            "only 50% of the window was saturated",
        ),
    ],
)
def test_a_window_that_is_no_measurement_says_why(after: Counters, why: str) -> None:
    assert window(counted(10), after).spoilt == why


def test_quantiles_lie_within_their_bucket() -> None:
    histogram = Histogram(bounds_seconds=(1.0, 2.0, 4.0), cumulative=(0, 10, 10), count=20)
    assert quantile(histogram, 0.25) == 1.5
    assert quantile(histogram, 0.95) == float("inf")
    assert quantile(Histogram(), 0.5) is None


def test_the_agents_arguments_for_vllm_become_the_simulated_engines() -> None:
    argv = ["serve", "/m", "--load-format=dummy", "--port", "1", "--shutdown-timeout", "60"]
    assert translated([*argv, "--disable-uvicorn-access-log", "--max-num-seqs", "8"], 0.5) == [
        *("--model", "file:///m", "--start-seconds", "0.5", "--enable-chunked-prefill"),
        *("--port", "1", "--max-num-seqs", "8"),
    ]


def test_an_argument_that_nobody_thought_of_is_noticed() -> None:
    with pytest.raises(ValueError, match="--brand-new"):
        translated(["serve", "/m", "--brand-new", "1"], 0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("opt-1.3b", 1.32e9),
        ("llama-3.2-1b", 1.24e9),
        ("qwen2.5-0.5b", 0.49e9),
        ("smollm2-1.7b", 1.71e9),
    ],
)
def test_a_model_by_hand_has_the_real_ones_size(
    name: str, parameters: float, tmp_path: Path
) -> None:
    path = write_model(name, tmp_path)
    model = ModelRef(uri=f"file://{path}", name=name)
    footprint = read_footprint(model, EngineConfig(kind="vLLM"))
    assert footprint is not None
    assert footprint.weights_bytes / 2 == pytest.approx(parameters, rel=0.01)
    vocabulary = MODELS[name]["vocab_size"]
    assert isinstance(vocabulary, int) and vocabulary >= LEAST_VOCABULARY
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    assert sorted(tokenizer["model"]["vocab"].values()) == list(range(vocabulary))


def test_a_replica_that_fails_again_and_again_ends_the_sweep_with_its_cause() -> None:
    problem = Problem(reason="OutOfMemory", message="no memory: fewer replicas", since_seconds=1.0)
    fine = ReplicaState(
        index=0,
        phase=ReplicaPhase.STARTING,
        in_rotation=False,
        max_num_seqs=256,
        kv_cache_bytes=None,
        pid=1,
        starts=1,
    )
    once = fine.model_copy(update={"failures": 1, "problem": problem})
    twice = fine.model_copy(update={"index": 1, "failures": 2, "problem": problem})
    assert not_starting(pack_state(replicas=(fine, once))) == ""
    told = not_starting(pack_state(replicas=(fine, once, twice)))
    assert told == "replica 1 failed 2 times in a row, OutOfMemory: no memory: fewer replicas"


async def test_each_clients_first_answer_ends_early_and_the_others_do_not() -> None:
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((await request.json())["max_tokens"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        lengths = [Length(2, 100)]
        load = TraceLoad(url=url, model_name="m", lengths=lengths, rng=random.Random(0))
        async with load.running(8):
            while load.completed < 40:
                await asyncio.sleep(0.01)
    early = [tokens for tokens in asked if tokens < 100]
    assert len(early) == 8 and len(set(early)) > 4 and asked[-1] == 100
    assert load.failures == []


def test_every_length_of_the_trace_fits_the_model() -> None:
    lengths = read_lengths(2048)
    assert len(lengths) > 500
    assert all(one.prompt_tokens + one.output_tokens <= 2048 for one in lengths)


def test_a_workload_is_the_trace_or_one_length() -> None:
    assert lengths_of("111+292", 2048) == (Length(111, 292),)
    assert lengths_of("trace", 2048) == read_lengths(2048)


@pytest.mark.parametrize(
    ("workload", "why"),
    [("111", "PROMPT[+]OUTPUT"), ("0+5", "PROMPT[+]OUTPUT"), ("2000+100", "2048 tokens at most")],
)
def test_a_workload_that_is_none_is_refused(workload: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        lengths_of(workload, 2048)


@given(data=st.binary(min_size=1, max_size=200), part_bytes=st.integers(1, 64))
def test_parts_make_up_the_whole_again(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, part_bytes: int
) -> None:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    (here / "whole").write_bytes(data)
    parts = split(here / "whole", here, part_bytes)
    assert manifest(here) == parts and all(part.size_bytes <= part_bytes for part in parts)
    assert collect(parts, here, there) == ()
    join(parts, there, there / "whole")
    assert [path.name for path in there.iterdir()] == ["whole"]
    assert (there / "whole").read_bytes() == data


def test_parts_may_come_one_at_a_time_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "whole").write_bytes(b"0123456789")
    parts = split(here / "whole", here, 4)
    later = (here / "part-01").read_bytes()
    (here / "part-01").unlink()
    assert collect(parts, here, there) == ("part-01",)
    (here / "part-01").write_bytes(b"xxxx")
    with pytest.raises(CarryError, match="bring it again"):
        collect(parts, here, there)
    (here / "part-01").write_bytes(later)
    assert collect(parts, here, there) == ()


def test_the_c_library_stays_here_and_the_rest_travels() -> None:
    listed = (
        "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibssl.so.3 => /lib/libssl.so.3 (0x2)\n"
        "\tlinux-vdso.so.1 (0x3)\n\t/lib64/ld-linux-x86-64.so.2 (0x4)\n"
    )
    assert list(shared_libraries(listed)) == [Path("/lib/libssl.so.3")]


def record(point: Point, tokens_per_second: float, **more: Any) -> Mapping[str, Any]:
    measured = window(
        counted(0, energy_millijoules=0),
        counted(10, output_tokens=int(10 * tokens_per_second), energy_millijoules=4_000_000),
    )
    return {
        "simulated": True,
        "model": "opt-1.3b",
        "layout_replicas": point.layout_replicas,
        "replicas": point.replicas,
        "max_num_seqs": point.max_num_seqs,
        "sharing": "MPS" if point.replicas > 1 else "alone",
        "lengths": "trace",
        "gpu": {"name": "a GPU"},
        "window": {**measured.__dict__, **more},
        "date": "2026-01-01T00:00:00+00:00",
        "command": "sweep",
    }


def test_a_summary_compares_with_one_replica_at_its_best_batch() -> None:
    found = figures(summarize([record(A, 1000), record(B, 800), record(C, 1500), record(A, 1100)]))
    assert found["1x256_tokens_per_second"] == 1050
    assert found["1x256_tokens_per_second_each"] == "1000, 1100"
    assert found["2x256_to_best_single"] == pytest.approx(1500 / 1050)
    assert found["simulated"] is True and found["sharing"] == "MPS"
    assert str(found["chosen"]).startswith("2 replicas x 256")


def test_a_spoilt_window_counts_for_nothing_and_is_told() -> None:
    summary = summarize([record(A, 1000), record(C, 9000, spoilt="a replica was started")])
    assert list(summary.windows) == [A]
    assert summary.spoilt == ("2x256: a replica was started",)
    with pytest.raises(NothingMeasuredError, match="a replica was started"):
        summarize([record(C, 9000, spoilt="a replica was started")])


def test_a_simulated_plot_says_so() -> None:
    drawn = plot(summarize([record(A, 1000), record(C, 1500)]))
    assert "output tokens/s, simulated" in drawn and "2×256" in drawn


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "01-2x256.json").write_text(json.dumps(record(C, 1500)))
    (tmp_path / "00-1x256.json").write_text(json.dumps(record(A, 1000)))
    (tmp_path / "model").mkdir()
    assert [one["replicas"] for one in read(tmp_path)] == [1, 2]
