"""PURE: what one step of an engine costs a GPU: a roofline, and the gaps that the host leaves."""

from __future__ import annotations

from dataclasses import dataclass

from slm_worker.planning.footprint import DTYPE_BYTES, PLAIN_MLP, ModelConfig, footprint

NOT_PREDICTED = (
    "the pace of a mixture of experts or of latent attention (MLA) cannot be predicted: "
    "measure it, or use a dense model"
)
"""Which experts a step reads, and what its attention computes, is not in a configuration."""


@dataclass(frozen=True)
class Constants:
    """What was fitted to measurements; every GPU is scaled by its own peaks.

    Shares are of the GPU's peak (time) or of the span between idle and greatest power (power).
    """

    weight_bandwidth: float
    """Share of the peak memory bandwidth at which weights are read."""
    kv_bandwidth: float
    """Share of it at which attention reads the KV cache: scattered blocks, so less."""
    compute: float
    """Share of the peak dense FLOP/s that matrix products reach."""
    layer_seconds: float
    """GPU time of a layer that does not depend on the batch: small kernels, and the gaps between
    kernels."""
    launch_seconds: float
    """Host time to launch one layer's kernels without a CUDA graph, as prefill does."""
    step_seconds: float
    """Host time between two steps: scheduling, inputs, sampling."""
    sequence_seconds: float
    """Host time of each sequence in each step: its block table, its token, its stream."""
    waiting_seconds: float
    """Host time of each sequence that waits while a step reads the prompts of others."""
    busy_power: float
    """Power while a kernel runs, whatever it does."""
    weight_power: float
    """Power of reading weights at the peak bandwidth."""
    kv_power: float
    """Power of attention at the peak bandwidth."""
    compute_power: float
    """Power of matrix products at the peak FLOP/s."""
    crowd_power: float
    """Power of kernels of several replicas at once on the GPU, each of which waits for memory."""


@dataclass(frozen=True)
class Model:
    """What a step needs to know of a model."""

    layers: int
    matrix_parameters: int
    """Parameters that each token is multiplied with."""
    weight_bytes: int
    """That every step reads: all but an embedding table of its own, which is looked up."""
    head_parameters: int
    """Those of them in the output layer, which prefill applies to one token of each prompt."""
    kv_bytes_per_token: int
    attention_flops_per_token: int
    """FLOPs of attention for each token of context."""


@dataclass(frozen=True)
class Rates:
    """Peaks of a GPU: bytes/s of its memory, FLOP/s at the model's dtype (dense)."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class Cost:
    """What one step takes and does."""

    gpu_seconds: float
    """Bound by memory or arithmetic: nothing else runs meanwhile."""
    gap_seconds: float
    """The GPU is free, or nearly."""
    weight_bytes: float
    kv_bytes: float
    flops: float


def model_of(config: ModelConfig, dtype: str) -> Model | None:
    """None for what is NOT_PREDICTED. Raises ModelError for an unknown dtype."""
    needs = footprint(config, None, ["--dtype", dtype])
    if needs is None or config.experts is not None or config.kv_lora_rank is not None:
        return None
    query = config.heads * config.attention_head_dim
    key_value = 2 * config.key_value_heads * config.attention_head_dim
    matrices = 2 if config.model_type in PLAIN_MLP else 3
    layer = config.hidden * (2 * query + key_value + matrices * config.inner)
    head = config.vocab * config.hidden
    return Model(
        layers=config.layers,
        matrix_parameters=config.layers * layer + head,
        head_parameters=head,
        weight_bytes=needs.weights_bytes - (0 if config.tied else head * DTYPE_BYTES[dtype]),
        kv_bytes_per_token=needs.kv_bytes_per_token,
        attention_flops_per_token=4 * config.layers * query,
    )


def decode(
    model: Model, rates: Rates, constants: Constants, sequences: float, context_tokens: float
) -> Cost:
    """One token for each of ``sequences``, which hold ``context_tokens`` together."""
    weight_bytes = float(model.weight_bytes)
    kv_bytes = context_tokens * model.kv_bytes_per_token
    flops = 2.0 * model.matrix_parameters * sequences
    reading = weight_bytes / (constants.weight_bandwidth * rates.bytes_per_second)
    computing = flops / (constants.compute * rates.flops_per_second)
    attention = kv_bytes / (constants.kv_bandwidth * rates.bytes_per_second)
    return Cost(
        gpu_seconds=max(reading, computing) + attention + constants.layer_seconds * model.layers,
        gap_seconds=constants.step_seconds + constants.sequence_seconds * sequences,
        weight_bytes=weight_bytes,
        kv_bytes=kv_bytes,
        flops=flops + model.attention_flops_per_token * context_tokens,
    )


def prefill(
    model: Model,
    rates: Rates,
    constants: Constants,
    prompts: float,
    tokens: float,
    waiting: float,
) -> Cost:
    """Reads ``prompts`` of ``tokens`` together in a step of their own, for which ``waiting``
    sequences wait; no CUDA graph helps."""
    weight_bytes = float(model.weight_bytes)
    body = model.matrix_parameters - model.head_parameters
    flops = 2.0 * (body * tokens + model.head_parameters * prompts)
    reading = weight_bytes / (constants.weight_bandwidth * rates.bytes_per_second)
    computing = flops / (constants.compute * rates.flops_per_second)
    gpu = max(reading, computing) + constants.layer_seconds * model.layers
    launching = max(0.0, constants.launch_seconds * model.layers - gpu)
    return Cost(
        gpu_seconds=gpu,
        gap_seconds=launching
        + constants.step_seconds
        + constants.sequence_seconds * prompts
        + constants.waiting_seconds * waiting,
        weight_bytes=weight_bytes,
        kv_bytes=tokens * model.kv_bytes_per_token,
        flops=flops,
    )


def chunked_prefill(
    model: Model,
    rates: Rates,
    constants: Constants,
    prompts: float,
    tokens: float,
    waiting: float,
) -> Cost:
    """What ``prompts`` of ``tokens`` add to decode steps that carry them along: arithmetic, and
    their host time; weights are read, and kernels launched, for the decode step anyway."""
    body = model.matrix_parameters - model.head_parameters
    flops = 2.0 * (body * tokens + model.head_parameters * prompts)
    return Cost(
        gpu_seconds=flops / (constants.compute * rates.flops_per_second),
        gap_seconds=constants.sequence_seconds * prompts + constants.waiting_seconds * waiting,
        weight_bytes=0.0,
        kv_bytes=tokens * model.kv_bytes_per_token,
        flops=flops,
    )
