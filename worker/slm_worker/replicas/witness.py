"""What a start takes of the device's memory: read before and after, and told by the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from slm_worker.engine.vllm_memory import memory_told
from slm_worker.gpu.base import DeviceError, DeviceReading
from slm_worker.planning.learning import StartedReplica
from slm_worker.replicas.planner import Settings


class StartWitness:
    """``read`` is the device's, ``tell`` takes what a start has shown.

    Replicas start one at a time, so what the device holds more afterwards is the new one's.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[DeviceReading]],
        tell: Callable[[StartedReplica], None],
    ) -> None:
        self._read = read
        self._tell = tell

    async def memory_used_bytes(self) -> int | None:
        """Of the whole device; None where nobody can say. Never raises."""
        try:
            return (await self._read()).memory_used_bytes
        except DeviceError:
            return None

    async def ready(self, settings: Settings, log: str, used_before_bytes: int | None) -> None:
        """To be called once a replica is ready, with its output. Never raises."""
        used_bytes = await self.memory_used_bytes()
        held_bytes = None
        if used_bytes is not None and used_before_bytes is not None:
            held_bytes = used_bytes - used_before_bytes
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
