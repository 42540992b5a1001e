"""vLLM's sleep mode: the engine gives its memory back while it lives, and takes it again.

Level 1: the weights are copied to the host's memory, the KV cache is gone. Requests in flight end
with the reason "abort"; those that come while it sleeps wait until it is awake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slm_worker.engine.simulated.loop import EngineLoop

HOST_COPY_BYTES_PER_SECOND = 20e9
"""Weights to and from pinned host memory: a third of PCIe 5.0's 63 GB/s, a careful choice."""


@dataclass(frozen=True)
class Memory:
    """What an engine holds on its device."""

    weights_bytes: int
    kv_bytes: int
    runtime_bytes: int
    """Context and graphs, which stay while it sleeps."""

    @property
    def awake_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.runtime_bytes

    @property
    def copy_seconds(self) -> float:
        return self.weights_bytes / HOST_COPY_BYTES_PER_SECOND


class SleepMode:
    """``resize`` tells the device how many bytes the engine holds; it raises DeviceRefusedError
    where there are not so many. ``wait``: as asyncio.sleep."""

    def __init__(
        self,
        loop: EngineLoop,
        memory: Memory,
        *,
        resize: Callable[[int], Awaitable[None]],
        wait: Callable[[float], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._memory = memory
        self._resize = resize
        self._wait = wait
        self._turn = asyncio.Lock()
        self.asleep = False

    async def sleep(self) -> None:
        """Nothing when it sleeps already."""
        async with self._turn:
            if self.asleep:
                return
            self.asleep = True
            await self._loop.pause()
            await self._wait(self._memory.copy_seconds)
            await self._resize(self._memory.runtime_bytes)

    async def wake_up(self) -> None:
        """Nothing when it is awake. Raises DeviceRefusedError, and sleeps on, where its memory is
        no longer free."""
        async with self._turn:
            if not self.asleep:
                return
            await self._resize(self._memory.awake_bytes)
            await self._wait(self._memory.copy_seconds)
            self.asleep = False
            self._loop.resume()
