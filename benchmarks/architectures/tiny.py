"""A checkpoint of any architecture at toy size, and texts that it learns in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.architectures.toy import MAX_LENGTH, MOODS, SPECIAL, sentence, tokenizer, write_lines

VOCABULARY = 64
"""Rows of the word embeddings: a few more than there are tokens, as in many published models."""

LAYERS, WIDTH, HEADS, NEURONS = 2, 32, 4, 64
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_NEURONS = ("intermediate_size", "d_ff", "ffn_dim", "hidden_dim", "d_inner", "dff", "feed_forward_size")
SIZES: dict[str, Any] = {
    **dict.fromkeys(_WIDTHS, WIDTH),
    **dict.fromkeys(_HEADS, HEADS),
    **dict.fromkeys((*_LAYERS, "num_decoder_layers"), LAYERS),
    **dict.fromkeys((*_NEURONS, "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), NEURONS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_query_groups"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "kv_channels", "attention_head_size", "v_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), MAX_LENGTH),
    "vocab_size": VOCABULARY,
    # Mixtures of experts, latent attention and state spaces.
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), WIDTH),
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "index_topk": 16,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "gated_norm_rank": 4,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "mamba_headdim": 8,
    "n_mamba_heads": 2,
    "sliding_window": 16,
    "local_attention": 16,
    "window_size": 16,
    # Vision and layout beside the text.
    "coordinate_size": 6,
    "shape_size": 4,
    "image_size": 32,
    "patch_size": 16,
}
"""What a config has of these, it has in this size."""

_LATENT = {"head_dim": SIZES["qk_rope_head_dim"], "num_key_value_heads": HEADS}
_GROUPED = {"num_key_value_heads": 2, "head_dim": WIDTH // HEADS}
_MIXED = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2}
_MIXED |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
_MAMBA = {"layers_block_type": ["linear_attention", "hybrid"], "attention_hidden_size": 2 * WIDTH}
ODD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "minicpm3"), _LATENT),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "nemotron"), _GROUPED),
    **dict.fromkeys(("qwen3_5_text", "qwen3_next"), _MIXED),
    "big_bird": {"attention_type": "original_full"},  # what it falls back to on short texts, with a warning
    "bigbird_pegasus": {"attention_type": "original_full"},
    "cohere_compass_text": {
        "num_key_value_heads": HEADS,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2},
    "esm": {"vocab_size": VOCABULARY},
    "esmc": {"num_key_value_heads": HEADS},
    "funnel": {"block_sizes": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 16},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "mistral4": {"head_dim": 16, "num_key_value_heads": HEADS},
    "mpt": {"expansion_ratio": 2},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
    },
    "perceiver": {
        "d_latents": WIDTH,
        "num_latents": 8,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "samples_per_patch": 1,
        "train_size": [16, 16],
        "num_frames": 1,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 8,
        "shape_embed_dim": 8,
    },
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        **_MAMBA,
        "attention_head_dim": 16,
        "use_mamba_kernels": False,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "zamba2": {
        **_MAMBA,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "chunk_size": 16,
        "hybrid_layer_ids": [1],
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
}
"""Architectures whose sizes hang together in ways of their own."""
PARTS = ("text_config", "vision_config", "encoder", "decoder")
"""Configs within a config, which have sizes of their own."""
LARGEST = 3_000_000
"""Parameters; what is larger was not made small."""


def write_checkpoint(folder: Path, model_type: str) -> Path:
    """A classifier of this type with random weights and a tokenizer, as save_pretrained writes them.

    Its head is for two labels without names: Bantam makes a new one for the data's three. Raises whatever transformers
    raises where it cannot be built so small, and :class:`ValueError` where it has not become small.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(model_type, num_labels=2, **settings(model_type))
    with torch.device("meta"):
        parameters = AutoModelForSequenceClassification.from_config(config).num_parameters()
    if parameters > LARGEST:
        raise ValueError(f"{parameters} parameters, although its config was made small; expected {LARGEST} at most")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    ends = {"bos_token": SPECIAL[2], "eos_token": SPECIAL[3]}
    tokenizer(getattr(config, "pad_token_id", 0) or 0, **ends).save_pretrained(folder)
    return folder


def settings(model_type: str) -> dict[str, Any]:
    """What the config of this type is told: the sizes above where it has them, and the ids of special tokens."""
    from transformers import CONFIG_MAPPING

    usual = CONFIG_MAPPING[model_type]()
    return {
        **_small(usual.to_dict(), pad=1 if getattr(usual, "pad_token_id", 0) == 1 else 0),
        **ODD.get(model_type, {}),
    }


def _small(usual: dict[str, Any], pad: int) -> dict[str, Any]:
    sizes = {name: value for name, value in SIZES.items() if usual.get(name) is not None}
    ids: dict[str, int | None] = {
        "pad_token_id": pad,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    }
    ids |= {"unk_token_id": 1 - pad, "mask_token_id": 4, "decoder_start_token_id": 3, "forced_eos_token_id": None}
    kinds = usual.get("layer_types")
    lists = (
        {"layer_types": sorted({*kinds}, reverse=True)[:LAYERS] * (1 if len({*kinds}) > 1 else LAYERS)} if kinds else {}
    )
    parts = {name: _small(usual[name], pad) for name in PARTS if isinstance(usual.get(name), dict)}
    return {
        **sizes,
        **lists,
        **parts,
        **{name: value for name, value in ids.items() if name in usual or name == "pad_token_id"},
    }


def write_data(path: Path, rows: int) -> Path:
    """A CSV of texts and their mood, told by two words among others that say nothing."""
    rng, moods = random.Random(0), [*MOODS]
    labels = [moods[i % len(moods)] for i in range(rows)]
    texts = [sentence(rng, rng.choices(MOODS[label], k=2), 12) for label in labels]
    return write_lines(path, ["text,label", *(f"{text},{label}" for text, label in zip(texts, labels, strict=True))])
