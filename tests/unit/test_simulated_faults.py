"""Injected faults: which fields each takes, and how an engine's last words are read."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from pydantic import ValidationError

from slm_worker.engine.simulated import SimulatedEngine
from slm_worker.engine.simulated.errors import (
    EXIT_FAILED,
    GPU_LOST,
    MPS_NOT_READY,
    DeviceFaultError,
    fault_of,
)
from slm_worker.gpu.simulated.faults import Ending, Injection
from slm_worker.wire import ModelRef

ENGINE = SimulatedEngine(ModelRef(uri="hf://facebook/opt-1.3b", name="opt"), ())


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "SlowStart", "seconds": 5, "starts": 2},
        {"kind": "StartOutOfMemory"},
        {"kind": "Crash", "pid": 7},
        {"kind": "OutOfMemory"},
        {"kind": "Hang", "pid": 7, "seconds": 1.5},
        {"kind": "PreemptionStorm", "kv_share": 0.2, "seconds": 10},
        {"kind": "MpsFault", "pid": 7},
        {"kind": "GpuLost"},
        {"kind": "Heal"},
    ],
)
def test_a_fault_takes_the_fields_that_mean_something_to_it(fields: dict[str, Any]) -> None:
    assert Injection.model_validate(fields).model_dump(exclude_none=True) == fields


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "SlowStart"}, "SlowStart needs seconds"),
        ({"kind": "SlowStart", "seconds": 1, "pid": 7}, "pid has no meaning with SlowStart"),
        ({"kind": "Crash", "seconds": 1}, "seconds has no meaning with Crash"),
        ({"kind": "Hang", "starts": 1}, "starts has no meaning with Hang"),
        ({"kind": "GpuLost", "kv_share": 0.5}, "kv_share has no meaning with GpuLost"),
        ({"kind": "Hang", "seconds": 0}, "greater than 0"),
        ({"kind": "PreemptionStorm", "kv_share": 1.5}, "less than or equal to 1"),
        ({"kind": "Hang", "minutes": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_field_without_meaning_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Injection.model_validate(fields)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (fault_of(Ending.OUT_OF_MEMORY), "OutOfMemory"),
        (fault_of(Ending.MPS_CULPRIT), "DeviceFault"),
        (fault_of(Ending.MPS_BYSTANDER), "MpsFault"),
        (fault_of(Ending.GPU_LOST), "DeviceUnavailable"),
        (DeviceFaultError(GPU_LOST), "DeviceUnavailable"),
        (DeviceFaultError(MPS_NOT_READY), "MpsNotReady"),
    ],
)
def test_what_an_engine_says_at_its_end_is_read_as_of_vllm(
    error: DeviceFaultError, reason: str
) -> None:
    assert ENGINE.explain_exit(EXIT_FAILED, error.output)[0] == reason
    assert "SIMULATED" in error.output


def test_a_crash_names_no_cause() -> None:
    crash = fault_of(Ending.CRASH)

    assert crash.crash
    reason, message = ENGINE.explain_exit(-signal.SIGSEGV, crash.output)
    assert reason == "EngineExited"
    assert "ended by signal 11" in message
