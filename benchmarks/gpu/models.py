"""Real models' configurations, written by hand, for engines that invent the weights.

Throughput and power do not depend on the values of weights, so ``--load-format dummy`` with the
configuration of a real model measures what the model would. What such an engine writes is noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

MAX_MODEL_LEN = 2048
"""What the smallest of them, OPT, is made for; the same for all, so that they are comparable."""

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}

MODELS: Mapping[str, Mapping[str, object]] = {
    "opt-1.3b": {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "hidden_size": 2048,
        "word_embed_proj_dim": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "vocab_size": 50272,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "torch_dtype": "float16",
    },
    "llama-3.2-1b": {
        **_LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "vocab_size": 128256,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "torch_dtype": "bfloat16",
    },
    "smollm2-1.7b": {
        **_LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 8192,
        "rope_theta": 130000.0,
        "vocab_size": 49152,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
"""By name, what their config.json says of their shape."""

LEAST_VOCABULARY = 49152
"""Token numbers below it are words of every model here."""


def write_model(name: str, folder: Path) -> Path:
    """Writes the model's configuration and a tokenizer into a folder of its own below ``folder``.

    Raises KeyError for an unknown name.
    """
    model = folder / name
    model.mkdir(parents=True, exist_ok=True)
    config = MODELS[name]
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_tokenizer(model, int(str(config["vocab_size"])))
    return model


def _write_tokenizer(model: Path, words: int) -> None:
    """A character for each of the first tokens, ASCII's, and a word for every other.

    With invented weights a model writes one token over and over. Where a real tokenizer reads it as
    half a character or as nothing, vLLM's server waits for the rest and decodes all of the answer
    again at each token, until it has time for nothing else. The characters are there for prompts
    that are text; transformers reads some models' vocabularies, such as Qwen2's, as byte pairs
    whatever the file says of itself, and would find no token in a text of other characters.
    """
    vocabulary = {_byte_level(number): number for number in range(ASCII)}
    vocabulary |= {f"w{number}": number for number in range(ASCII, words)}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_MODEL_LEN}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


ASCII = 128


def _byte_level(number: int) -> str:
    """An ASCII character as byte-level vocabularies write it: what does not print, as one that does
    (GPT-2's table, "Language Models are Unsupervised Multitask Learners", 2019)."""
    if ord("!") <= number <= ord("~"):
        return chr(number)
    return chr(256 + (number if number <= ord(" ") else number - ord("~") + ord(" ")))
