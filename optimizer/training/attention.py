"""Attention in fp32 where the rest of a training step on a CPU is in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_fp32"
"""Of the implementation, among those that transformers can choose from."""
SHORT = 256
"""Tokens; in longer texts the products are large enough for bf16 to win back what it costs to prepare them."""


def sdpa_fp32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Transformers' ``sdpa``, for texts up to ``SHORT`` in fp32; states are ``[batch, heads, tokens, head size]``.

    PyTorch's CPU kernel prepares a product of oneDNN for each text and head in bf16, which for a tweet takes ten times
    as long as the product: backward through 32 texts of 24 tokens and 12 heads of 32, 20 ms in bf16 and 1.7 in fp32.
    See ``benchmarks/training_attention.py`` for whole steps.
    """
    if query.shape[2] > SHORT:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        mixed, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **more
        )
    return mixed.to(query.dtype), weights


AttentionInterface.register(NAME, sdpa_fp32)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attention_in_fp32(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, ``model`` attends in fp32 if it would call ``sdpa`` by way of transformers' interface."""
    if model.config._attn_implementation != "sdpa" or not model.is_backend_compatible():
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
