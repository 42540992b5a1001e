"""The GPU benchmark on stand-ins: the agent's real NVML, MPS and vLLM code, nothing below real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu.lengths import TRACE
from benchmarks.gpu.points import Point, schedule
from benchmarks.gpu.summary import read, write
from benchmarks.gpu.sweep import Settings, sweep

POINTS = (Point(1, 8, 1), Point(2, 8, 2), Point(1, 8, 2))
"""Small batches, which one process of clients keeps full beside other work too."""


def settings(budget_seconds: float) -> Settings:
    return Settings(
        model="qwen2.5-0.5b",
        points=POINTS,
        rounds=1,
        warmup_seconds=2.0,
        window_seconds=3.0,
        budget_seconds=budget_seconds,
        simulated=True,
    )


@pytest.mark.timeout(1200)
async def test_a_sweep_measures_every_point_and_names_all_of_it_simulated(tmp_path: Path) -> None:
    into = tmp_path / "windows"
    assert not await sweep(settings(budget_seconds=0.0), into, "none")
    assert read(into / TRACE) == []
    for attempt in range(3):
        into = tmp_path / f"windows-{attempt}"
        assert await sweep(settings(budget_seconds=300.0), into, "all")
        windows = into / TRACE
        records = read(windows)
        # On a busy machine the clients may not keep the engines full.
        if all(one["window"]["spoilt"] == "" for one in records):
            break

    order = [Point(one["replicas"], one["max_num_seqs"], one["layout_replicas"]) for one in records]
    assert tuple(order) == schedule(POINTS, 1)
    assert [one["sharing"] for one in records] == ["alone", "MPS", "MPS", "alone"]
    for one in records:
        assert one["simulated"] is True and "SIMULATED" in one["gpu"]["name"]
        assert one["window"]["spoilt"] == "" and one["requests_failed"] == 0
        assert one["gpu"]["kind"] == "NVIDIA" and one["gpu"]["energy_source"] == "Counter"
        assert one["window"]["watts"] > 0

    write(windows, "gpu_sweep", tmp_path)
    report = json.loads((tmp_path / "gpu_sweep_simulated.json").read_text())
    assert report["figures"]["simulated"] is True
    assert len(report["raw"]["windows"]) == len(records)
    assert "simulated" in (tmp_path / "gpu_sweep_simulated.svg").read_text()
