"""Which of the GPUs that the driver shows is the pack's."""

from __future__ import annotations

import pytest

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.nvml_choice import chosen_gpu, engine_choice

FIRST, SECOND = "GPU-1111-a", "GPU-2222-b"


@pytest.mark.parametrize(
    ("uuids", "environ", "chosen"),
    [
        ([FIRST], {}, 0),
        ([FIRST], {"NVIDIA_VISIBLE_DEVICES": "all"}, 0),
        ([FIRST], {"NVIDIA_VISIBLE_DEVICES": "7"}, 0),
        ([FIRST], {"CUDA_VISIBLE_DEVICES": "0"}, 0),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "1"}, 1),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": SECOND}, 1),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "GPU-22"}, 1),
        ([FIRST, SECOND], {"NVIDIA_VISIBLE_DEVICES": SECOND}, 1),
        ([FIRST, SECOND], {"NVIDIA_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, 1),
        (["", SECOND], {}, 1),
        (["", SECOND], {"NVIDIA_VISIBLE_DEVICES": "all"}, 1),
        (["", SECOND], {"NVIDIA_VISIBLE_DEVICES": "0"}, 0),
    ],
)
def test_exactly_one_gpu_is_chosen(uuids: list[str], environ: dict[str, str], chosen: int) -> None:
    assert chosen_gpu(uuids, environ) == chosen


@pytest.mark.parametrize(
    ("uuids", "environ"),
    [
        ([FIRST, SECOND], {}),
        ([FIRST, SECOND], {"NVIDIA_VISIBLE_DEVICES": "all"}),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "2"}),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "GPU-"}),
        (["", SECOND], {"NVIDIA_VISIBLE_DEVICES": FIRST}),
        ([FIRST], {"CUDA_VISIBLE_DEVICES": ""}),
        ([FIRST], {"CUDA_VISIBLE_DEVICES": "-1"}),
        ([FIRST], {"CUDA_VISIBLE_DEVICES": "MIG-3333"}),
    ],
)
def test_none_or_several_are_refused(uuids: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(DeviceError, match="A pack owns one whole GPU"):
        chosen_gpu(uuids, environ)


def test_a_driver_without_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="shows no GPU"):
        chosen_gpu([], {})


IN_NVML_S_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("uuids", "environ", "told"),
    [
        ([FIRST, SECOND], {"NVIDIA_VISIBLE_DEVICES": SECOND}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ([FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": SECOND}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ([FIRST], {"CUDA_VISIBLE_DEVICES": FIRST}, {"CUDA_VISIBLE_DEVICES": "0"}),
        (["", SECOND], {"CUDA_VISIBLE_DEVICES": "1"}, {}),
        (["", FIRST, SECOND], {"CUDA_VISIBLE_DEVICES": SECOND}, {}),
    ],
)
def test_engines_run_on_the_gpu_that_is_measured(
    uuids: list[str], environ: dict[str, str], told: dict[str, str]
) -> None:
    assert engine_choice(chosen_gpu(uuids, environ), uuids, environ) == IN_NVML_S_ORDER | told


@pytest.mark.parametrize("uuids", [[FIRST], ["", SECOND]])
def test_engines_that_see_one_gpu_are_told_nothing(uuids: list[str]) -> None:
    environ = {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert engine_choice(chosen_gpu(uuids, environ), uuids, environ) == {}
