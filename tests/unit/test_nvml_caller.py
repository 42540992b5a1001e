"""Calls of the driver's library: what one that fails or hangs means for those after it."""

from __future__ import annotations

import threading

import pytest

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.nvml_caller import NvmlCaller
from slm_worker.gpu.nvml_errors import NvmlHangsError


async def test_while_a_call_hangs_no_other_begins() -> None:
    caller, returns = NvmlCaller(), threading.Event()
    with pytest.raises(NvmlHangsError, match="no answer in"):
        await caller.call("reading", 0.01, lambda: returns.wait(60))
    with pytest.raises(NvmlHangsError, match="an earlier call still hangs"):
        await caller.call("reading", 60, lambda: True)
    returns.set()


async def test_a_call_for_which_no_thread_starts_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    caller = NvmlCaller()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(DeviceError, match=r"can't start new thread: raise the limit"):
            await caller.call("reading", 60, lambda: True)
    assert await caller.call("reading", 60, lambda: True)
