"""The GPU catalogue: sane figures, each with its source."""

from __future__ import annotations

import pytest

from slm_worker.planning.catalogue import Gpu, gpus

ALL = pytest.mark.parametrize("gpu", gpus().values(), ids=list(gpus()))


@pytest.mark.parametrize(
    "name",
    [
        "v100-sxm2-32gb",
        "t4",
        "a10",
        "a30",
        "a40",
        "a100-pcie-40gb",
        "a100-sxm-40gb",
        "a100-pcie-80gb",
        "a100-sxm-80gb",
        "l4",
        "l40",
        "l40s",
        "h100-pcie-80gb",
        "h100-sxm-80gb",
        "h100-sxm-64gb",
        "h20-96gb",
        "h200-sxm-141gb",
        "gh200-96gb",
        "b200-sxm-180gb",
        "b300-sxm-288gb",
        "rtx-pro-6000-server",
    ],
)
def test_todays_data_centre_gpus_are_there(name: str) -> None:
    assert gpus()[name].name == name


@ALL
def test_figures_are_of_the_right_size(gpu: Gpu) -> None:
    assert 15 <= gpu.memory_gib <= 288
    assert 300 <= gpu.gigabytes_per_second <= 8000
    assert 40 <= gpu.sms <= 188
    assert 10 <= gpu.idle_watts < gpu.max_watts / 2
    assert 70 <= gpu.max_watts <= 1200


@ALL
def test_narrower_numbers_are_multiplied_faster(gpu: Gpu) -> None:
    speeds = [
        gpu.teraflops[dtype] for dtype in ("float32", "float16", "fp8") if dtype in gpu.teraflops
    ]

    assert len(speeds) >= 2
    assert speeds == sorted(speeds)
    assert gpu.teraflops.get("bfloat16", gpu.teraflops["float16"]) == gpu.teraflops["float16"]


@ALL
def test_each_figure_has_a_source_and_an_estimate_says_so(gpu: Gpu) -> None:
    assert len(gpu.source) > 15
    assert gpu.idle_source.startswith(("measured: ", "estimate: "))


@pytest.mark.parametrize("name", ["v100-sxm2-32gb", "t4"])
def test_what_a_gpu_cannot_multiply_is_missing(name: str) -> None:
    with pytest.raises(KeyError):
        gpus()[name].rates("bfloat16")


def test_rates_are_bytes_and_flops_a_second() -> None:
    rates = gpus()["h100-sxm-80gb"].rates("auto")

    assert (rates.bytes_per_second, rates.flops_per_second) == (3350e9, 989e12)
