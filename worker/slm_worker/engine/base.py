"""What the agent needs to know of an engine: how to start it and how to read its death."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class ReplicaSpec:
    """Settings of one engine process."""

    index: int
    host: str
    port: int
    max_num_seqs: int
    kv_cache_bytes: int | None
    """KV-cache budget; None lets the engine choose."""
    gpu_memory_utilization: float | None
    """Share of the device's memory this process may use, 0 to 1; None on a CPU."""
    sleep_mode: bool = False
    """Whether it shall be able to give its memory back and take it again while it lives."""


@dataclass(frozen=True)
class EngineCommand:
    """A process to start: arguments and what is added to the agent's environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    default_env: dict[str, str] = field(default_factory=dict)
    """Added where the agent's environment, which holds the user's variables, has no other value."""


class Engine(Protocol):
    """An OpenAI-compatible server with vLLM's metrics, started as a process of its own.

    It leaves idle connections open for hours, so that the router is the one who closes them.
    """

    @property
    def can_sleep(self) -> bool:
        """Whether ``sleep_mode`` may be asked for: then it answers ``POST /sleep?level=1`` and
        ``POST /wake_up`` as vLLM does (level 1: weights go to the host, the KV cache is gone)."""

    def command(self, spec: ReplicaSpec) -> EngineCommand:
        """The command line of one replica. Pure."""

    def explain_exit(
        self, returncode: int, log_tail: str, *, was_ready: bool = False
    ) -> tuple[str, str]:
        """(CamelCase reason, message with cause and remedy) for a process that ended. One that
        ``was_ready`` did not fail at what only starts fail at, whatever it wrote of requests."""
