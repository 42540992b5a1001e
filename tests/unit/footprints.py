"""What a replica of a model needs, as tests ask for it."""

from __future__ import annotations

from typing import Any

from slm_worker.planning.footprint import ModelFootprint, Tensor, footprint, parse_config


def sized(
    config: dict[str, Any], *args: str, tensors: list[Tensor] | None = None
) -> ModelFootprint | None:
    parsed = parse_config(config, "config.json")
    assert parsed is not None
    return footprint(parsed, tensors, args)


def known(
    config: dict[str, Any], *args: str, tensors: list[Tensor] | None = None
) -> ModelFootprint:
    result = sized(config, *args, tensors=tensors)
    assert result is not None
    return result
