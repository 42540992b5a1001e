"""PURE: faults that can be injected into a simulated GPU, and what they do to an engine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class FaultKind(StrEnum):
    SLOW_START = "SlowStart"
    """The next ``starts`` engines take ``seconds`` longer to start."""
    START_OUT_OF_MEMORY = "StartOutOfMemory"
    """The next ``starts`` engines find no memory."""
    CRASH = "Crash"
    """The engine ends by a signal, without a word on the cause."""
    OUT_OF_MEMORY = "OutOfMemory"
    """A running engine allocates more than there is, and ends."""
    HANG = "Hang"
    """The engine lives and answers, and writes no token, for ``seconds`` or until it ends."""
    PREEMPTION_STORM = "PreemptionStorm"
    """Only ``kv_share`` of the engine's KV cache is left, for ``seconds`` or until it ends."""
    MPS_FAULT = "MpsFault"
    """A fatal fault under MPS: every engine ends, and none starts until the last is gone. ``pid``
    is the engine that caused it; without one nobody is suspected."""
    GPU_LOST = "GpuLost"
    """The GPU falls off the bus: every engine ends, and none starts."""
    HEAL = "Heal"
    """Ends every fault above that lasts, also a lost GPU (as if its node had been mended)."""


NEED_SECONDS = frozenset({FaultKind.SLOW_START})
TAKE_SECONDS = NEED_SECONDS | {FaultKind.HANG, FaultKind.PREEMPTION_STORM}
TAKE_PID = frozenset(
    {
        FaultKind.CRASH,
        FaultKind.OUT_OF_MEMORY,
        FaultKind.HANG,
        FaultKind.PREEMPTION_STORM,
        FaultKind.MPS_FAULT,
    }
)
TAKE_STARTS = frozenset({FaultKind.SLOW_START, FaultKind.START_OUT_OF_MEMORY})
DEFAULT_KV_SHARE = 0.1


class Injection(BaseModel):
    """One fault to inject. A field that the kind has no use for is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    pid: Annotated[int, Field(gt=0)] | None = None
    """The engine's process; None means every engine (with MpsFault: nobody in particular)."""
    seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    starts: Annotated[int, Field(ge=1)] | None = None
    kv_share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Injection:
        for field, kinds in (
            ("pid", TAKE_PID),
            ("seconds", TAKE_SECONDS),
            ("starts", TAKE_STARTS),
            ("kv_share", {FaultKind.PREEMPTION_STORM}),
        ):
            if getattr(self, field) is not None and self.kind not in kinds:
                raise ValueError(f"{field} has no meaning with {self.kind}: leave it out")
        if self.kind in NEED_SECONDS and self.seconds is None:
            raise ValueError(f"{self.kind} needs seconds: say how long")
        return self


class Ending(StrEnum):
    """Why an engine that holds the device has to end."""

    CRASH = "Crash"
    OUT_OF_MEMORY = "OutOfMemory"
    MPS_CULPRIT = "MpsCulprit"
    """Its own kernel failed, which ended everybody."""
    MPS_BYSTANDER = "MpsBystander"
    GPU_LOST = "GpuLost"


MPS_FAULT_MESSAGE = "SIMULATED fatal fault: a client's kernel failed and ended every MPS client"
GPU_LOST_MESSAGE = "SIMULATED: the GPU has fallen off the bus; its node has to be mended"
