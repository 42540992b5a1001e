"""PURE: bits that a quantised weight takes, by the checkpoint's configuration or the arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slm_worker.planning.engine_args import Options
from slm_worker.planning.model_config import ModelConfig

_SCALE_BITS = 16
MXFP4_BITS = 4 + 8 / 32
"""OCP Microscaling Formats 1.0: 4 bits each, and a scale of 8 bits for 32."""
NF4_BITS = 4 + 32 / 64
"""bitsandbytes: 4 bits each, and a float32 for blocks of 64."""


@dataclass(frozen=True)
class Quantization:
    """``bits``: of each weight with its share of scales and zero points."""

    bits: float
    experts_only: bool = False


def stored_quantization(config: ModelConfig) -> Quantization | None:
    """What the checkpoint's ``quantization_config`` says; None for 16-bit weights and for methods
    that are not known here, which then count as 16 bits: an upper bound."""
    settings = config.quantization or {}
    method = str(settings.get("quant_method", "")).lower()
    if method in {"gptq", "awq"}:
        bits = _number(settings, "bits") or 4
        return Quantization(bits + _per_group(settings, _SCALE_BITS + bits))
    if method in {"fp8", "fbgemm_fp8"}:
        return Quantization(8)
    if method == "bitsandbytes":
        return Quantization(NF4_BITS if settings.get("load_in_4bit") else 8)
    if method == "mxfp4":
        return Quantization(MXFP4_BITS, experts_only=True)
    if method == "compressed-tensors":
        return _compressed(settings)
    return None


def asked_quantization(options: Options) -> Quantization | None:
    """What ``--quantization`` makes of a 16-bit checkpoint while it loads."""
    method = options.get("quantization", "").lower()
    if method == "bitsandbytes":
        return Quantization(NF4_BITS)
    return Quantization(8) if method.startswith("fp8") else None


def _compressed(settings: Mapping[str, Any]) -> Quantization | None:
    groups = settings.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    bits = _number(weights, "num_bits") if isinstance(weights, Mapping) else None
    if bits is None or not isinstance(weights, Mapping):
        return None
    return Quantization(bits + _per_group(weights, _SCALE_BITS))


def _per_group(settings: Mapping[str, Any], group_bits: float) -> float:
    """``group_size`` -1 is one group for a whole row, whose scale does not count."""
    size = _number(settings, "group_size")
    return group_bits / size if size else 0.0


def _number(settings: Mapping[str, Any], name: str) -> int | None:
    value = settings.get(name)
    return value if type(value) is int and value > 0 else None
