"""A model directory with a config.json and no weights: all that a simulated engine reads."""

from __future__ import annotations

import json
from pathlib import Path

SMALL_MODEL = {
    "model_type": "opt",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "ffn_dim": 256,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
"""A config.json whose weights fit anywhere."""


def write_model(folder: Path, text: str = json.dumps(SMALL_MODEL)) -> str:
    """Makes ``folder`` a model directory; its URI."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(text)
    return f"file://{folder}"
