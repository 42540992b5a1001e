"""One condition before it is dated: what is so, the reason as a word, cause and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Said:
    type: str
    status: State
    reason: str
    message: str
