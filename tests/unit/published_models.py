"""Models as their authors published them: what the planner's sums have to meet.

``parameters``: as the hub's page of the model counts its safetensors ("model size"), every one also
counted here once from the configuration with Hugging Face transformers' own classes.
``weights_bytes``: what 16-bit weights take, or what the source publishes of quantised ones.
``kv_bytes_per_token``: in 16 bits, over all layers.

Longer than a file may be, since it is one table, of which each row stands for itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Config = dict[str, Any]


class Published(NamedTuple):
    name: str
    source: str
    config: Config
    parameters: int
    kv_bytes_per_token: int
    max_model_len: int
    weights_bytes: int | None = None
    """Where it is not two bytes for each parameter."""


def dense(model_type: str, layers: int, hidden: int, heads: int, **others: Any) -> Config:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        **others,
    }


def opt(layers: int, hidden: int, heads: int) -> Config:
    return dense(
        *("opt", layers, hidden, heads),
        ffn_dim=4 * hidden,
        vocab_size=50272,
        max_position_embeddings=2048,
        word_embed_proj_dim=hidden,
    )


def llama(layers: int, hidden: int, heads: int, kv_heads: int, inner: int, **others: Any) -> Config:
    known = {"model_type": "llama", "tie_word_embeddings": False, **others}
    return dense(
        *(known.pop("model_type"), layers, hidden, heads),
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        **known,
    )


LLAMA_3_ROPE = {
    "factor": 32.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_2_7B = llama(32, 4096, 32, 32, 11008, vocab_size=32000, max_position_embeddings=4096)
LLAMA_3_2_1B = llama(
    *(16, 2048, 32, 8, 8192),
    head_dim=64,
    vocab_size=128256,
    max_position_embeddings=131072,
    rope_scaling=LLAMA_3_ROPE,
    tie_word_embeddings=True,
)
GEMMA_3_1B = llama(
    *(26, 1152, 4, 1, 6912),
    model_type="gemma3_text",
    head_dim=256,
    vocab_size=262144,
    max_position_embeddings=32768,
    sliding_window=512,
    sliding_window_pattern=6,
    tie_word_embeddings=None,
)
MISTRAL_7B = llama(
    *(32, 4096, 32, 8, 14336),
    model_type="mistral",
    vocab_size=32000,
    max_position_embeddings=32768,
    sliding_window=4096,
)
GPT_OSS_20B = llama(
    *(24, 2880, 64, 8, 2880),
    model_type="gpt_oss",
    head_dim=64,
    attention_bias=True,
    vocab_size=201088,
    num_local_experts=32,
    num_experts_per_tok=4,
    sliding_window=128,
    layer_types=["sliding_attention", "full_attention"] * 12,
    max_position_embeddings=131072,
    rope_scaling={
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
    },
    quantization_config={"quant_method": "mxfp4"},
)

MODELS = [
    Published(
        "OPT-1.3B",
        "hub: facebook/opt-1.3b; arXiv 2205.01068, table 1",
        opt(24, 2048, 32),
        1_315_758_080,
        2 * 24 * 2048 * 2,
        2048,
    ),
    Published(
        "OPT-2.7B",
        "hub: facebook/opt-2.7b; arXiv 2205.01068, table 1",
        opt(32, 2560, 32),
        2_651_596_800,
        2 * 32 * 2560 * 2,
        2048,
    ),
    Published(
        "OPT-13B",
        "hub: facebook/opt-13b; 800 KB a token: arXiv 2309.06180 (PagedAttention), section 3",
        opt(40, 5120, 40),
        12_853_473_280,
        800 * 1024,
        2048,
    ),
    Published(
        "GPT-2",
        "hub: openai-community/gpt2",
        {
            "model_type": "gpt2",
            "n_layer": 12,
            "n_embd": 768,
            "n_head": 12,
            "n_inner": None,
            "vocab_size": 50257,
            "n_positions": 1024,
        },
        124_439_808,
        2 * 12 * 768 * 2,
        1024,
    ),
    Published(
        "Llama-2-7B",
        "hub: meta-llama/Llama-2-7b-hf; multi-head attention: arXiv 2307.09288, table 1",
        LLAMA_2_7B,
        6_738_415_616,
        512 * 1024,
        4096,
    ),
    Published(
        "Llama-2-7B-GPTQ",
        "hub: TheBloke/Llama-2-7B-GPTQ, model card: 4 bits, groups of 128, 3.90 GB",
        {
            **LLAMA_2_7B,
            "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},
        },
        6_738_415_616,
        512 * 1024,
        4096,
        weights_bytes=3_900_000_000,
    ),
    Published(
        "Llama-3.1-8B",
        "hub: meta-llama/Llama-3.1-8B; grouped queries: arXiv 2407.21783, table 3",
        llama(
            *(32, 4096, 32, 8, 14336),
            vocab_size=128256,
            max_position_embeddings=131072,
            rope_scaling={**LLAMA_3_ROPE, "factor": 8.0},
        ),
        8_030_261_248,
        128 * 1024,
        131072,
    ),
    Published(
        "Llama-3.2-1B",
        "hub: meta-llama/Llama-3.2-1B",
        LLAMA_3_2_1B,
        1_235_814_400,
        2 * 16 * 8 * 64 * 2,
        131072,
    ),
    Published(
        "Llama-3.2-3B",
        "hub: meta-llama/Llama-3.2-3B",
        llama(
            *(28, 3072, 24, 8, 8192),
            head_dim=128,
            vocab_size=128256,
            max_position_embeddings=131072,
            rope_scaling=LLAMA_3_ROPE,
            tie_word_embeddings=True,
        ),
        3_212_749_824,
        2 * 28 * 8 * 128 * 2,
        131072,
    ),
    Published(
        "TinyLlama-1.1B",
        "hub: TinyLlama/TinyLlama-1.1B-Chat-v1.0; arXiv 2401.02385, table 1",
        llama(22, 2048, 32, 4, 5632, vocab_size=32000, max_position_embeddings=2048),
        1_100_048_384,
        2 * 22 * 4 * 64 * 2,
        2048,
    ),
    Published(
        "SmolLM2-135M",
        "hub: HuggingFaceTB/SmolLM2-135M",
        llama(
            *(30, 576, 9, 3, 1536),
            vocab_size=49152,
            max_position_embeddings=8192,
            rope_scaling=None,
            tie_word_embeddings=True,
        ),
        134_515_008,
        2 * 30 * 3 * 64 * 2,
        8192,
    ),
    Published(
        "SmolLM2-1.7B",
        "hub: HuggingFaceTB/SmolLM2-1.7B",
        llama(
            *(24, 2048, 32, 32, 8192),
            vocab_size=49152,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        ),
        1_711_376_384,
        2 * 24 * 32 * 64 * 2,
        8192,
    ),
    Published(
        "Qwen2.5-0.5B",
        "hub: Qwen/Qwen2.5-0.5B; arXiv 2412.15115, table 1",
        llama(
            *(24, 896, 14, 2, 4864),
            model_type="qwen2",
            vocab_size=151936,
            max_position_embeddings=32768,
            sliding_window=32768,
            use_sliding_window=False,
            tie_word_embeddings=True,
        ),
        494_032_768,
        2 * 24 * 2 * 64 * 2,
        32768,
    ),
    Published(
        "Qwen2.5-1.5B",
        "hub: Qwen/Qwen2.5-1.5B; arXiv 2412.15115, table 1",
        llama(
            *(28, 1536, 12, 2, 8960),
            model_type="qwen2",
            vocab_size=151936,
            max_position_embeddings=131072,
            tie_word_embeddings=True,
        ),
        1_543_714_304,
        2 * 28 * 2 * 128 * 2,
        131072,
    ),
    Published(
        "Qwen2.5-7B",
        "hub: Qwen/Qwen2.5-7B; arXiv 2412.15115, table 1",
        llama(
            *(28, 3584, 28, 4, 18944),
            model_type="qwen2",
            vocab_size=152064,
            max_position_embeddings=131072,
        ),
        7_615_616_512,
        2 * 28 * 4 * 128 * 2,
        131072,
    ),
    Published(
        "Qwen3-0.6B",
        "hub: Qwen/Qwen3-0.6B, embedding counted once; arXiv 2505.09388, table 1",
        llama(
            *(28, 1024, 16, 8, 3072),
            model_type="qwen3",
            head_dim=128,
            vocab_size=151936,
            max_position_embeddings=40960,
            tie_word_embeddings=True,
        ),
        596_049_920,
        2 * 28 * 8 * 128 * 2,
        40960,
    ),
    Published(
        "Gemma-2B",
        "hub: google/gemma-2b: one KV head, wider than hidden / heads; arXiv 2403.08295",
        llama(
            *(18, 2048, 8, 1, 16384),
            model_type="gemma",
            head_dim=256,
            vocab_size=256000,
            max_position_embeddings=8192,
            tie_word_embeddings=None,
        ),
        2_506_172_416,
        2 * 18 * 1 * 256 * 2,
        8192,
    ),
    Published(
        "Gemma-2-2B",
        "hub: google/gemma-2-2b; arXiv 2408.00118, table 1",
        llama(
            *(26, 2304, 8, 4, 9216),
            model_type="gemma2",
            head_dim=256,
            vocab_size=256000,
            max_position_embeddings=8192,
            sliding_window=4096,
            tie_word_embeddings=None,
        ),
        2_614_341_888,
        2 * 26 * 4 * 256 * 2,
        8192,
    ),
    Published(
        "Gemma-3-1B",
        "hub: google/gemma-3-1b-pt; arXiv 2503.19786, table 1",
        GEMMA_3_1B,
        999_885_952,
        2 * 26 * 1 * 256 * 2,
        32768,
    ),
    Published(
        "Mistral-7B-v0.1",
        "hub: mistralai/Mistral-7B-v0.1; arXiv 2310.06825, table 1",
        MISTRAL_7B,
        7_241_732_096,
        128 * 1024,
        32768,
    ),
    Published(
        "Phi-3-mini-4k",
        "hub: microsoft/Phi-3-mini-4k-instruct; arXiv 2404.14219, section 2",
        llama(
            *(32, 3072, 32, 32, 8192),
            model_type="phi3",
            vocab_size=32064,
            max_position_embeddings=4096,
            sliding_window=2047,
        ),
        3_821_079_552,
        384 * 1024,
        4096,
    ),
    Published(
        "StarCoder2-3B",
        "hub: bigcode/starcoder2-3b; arXiv 2402.19173, table 6",
        llama(
            *(30, 3072, 24, 2, 12288),
            model_type="starcoder2",
            vocab_size=49152,
            max_position_embeddings=16384,
            sliding_window=4096,
            tie_word_embeddings=None,
        ),
        3_030_371_328,
        2 * 30 * 2 * 128 * 2,
        16384,
    ),
    Published(
        "Falcon-7B",
        "hub: tiiuae/falcon-7b: one KV head of 64; arXiv 2311.16867",
        dense(
            *("falcon", 32, 4544, 71),
            num_kv_heads=71,
            multi_query=True,
            new_decoder_architecture=False,
            vocab_size=65024,
        ),
        6_921_720_704,
        8 * 1024,
        2048,
    ),
    Published(
        "DeepSeek-V2-Lite",
        "hub: deepseek-ai/DeepSeek-V2-Lite; latent attention: arXiv 2405.04434, appendix B",
        llama(
            *(27, 2048, 16, 16, 10944),
            model_type="deepseek_v2",
            moe_intermediate_size=1408,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            q_lora_rank=None,
            kv_lora_rank=512,
            qk_rope_head_dim=64,
            qk_nope_head_dim=128,
            v_head_dim=128,
            vocab_size=102400,
            max_position_embeddings=163840,
        ),
        15_706_484_224,
        27 * (512 + 64) * 2,
        163840,
    ),
    Published(
        "MiniCPM3-4B",
        "hub: openbmb/MiniCPM3-4B; vLLM 0.32 expands its latent attention in the cache",
        llama(
            *(62, 2560, 40, 40, 6400),
            model_type="minicpm3",
            q_lora_rank=768,
            kv_lora_rank=256,
            qk_nope_head_dim=64,
            qk_rope_head_dim=32,
            vocab_size=73448,
            max_position_embeddings=32768,
            rope_scaling={"type": "longrope", "original_max_position_embeddings": 32768},
            tie_word_embeddings=None,
        ),
        4_073_875_968,
        62 * 2 * 40 * (64 + 32) * 2,
        32768,
    ),
    Published(
        "gpt-oss-20b",
        "hub: openai/gpt-oss-20b, model.safetensors.index.json: total_size; arXiv 2508.10925",
        GPT_OSS_20B,
        20_914_757_184,
        2 * 24 * 8 * 64 * 2,
        131072,
        weights_bytes=13_761_264_768,
    ),
    Published(
        "Mixtral-8x7B",
        "hub: mistralai/Mixtral-8x7B-v0.1; arXiv 2401.04088, table 1",
        llama(
            *(32, 4096, 32, 8, 14336),
            model_type="mixtral",
            vocab_size=32000,
            num_local_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=32768,
            sliding_window=None,
        ),
        46_702_792_704,
        128 * 1024,
        32768,
    ),
    Published(
        "OLMoE-1B-7B",
        "hub: allenai/OLMoE-1B-7B-0924; arXiv 2409.02060, table 1",
        llama(
            *(16, 2048, 16, 16, 1024),
            model_type="olmoe",
            vocab_size=50304,
            num_experts=64,
            num_experts_per_tok=8,
            max_position_embeddings=4096,
        ),
        6_919_161_856,
        2 * 16 * 16 * 128 * 2,
        4096,
    ),
]
