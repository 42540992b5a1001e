"""NvmlDevice over a driver of which the test decides what each call does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pynvml
import pytest

from slm_worker.gpu import nvml
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.gpu.health import Signs
from slm_worker.gpu.mps import MpsDaemon
from slm_worker.gpu.nvml import NvmlDevice
from slm_worker.gpu.nvml_caller import NvmlCaller
from slm_worker.gpu.nvml_errors import NvmlHangsError
from slm_worker.gpu.nvml_gpu import GpuValues, OpenGpu

IDENTITY = DeviceIdentity("NVIDIA", "H100", 80 * 2**30, simulated=False, uuid="GPU-1")
WELL = GpuValues(1, True, 1.0, 5, 1, (), {}, Signs())


class Driver:
    """Its GPU is lost until it is opened again, which takes until ``answers`` is set."""

    def __init__(self) -> None:
        self.lost = True
        self.comes_back = True
        self.opened = 0
        self.answers = threading.Event()

    def read_values(self, _: OpenGpu) -> GpuValues:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return WELL

    def open_again(self, _: str) -> OpenGpu:
        self.opened += 1
        self.answers.wait(60)
        self.lost = not self.comes_back
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return OpenGpu(IDENTITY, object(), None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(nvml, "read_values", driver.read_values)
    monkeypatch.setattr(nvml, "open_again", driver.open_again)
    return driver


def device(clock: Callable[[], float]) -> NvmlDevice:
    gpu = OpenGpu(IDENTITY, object(), None, engine_env={"CUDA_VISIBLE_DEVICES": "1"})
    standin = SimpleNamespace(status=None, engine_env=lambda _: {"CUDA_MPS_PIPE_DIRECTORY": "/p"})
    mps = cast(MpsDaemon, cast(Any, standin))
    return NvmlDevice(gpu, NvmlCaller(clock), mps, clock, read_patience_seconds=60)


@pytest.mark.parametrize(
    ("comes_back", "health"), [(True, "Healthy"), (False, "Lost")], ids=["back", "still lost"]
)
async def test_readings_that_wait_for_one_opening_all_get_its_outcome(
    driver: Driver, comes_back: bool, health: str
) -> None:
    driver.comes_back = comes_back
    now_seconds = 0.0
    gpu = device(lambda: now_seconds)
    assert (await gpu.read()).health.state == "Lost"
    now_seconds = 60.0
    waiting = [asyncio.create_task(gpu.read()) for _ in range(3)]
    while not driver.opened:
        await asyncio.sleep(0.001)
    driver.answers.set()
    readings = await asyncio.gather(*waiting)
    assert [reading.health.state for reading in readings] == [health] * 3
    assert driver.opened == 1


async def test_engines_run_on_the_gpu_of_the_first_opening(driver: Driver) -> None:
    now_seconds = 0.0
    gpu = device(lambda: now_seconds)
    env = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_MPS_PIPE_DIRECTORY": "/p"}
    assert gpu.engine_env() == env
    await gpu.read()
    now_seconds = 60.0
    driver.answers.set()
    assert (await gpu.read()).health.state == "Healthy"
    assert gpu.engine_env() == env


async def test_tries_to_open_a_gpu_whose_driver_hangs_share_one_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers, begun = threading.Event(), []

    def hang(_: object) -> OpenGpu:
        begun.append(threading.current_thread())
        answers.wait(60)
        return OpenGpu(IDENTITY, object(), None)

    monkeypatch.setattr(nvml, "open_first", hang)
    caller = NvmlCaller()
    for words in ("no answer in", "an earlier call still hangs", "an earlier call still hangs"):
        with pytest.raises(NvmlHangsError, match=words):
            await NvmlDevice.open(tmp_path, {}, nvml=caller, open_patience_seconds=0.05)
    assert len(begun) == 1
    answers.set()
