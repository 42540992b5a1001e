"""A GPU's health from what its driver tells: errors, Xids, throttling, and failed calls."""

from __future__ import annotations

from functools import reduce

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.health import EXHAUSTED_RETIRED_PAGES, Diagnosis, Signs, diagnose, next_health
from slm_worker.gpu.nvml_errors import (
    UNRESPONSIVE_AFTER_SECONDS,
    MigEnabledError,
    NvmlHangsError,
    NvmlRefusedError,
    diagnosis_of,
)
from slm_worker.gpu.throttling import HOLD_SECONDS, RecentThrottling, throttle_names
from slm_worker.gpu.xid import APPLICATION_XIDS, critical, explain
from slm_worker.wire import GpuHealth

WELL = Signs(0, False, False, 0, False)


def reason_of(
    signs: Signs = WELL, xids: tuple[int, ...] = (), throttling: tuple[str, ...] = ()
) -> str | None:
    found = diagnose(signs, xids, throttling)
    return None if found is None else found.reason


@pytest.mark.parametrize("signs", [WELL, Signs(), Signs(retired_pages=EXHAUSTED_RETIRED_PAGES - 1)])
def test_without_errors_or_without_knowledge_of_them_nothing_is_wrong(signs: Signs) -> None:
    assert diagnose(signs, (), ("SwPowerCap", "SyncBoost")) is None


@pytest.mark.parametrize(
    ("signs", "reason"),
    [
        (Signs(uncorrected_memory_errors=1), "UncorrectedMemoryErrors"),
        (Signs(row_remap_pending=True), "RowRemapPending"),
        (Signs(row_remap_failed=True), "RowRemapFailed"),
        (Signs(retired_pages=EXHAUSTED_RETIRED_PAGES), "PageRetirementExhausted"),
        (Signs(page_retirement_pending=True), "PageRetirementPending"),
        (Signs(unreadable={"power": "Unknown Error"}), "PartlyUnreadable"),
    ],
)
def test_errors_degrade(signs: Signs, reason: str) -> None:
    assert reason_of(signs) == reason


@pytest.mark.parametrize(
    ("throttling", "reason"),
    [
        (("HwSlowdown",), "HardwareSlowdown"),
        (("HwSlowdown", "HwThermalSlowdown"), "ThermalSlowdown"),
        (("SwThermalSlowdown",), "ThermalSlowdown"),
        (("HwSlowdown", "HwPowerBrakeSlowdown"), "PowerBrake"),
    ],
)
def test_heat_power_and_the_board_degrade(throttling: tuple[str, ...], reason: str) -> None:
    assert reason_of(throttling=throttling) == reason


def test_the_worst_is_told() -> None:
    worn = Signs(uncorrected_memory_errors=1, row_remap_failed=True, row_remap_pending=True)
    errors = Signs(uncorrected_memory_errors=1, row_remap_pending=True)
    hot = ("HwThermalSlowdown",)
    assert reason_of(worn, (95,), hot) == "RowRemapFailed"
    assert reason_of(errors, (95,), hot) == "XidCritical"
    assert reason_of(errors, (), hot) == "UncorrectedMemoryErrors"
    assert reason_of(Signs(unreadable={"power": "?"}), (), hot) == "ThermalSlowdown"


def test_an_application_s_xids_do_not_count_and_unknown_ones_do() -> None:
    assert critical((31, 13, 95, 95, 777, 43)) == (95, 777)
    assert "catalogue" in explain(777)
    assert "reset the GPU" in explain(95)


@given(st.lists(st.integers(1, 200)))
def test_each_critical_xid_is_kept_once(xids: list[int]) -> None:
    kept = critical(tuple(xids))
    assert set(kept) == set(xids) - APPLICATION_XIDS
    assert len(set(kept)) == len(kept)


def test_the_same_trouble_keeps_its_beginning_and_another_begins_anew() -> None:
    lost, hangs = Diagnosis("Lost", "GPULost", "x"), Diagnosis("Unresponsive", "DriverHangs", "y")
    first = next_health(GpuHealth(), lost, 10.0)
    assert (first.state, first.reason, first.message) == ("Lost", "GPULost", "x")
    assert next_health(first, lost, 20.0).since_seconds == 10.0
    assert next_health(first, hangs, 20.0).since_seconds == 20.0
    assert next_health(first, None, 20.0) == GpuHealth()


# Throttle reasons.


def test_reasons_have_the_names_of_the_library() -> None:
    mask = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwSlowdown
    assert throttle_names(mask) == ("SwPowerCap", "HwSlowdown")


def test_a_gpu_without_work_is_not_throttled() -> None:
    assert throttle_names(pynvml.nvmlClocksThrottleReasonGpuIdle) == ()


def test_a_bit_of_a_newer_driver_is_named_by_its_value() -> None:
    assert throttle_names(0x4 | 1 << 40) == ("SwPowerCap", "Bit0x10000000000")


@given(st.integers(0, 2**64 - 1))
def test_each_bit_but_idle_has_one_name(mask: int) -> None:
    names = throttle_names(mask)
    assert len(names) == len(set(names)) == (mask & ~1).bit_count()


def test_throttling_counts_for_a_while_after_it_was_seen() -> None:
    seen = RecentThrottling().after(("HwSlowdown",), 100.0)
    assert seen.after((), 100.0 + HOLD_SECONDS - 1).reasons == {"HwSlowdown"}
    assert seen.after((), 100.0 + HOLD_SECONDS).reasons == frozenset()


@given(st.lists(st.tuples(st.sampled_from(["A", "B", "C"]), st.floats(0, 40))))
def test_recent_reasons_are_those_of_the_last_minute(steps: list[tuple[str, float]]) -> None:
    now_seconds, seen_at = 0.0, dict[str, float]()
    moments = []
    for reason, elapsed_seconds in steps:
        now_seconds += elapsed_seconds
        seen_at[reason] = now_seconds
        moments.append((reason, now_seconds))
    recent = reduce(lambda r, m: r.after((m[0],), m[1]), moments, RecentThrottling())
    expected = {reason for reason, at in seen_at.items() if now_seconds - at < HOLD_SECONDS}
    assert recent.reasons == expected


# Calls that fail.


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "Lost", "GPULost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "Lost", "GPUResetRequired"),
        (pynvml.NVML_ERROR_NOT_FOUND, "Lost", "GPUMissing"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "Unresponsive", "DriverReloaded"),
        (pynvml.NVML_ERROR_INVALID_ARGUMENT, "Unresponsive", "DriverReloaded"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Unresponsive", "DriverNotLoaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "Unresponsive", "DriverMismatch"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "Unresponsive", "DriverMissing"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Unresponsive", "GPUForbidden"),
        (pynvml.NVML_ERROR_IRQ_ISSUE, "Unresponsive", "DriverError"),
    ],
)
def test_a_refused_call_is_a_state_by_its_code(code: int, state: str, reason: str) -> None:
    found = diagnosis_of(NvmlRefusedError("reading the GPU", code))
    assert found is not None
    assert (found.state, found.reason) == (state, reason)


@given(st.integers(1, 1000))
def test_every_code_of_the_driver_is_a_state_with_a_remedy(code: int) -> None:
    found = diagnosis_of(NvmlRefusedError("reading the GPU", code))
    assert found is not None
    assert found.reason
    assert ": " in found.message


def test_a_call_that_is_slow_is_no_trouble_until_it_hangs_for_long() -> None:
    slow = NvmlHangsError("reading the GPU", UNRESPONSIVE_AFTER_SECONDS - 0.1, "no answer")
    hangs = NvmlHangsError("reading the GPU", UNRESPONSIVE_AFTER_SECONDS, "no answer")
    assert diagnosis_of(slow) is None
    found = diagnosis_of(hangs)
    assert found is not None
    assert (found.state, found.reason) == ("Unresponsive", "DriverHangs")


def test_mig_takes_the_whole_gpu_away() -> None:
    found = diagnosis_of(MigEnabledError("H100"))
    assert found is not None
    assert (found.state, found.reason) == ("Lost", "MIGEnabled")


def test_another_error_of_the_device_is_told_in_its_own_words() -> None:
    found = diagnosis_of(DeviceError("two GPUs answer"))
    assert found == Diagnosis("Unresponsive", "DriverError", "two GPUs answer")
