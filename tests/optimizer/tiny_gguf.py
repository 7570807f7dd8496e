"""Tiny GGUF files: a model of transformers' own classes, written as llama.cpp writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedModel

from tests.optimizer.tiny_tokenizers import byte_level_bpe

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_CLASSES: dict[str, Any] = {"llama": LlamaConfig, "gemma3": Gemma3TextConfig}
_OWN: dict[str, Any] = {"gemma3": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2}}


NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of tokens in GGUF."""
TEXT = " the cat sat on the mat"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF has it, and what it makes of :data:`TEXT`."""

    model: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    expected: list[int]
    merges: list[str] | None = None


def byte_level() -> Vocabulary:
    """As GPT-2 and Llama 3 have it."""
    tokenizer = byte_level_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = tokenizer.get_vocab()
    special = {"bos": ids["<s>"], "eos": ids["</s>"], "padding": ids["<pad>"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    types = [CONTROL if token in added else NORMAL for token in tokens]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return Vocabulary("gpt2", tokens, types, special, tokenizer.encode(TEXT).ids[1:-1], merges)


def sentence_piece() -> Vocabulary:
    """As Gemma has it: spaces are written, bytes are tokens, the order of the tokens is that of the merges."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = [*first, "▁t", "▁th", "he", "▁the", "at", "▁c", "▁s", "▁m", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    types = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 260)
    pieces = ["▁the", "▁c", "at", "▁s", "at", "▁", "o", "n", "▁the", "▁m", "at"]
    special = {"padding": 0, "eos": 1, "bos": 2, "unknown": 3}
    return Vocabulary("llama", tokens, types, special, [2, *map(tokens.index, pieces)])


VOCABULARIES = {"llama": byte_level, "gemma3": sentence_piece}


def causal_model(architecture: str, vocabulary: int) -> PreTrainedModel:
    """A language model with random weights, for ``vocabulary`` tokens."""
    torch.manual_seed(0)
    config = _CLASSES[architecture](vocab_size=vocabulary, **_SIZES, **_OWN.get(architecture, {}))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    return model


def write_gguf(
    path: Path,
    architecture: str = "llama",
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    file_type: int | None = int(gguf.LlamaFileType.MOSTLY_Q8_0),
    without: str = "",
    scale: float = 1.0,
    more: Mapping[str, np.ndarray] | None = None,
    **metadata: Any,
) -> tuple[PreTrainedModel, Vocabulary]:
    """Write a tiny model; returns it, with the weights that the file has for it, and its vocabulary.

    ``kind``: the numbers of the matrices; ``file_type``: what the file says they are. The tensor whose name there holds
    ``without`` is left out; ``scale`` multiplies the matrices. ``more``: other tensors by their names there.
    """
    vocabulary = VOCABULARIES[architecture]()
    model = causal_model(architecture, len(vocabulary.tokens))
    writer = gguf.GGUFWriter(path, architecture)
    _write_sizes(writer, model.config)
    _write_vocabulary(writer, vocabulary)
    if file_type is not None:
        writer.add_file_type(file_type)
    for key, value in metadata.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.get_type(value))
    _write_tensors(writer, model, architecture, kind, without, scale)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, vocabulary


def _write_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_scores([-float(i) for i in range(len(vocabulary.tokens))])
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_bos_token("bos" in vocabulary.special and vocabulary.model == "llama")
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)


@torch.no_grad()
def _write_tensors(
    writer: gguf.GGUFWriter,
    model: PreTrainedModel,
    architecture: str,
    kind: gguf.GGMLQuantizationType,
    without: str,
    scale: float,
) -> None:
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        called = f"{names.get_name(stem)}.{suffix}"
        if without and without in called:
            continue
        if tensor.dim() == 1:
            # llama.cpp has Gemma's norms as factors, transformers as what is added to 1.
            writer.add_tensor(called, (tensor + (architecture == "gemma3")).numpy())
            continue
        tensor.mul_(scale)
        packed = gguf.quantize(_permuted(tensor, stem, model.config, architecture).numpy(), kind)
        writer.add_tensor(called, packed, raw_dtype=kind)
        whole = torch.from_numpy(np.array(gguf.dequantize(packed, kind)))
        tensor.copy_(_permuted(whole, stem, model.config, architecture, back=True))


def _permuted(tensor: torch.Tensor, stem: str, config: Any, architecture: str, *, back: bool = False) -> torch.Tensor:
    """llama.cpp has the halves of Llama's queries and keys in turn: rotary embeddings of pairs that are neighbours."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(stem.rpartition(".")[2])
    if architecture != "llama" or heads is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return tensor.reshape(*shape, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape).contiguous()
