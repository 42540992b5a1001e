"""What a scaling policy sees of a simulated service, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ReplicaSeen:
    """One engine, as its metrics endpoint reports it now."""

    running: int
    """Sequences in the batch."""
    waiting: int
    """Requests in the engine's queue."""
    kv_usage: float
    """Share of the KV cache in use, 0 to 1."""
    max_num_seqs: int
    """Most sequences that the engine batches."""


@dataclass(frozen=True)
class PackSeen:
    """One Pod on one GPU. Times are on the simulation's clock."""

    name: int
    """Unique; a later pack has a higher one."""
    started_at_seconds: float
    ready_at_seconds: float | None
    """None while it starts."""
    replicas: tuple[ReplicaSeen, ...]
    """Empty while it starts."""


@dataclass(frozen=True)
class Totals:
    """Cumulative over the whole service since the simulation began."""

    arrived: int
    completed: int
    prompt_tokens: int
    """Of completed requests."""
    output_tokens: int


@dataclass(frozen=True)
class Seen:
    """The service at one moment."""

    now_seconds: float
    wanted: int
    """Packs that the policy asked for last."""
    packs: tuple[PackSeen, ...]
    """Starting and ready ones, without those being drained."""
    min_packs: int
    max_packs: int
    counters: Totals


class Policy(Protocol):
    """Decides how many packs there shall be. Deterministic; keeps its own memory between calls, so
    a simulation takes a new one."""

    @property
    def period_seconds(self) -> float:
        """How often ``wanted`` is asked."""

    def wanted(self, seen: Seen) -> int:
        """Packs wanted now, between ``seen.min_packs`` and ``seen.max_packs``."""
