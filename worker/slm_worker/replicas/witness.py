"""What a start takes of the device's memory: read before and after, and told by the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from slm_worker.engine.vllm_memory import memory_told
from slm_worker.gpu.base import DeviceError, DeviceReading
from slm_worker.planning.learning import StartedReplica
from slm_worker.replicas.planner import Settings


@dataclass(eq=False)
class Start:
    """One that is under way."""

    alone: bool
    """Whether nobody else started meanwhile. What the device holds more, and what engines that
    look at it say of themselves, is one replica's only then."""
    used_before_bytes: int | None = None
    """Of the whole device; None where nobody can say."""


class StartWitness:
    """``read`` is the device's, ``tell`` takes what a start has shown."""

    def __init__(
        self,
        read: Callable[[], Awaitable[DeviceReading]],
        tell: Callable[[StartedReplica], None],
    ) -> None:
        self._read = read
        self._tell = tell
        self._under_way: set[Start] = set()

    @property
    def sees_starts(self) -> bool:
        return bool(self._under_way)

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Start]:
        """From before a process is launched until it is ready or has failed."""
        begun = Start(alone=not self._under_way)
        for other in self._under_way:
            other.alone = False
        self._under_way.add(begun)
        try:
            begun.used_before_bytes = await self._memory_used_bytes()
            yield begun
        finally:
            self._under_way.remove(begun)

    async def ready(self, begun: Start, settings: Settings, log: str) -> None:
        """To be called once a replica is ready, with its output. Never raises."""
        if not begun.alone:
            return
        used_bytes = await self._memory_used_bytes()
        held_bytes = None
        if used_bytes is not None and begun.used_before_bytes is not None:
            held_bytes = used_bytes - begun.used_before_bytes
        told = memory_told(log)
        self._tell(
            StartedReplica(
                max_num_seqs=settings.max_num_seqs,
                held_bytes=held_bytes,
                weights_bytes=told.weights_bytes,
                activations_bytes=told.activations_bytes,
                graphs_bytes=told.graphs_bytes,
                kv_cache_bytes=settings.kv_cache_bytes or told.kv_cache_bytes,
            )
        )

    async def _memory_used_bytes(self) -> int | None:
        try:
            return (await self._read()).memory_used_bytes
        except DeviceError:
            return None
