"""PURE: the GPUs that predictions know: ``data/gpus.toml``, with the source of each figure."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from slm_worker.planning.steps import Rates

_Positive = Annotated[float, Field(gt=0)]
_DTYPES = {"auto": "float16", "half": "float16", "float": "float32"}
"""Other names of vLLM's ``--dtype``."""


class Gpu(BaseModel):
    """One board; peaks as its maker states them, dense (without sparsity)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    nvml_name: str | None = None
    """What the driver calls it; None where that is not known, or names several boards."""
    memory_gib: _Positive
    gigabytes_per_second: _Positive
    """Of its memory; decimal."""
    teraflops: Mapping[str, _Positive]
    """By dtype; one that the GPU cannot multiply is missing."""
    sms: Annotated[int, Field(gt=0)]
    idle_watts: _Positive
    """Engines loaded, nothing running."""
    max_watts: _Positive
    """The board's power limit."""
    source: str
    """Of memory, bandwidth, FLOP/s, SMs and limit."""
    idle_source: str

    @property
    def kind(self) -> Literal["NVIDIA"]:
        return "NVIDIA"

    @property
    def memory_bytes(self) -> int:
        return round(self.memory_gib * 2**30)

    def rates(self, dtype: str) -> Rates:
        """Peaks at ``dtype``, by vLLM's names. Raises KeyError for one that the GPU lacks."""
        teraflops = self.teraflops[_DTYPES.get(dtype, dtype)]
        return Rates(self.gigabytes_per_second * 1e9, teraflops * 1e12)


@cache
def gpus() -> Mapping[str, Gpu]:
    """All, by name, in the order of the file."""
    text = (resources.files("slm_worker.planning") / "data" / "gpus.toml").read_text("utf-8")
    return {
        name: Gpu.model_validate({"name": name, **fields})
        for name, fields in tomllib.loads(text).items()
    }


def called(nvml_name: str) -> Gpu | None:
    """The GPU that the driver calls so."""
    return next((gpu for gpu in gpus().values() if gpu.nvml_name == nvml_name), None)
