"""Calls of the driver's library, none of which can hold up the agent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.nvml_errors import NvmlHangsError, NvmlRefusedError

_T = TypeVar("_T")


class NvmlCaller:
    """Calls NVML outside the event loop, one call at a time, and gives up on one that hangs.

    A driver in trouble can hold a call for ever. Each call has a daemon thread of its own: unlike
    a pool's, such a thread does not keep the process from ending. While one hangs, no further
    thread is started. ``clock``: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn = asyncio.Lock()
        self._returned = threading.Event()
        self._returned.set()
        self._began_seconds = 0.0

    async def call(self, doing: str, patience_seconds: float, function: Callable[[], _T]) -> _T:
        """``function()``; ``doing`` names it in errors.

        Raises NvmlRefusedError for NVML's errors, NvmlHangsError without an answer in
        ``patience_seconds`` (at once, while an earlier call still hangs), DeviceError where no
        thread can be started, and what else ``function`` raises. A late answer is dropped.
        """
        async with self._turn:
            if not self._returned.is_set():
                waited_seconds = self._clock() - self._began_seconds
                raise NvmlHangsError(doing, waited_seconds, "an earlier call still hangs")
            answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
            self._returned.clear()
            self._began_seconds = self._clock()
            try:
                threading.Thread(
                    target=self._run, args=(function, answer), name="nvml", daemon=True
                ).start()
            except RuntimeError as error:
                self._returned.set()
                raise DeviceError(
                    f"NVML was not called for {doing}: {error}: raise the limit of processes "
                    "that the Pod or the node has."
                ) from error
            try:
                async with asyncio.timeout(patience_seconds):
                    return await answer
            except TimeoutError:
                why = f"no answer in {patience_seconds:g} s"
                raise NvmlHangsError(doing, self._clock() - self._began_seconds, why) from None
            except pynvml.NVMLError as error:
                raise NvmlRefusedError(doing, error.value) from error
            finally:
                answer.cancel()

    def _run(self, function: Callable[[], _T], answer: asyncio.Future[_T]) -> None:
        """Runs in the call's thread; the loop may have given up or ended meanwhile."""
        try:
            result = function()
        except Exception as error:
            self._returned.set()
            _deliver(answer, answer.set_exception, error)
        else:
            self._returned.set()
            _deliver(answer, answer.set_result, result)


def _deliver(answer: asyncio.Future[_T], settle: Callable[[Any], None], value: Any) -> None:
    def settle_if_awaited() -> None:
        if not answer.done():
            settle(value)

    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        answer.get_loop().call_soon_threadsafe(settle_if_awaited)
