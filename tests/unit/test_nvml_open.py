"""Opening the pack's GPU among those of the node, over a driver that the test answers for."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.nvml_gpu import open_first

LOST, NOT_SUPPORTED, NO_PERMISSION = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
)


class Driver:
    """``handles`` by index: a GPU's number, or the code with which the driver refuses it."""

    def __init__(self) -> None:
        self.handles: list[str | int] = ["a", "b"]
        self.memory_error: int | None = None

    def handle(self, index: int) -> str:
        found = self.handles[index]
        if isinstance(found, int):
            raise pynvml.NVMLError(found)
        return found

    def memory(self, _: str) -> object:
        if self.memory_error is not None:
            raise pynvml.NVMLError(self.memory_error)
        return SimpleNamespace(total=80 * 2**30)

    def events(self) -> object:
        raise pynvml.NVMLError(NOT_SUPPORTED)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    for name, answer in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(driver.handles),
        "nvmlDeviceGetHandleByIndex": driver.handle,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda _: "H100",
        "nvmlDeviceGetMigMode": lambda _: (0, 0),
        "nvmlDeviceGetMemoryInfo": driver.memory,
        "nvmlSystemGetDriverVersion": lambda: "590",
        "nvmlEventSetCreate": driver.events,
    }.items():
        monkeypatch.setattr(pynvml, name, answer)
    return driver


@pytest.mark.parametrize(
    "environ",
    [
        {"CUDA_VISIBLE_DEVICES": "1"},
        {"CUDA_VISIBLE_DEVICES": "GPU-b"},
        {"NVIDIA_VISIBLE_DEVICES": "GPU-b"},
        {"NVIDIA_VISIBLE_DEVICES": "all"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("code", [LOST, NO_PERMISSION])
def test_another_gpu_that_fails_does_not_keep_a_pack_from_its_own(
    driver: Driver, environ: dict[str, str], code: int
) -> None:
    driver.handles = [code, "b"]
    assert open_first(environ).identity.uuid == "GPU-b"


def test_the_failure_of_the_pack_s_own_gpu_is_told(driver: Driver) -> None:
    driver.handles = [LOST, "b"]
    with pytest.raises(pynvml.NVMLError, match="GPU is lost"):
        open_first({"CUDA_VISIBLE_DEVICES": "0"})


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": "GPU-a"}, {}], ids=str)
def test_without_a_choice_it_is_told_which_gpus_fail(
    driver: Driver, environ: dict[str, str]
) -> None:
    driver.handles = [LOST, "b", "c"]
    with pytest.raises(DeviceError, match=r"A pack owns one .* refuses GPU 0 \(GPU is lost\)"):
        open_first(environ)


def test_without_any_that_works_the_failure_is_told(driver: Driver) -> None:
    driver.handles = [LOST, LOST]
    with pytest.raises(pynvml.NVMLError, match="GPU is lost"):
        open_first({})


def test_engines_are_told_which_of_several_was_opened(driver: Driver) -> None:
    assert open_first({"NVIDIA_VISIBLE_DEVICES": "GPU-b"}).engine_env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1",
    }


def test_several_that_work_are_refused(driver: Driver) -> None:
    with pytest.raises(DeviceError, match="A pack owns one whole GPU"):
        open_first({})


def test_a_gpu_that_shares_the_host_s_memory_is_said_to_be_unsupported(driver: Driver) -> None:
    driver.handles, driver.memory_error = ["a"], NOT_SUPPORTED
    with pytest.raises(DeviceError, match=r"unified memory\) is not supported"):
        open_first({})
