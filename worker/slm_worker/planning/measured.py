"""PURE: what was measured, model by model and GPU by GPU (``data/README.md``)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from slm_worker.planning.footprint import ModelConfig

STUDY_GPU = "h100-sxm-64gb"
"""The catalogue's name of the GPU that was measured."""
STUDY_DTYPE = "float16"
_SAME_DTYPE = frozenset({STUDY_DTYPE, "half", "auto"})
"""Both measured models were published in 16 bits."""


@dataclass(frozen=True)
class MeasuredModel:
    name: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int
    tied: bool
    max_positions: int

    def config(self) -> ModelConfig:
        return ModelConfig.model_validate(
            {
                "model_type": self.model_type,
                "num_hidden_layers": self.layers,
                "hidden_size": self.hidden,
                "num_attention_heads": self.heads,
                "intermediate_size": self.intermediate,
                "vocab_size": self.vocab,
                "tie_word_embeddings": self.tied,
                "max_position_embeddings": self.max_positions,
            }
        )


MODELS = (
    MeasuredModel("opt-1.3b", "opt", 24, 2048, 32, 8192, 50272, True, 2048),
    MeasuredModel("llama-2-7b", "llama", 32, 4096, 32, 11008, 32000, False, 4096),
)
"""From the config.json published with each."""


@dataclass(frozen=True)
class Row:
    """One run: whole-run means."""

    kind: str
    """``sweep`` or ``replication``: two studies, some points in both."""
    model: str
    replicas: int
    max_num_seqs: int
    chunked_prefill: bool
    tokens_per_second: float
    watts: float
    itl_seconds: float
    busy_share: float
    """Share of the time in which a kernel ran."""
    kv_cache_peak: float
    """Greatest share of the KV cache in use."""
    preemptions: int


@cache
def rows() -> tuple[Row, ...]:
    """Every row of the table, in its order."""
    table = resources.files("slm_worker.planning") / "data" / f"{STUDY_GPU}.csv"
    lines = table.read_text(encoding="ascii").splitlines()
    return tuple(_row(record) for record in csv.DictReader(lines))


def points(model: str, *, chunked_prefill: bool = False) -> dict[tuple[int, int], Row]:
    """The row of each (replicas, max_num_seqs). Of a point in both studies, which differ by less
    than 2 % in throughput, the replication study's counts."""
    own = [r for r in rows() if r.model == model and r.chunked_prefill == chunked_prefill]
    ordered = sorted(own, key=lambda row: row.kind == "replication")
    return {(row.replicas, row.max_num_seqs): row for row in ordered}


def measured_name(config: ModelConfig, gpu: str, dtype: str) -> str | None:
    """The measured model that has this shape, where it ran on ``gpu`` with ``dtype``."""
    if gpu != STUDY_GPU or dtype not in _SAME_DTYPE:
        return None
    for model in MODELS:
        same = (
            config.model_type == model.model_type
            and config.layers == model.layers
            and config.hidden == model.hidden
            and config.heads == config.key_value_heads == model.heads
            and config.intermediate == model.intermediate
            and config.vocab == model.vocab
        )
        if same:
            return model.name
    return None


def config_of(name: str) -> ModelConfig:
    """The configuration of a measured model. Raises KeyError."""
    return {model.name: model for model in MODELS}[name].config()


def _row(record: dict[str, str]) -> Row:
    name, _, chunked = record["model"].partition("_")
    return Row(
        kind=record["kind"],
        model=name,
        replicas=int(record["replicas"]),
        max_num_seqs=int(record["max_num_seqs"]),
        chunked_prefill=chunked == "chunked",
        tokens_per_second=float(record["output_tok_s"]),
        watts=float(record["power_mean_w"]),
        itl_seconds=float(record["itl_mean_ms"]) / 1000,
        busy_share=float(record["sm_util"]) / 100,
        kv_cache_peak=float(record["kv_cache_peak"]),
        preemptions=int(record["preemptions"]),
    )
