"""Mixtures of experts in a form that a graph can hold: each expert sees every token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

_NAME = "bantam-every-expert"


@contextlib.contextmanager
def every_expert(model: nn.Module) -> Iterator[None]:
    """While exporting, compute all experts for each token and weigh those by zero that it is not routed to.

    Which tokens an expert gets, and how many, depends on the text; a graph has no loop over them. The result is the
    same, at the price of the experts that are not asked.
    """
    configs = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    before = [config._experts_implementation for config in configs]
    ALL_EXPERTS_FUNCTIONS[_NAME] = _forward
    for config in configs:
        config._experts_implementation = _NAME
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._experts_implementation = implementation
        del ALL_EXPERTS_FUNCTIONS[_NAME]


def _forward(self: Any, states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
    """``states [tokens, hidden]``, and the experts of each token with their weights, ``[tokens, k]``."""
    routed = torch.zeros(states.shape[0], self.num_experts, dtype=top_k_weights.dtype, device=states.device)
    routed = routed.scatter_add(1, top_k_index, top_k_weights)
    up = _linear(self, "gate_up_proj" if self.has_gate else "up_proj", states[None])
    out = _linear(self, "down_proj", self._apply_gate(up) if self.has_gate else self.act_fn(up))
    if self.has_post_expert_norm:
        out = self.post_expert_norm(out)
    mixed: torch.Tensor = (out * routed.T[:, :, None]).sum(dim=0)
    return mixed.to(states.dtype)


def _linear(experts: Any, name: str, states: torch.Tensor) -> torch.Tensor:
    """``[experts or 1, tokens, in]`` to ``[experts, tokens, out]``."""
    weight = getattr(experts, name)
    out: torch.Tensor = states @ (weight if experts.is_transposed else weight.transpose(1, 2))
    return out + getattr(experts, f"{name}_bias")[:, None] if experts.has_bias else out
