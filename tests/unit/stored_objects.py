"""Objects as API servers stored them; frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

V1ALPHA1 = sorted((Path(__file__).parents[1] / "fixtures/stored_v1alpha1").glob("*.json"))


def lost(stored: Any, now: Any, where: str = "") -> list[str]:
    """What ``stored`` says and ``now`` does not; what is only in ``now`` is a later default."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return [m for k, v in stored.items() for m in lost(v, now.get(k), f"{where}.{k}")]
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        pairs = enumerate(zip(stored, now, strict=True))
        return [m for i, (a, b) in pairs for m in lost(a, b, f"{where}[{i}]")]
    return [] if stored == now else [f"{where}: {stored!r} became {now!r}"]
