"""How much each part of a model matters, as far as weights and activations alone can tell: no labels, no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Text
from optimizer.architecture import anatomy, blocks


@dataclass(frozen=True)
class Importance:
    """What is lost with each part, in one unit for all three kinds, so that losses add up."""

    heads: Tensor
    """``[layers, heads]``."""
    neurons: Tensor
    """``[layers, neurons]``."""
    hidden: Tensor
    """``[hidden]``, for all layers together."""


def by_magnitude(model: PreTrainedModel) -> Importance:
    """The sum of squares of the weights that go with a part: the squared Frobenius norm of the change.

    A head has its rows of the query, key and value projections and its columns of the output projection; keys and
    values of several heads count for each in equal shares. Raises :class:`ModelError` like :func:`anatomy`.
    """
    parts = anatomy(model)
    heads, neurons = [], []
    hidden = torch.zeros(parts.hidden, dtype=torch.float64)
    for layer in parts.layers:
        query, key, value = (_squares(part, dim=1) for part in (layer.query, layer.key, layer.value))
        own = (query + _squares(layer.output, dim=0)).view(parts.heads, -1).sum(1)
        shared = (key + value).view(parts.key_value_heads, -1).sum(1) / parts.group
        heads.append(own + shared.repeat_interleave(parts.group))
        neurons.append(sum((_squares(up, dim=1) for up in layer.up), start=_squares(layer.down, dim=0)))
        for linear in (layer.query, layer.key, layer.value, *layer.up):
            hidden += _squares(linear, dim=0)
        hidden += _squares(layer.output, dim=1) + _squares(layer.down, dim=1)
    return Importance(torch.stack(heads), torch.stack(neurons), hidden)


def _squares(linear: nn.Linear, *, dim: int) -> Tensor:
    """Sums of squared weights along a dimension, on the CPU in float64."""
    return linear.weight.detach().double().square().sum(dim).cpu()


@torch.inference_mode()
def of_blocks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], *, batch: int = 32
) -> list[float]:
    """Influence of each block: 1 - the mean cosine between the hidden states before and after it, over all tokens.

    Block influence, equation 1 of ShortGPT (Men et al. 2024): a block that hardly turns the hidden states can go.
    Raises :class:`ModelError` for an architecture without one list of blocks.
    """
    chain = blocks(model)
    sums, tokens = [0.0] * len(chain), 0
    mask: Tensor = torch.empty(0)

    def add(index: int) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, Tensor) else output[0]
            sums[index] += float(cosine_similarity(before.double(), after.double(), dim=-1)[mask].sum())

        return hook

    hooks = [block.register_forward_hook(add(i), with_kwargs=True) for i, block in enumerate(chain)]
    training = model.training
    model.eval()
    ordered = sorted(texts, key=len)
    try:
        for start in range(0, len(ordered), batch):
            encoded = tokenizer(ordered[start : start + batch], return_tensors="pt", padding=True, truncation=True).to(
                model.device
            )
            mask = encoded["attention_mask"].bool()
            tokens += int(mask.sum())
            model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    return [1 - total / tokens for total in sums]
