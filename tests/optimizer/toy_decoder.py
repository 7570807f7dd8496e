"""A Llama of two layers that learns the moods of tests/plugins/tiny.py in seconds."""

from __future__ import annotations

from pathlib import Path

from optimizer.catalog import Checkpoint
from tests.plugins import tiny


def load_toy_decoder(folder: Path) -> Checkpoint:
    """Random weights, 64 wide; the tokenizer is that of the tiny BERT."""
    import torch
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    tiny.write_checkpoint(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(PreTrainedTokenizerFast.from_pretrained(folder)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    LlamaModel(config).save_pretrained(folder)
    return Checkpoint("toy-decoder", folder, "test", "local", "Apache-2.0", "digest")
