"""How much each head, neuron and hidden dimension matters to the loss: first-order Taylor and the diagonal Fisher.

Both come from gradients with regard to masks of ones, one mask a text, that multiply the inputs of attention's output
projection (a head), of the feed-forward network's second projection (a neuron), and the hidden states (a dimension).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimizer.architecture import Anatomy, anatomy
from optimizer.surgery.importance import Importance

Batch = Mapping[str, Tensor]
"""The model's inputs ``[texts, tokens]``, and ``labels``."""


@dataclass(frozen=True)
class Gradients:
    """Of each text's loss with regard to its masks."""

    heads: Tensor
    """``[texts, layers, heads]``."""
    neurons: Tensor
    """``[texts, layers, neurons]``."""
    hidden: Tensor
    """``[texts, hidden]``: one mask for the hidden states between all blocks."""


def gradients(model: PreTrainedModel, batches: Iterable[Batch]) -> Gradients:
    """Gradients of the model's own loss, text by text; puts ``model`` into eval mode.

    The loss of a batch is the mean over its texts, so that times their number each text's mask has the gradient of that
    text's loss alone. Raises :class:`ModelError` like :func:`anatomy`.
    """
    parts = anatomy(model)
    model.eval()
    collected = []
    for batch in batches:
        texts, layers = len(batch["labels"]), len(parts.layers)
        masks = tuple(
            torch.ones(shape, device=model.device, requires_grad=True)
            for shape in ((texts, layers, parts.heads), (texts, layers, parts.neurons), (texts, parts.hidden))
        )
        with masked(parts, *masks):
            loss = texts * model(**batch).loss
        collected.append([gradient.cpu() for gradient in torch.autograd.grad(loss, masks)])
    return Gradients(*(torch.cat(each) for each in zip(*collected, strict=True)))


@contextmanager
def masked(parts: Anatomy, heads: Tensor, neurons: Tensor, hidden: Tensor) -> Iterator[None]:
    """Within it, the model's heads, neurons and hidden states are multiplied by these masks, shaped as in Gradients."""
    hooks = [parts.layers[0].module.register_forward_pre_hook(_times_input(hidden))]
    for index, layer in enumerate(parts.layers):
        of_head = heads[:, index].repeat_interleave(parts.head_dim, dim=1)
        hooks.append(layer.output.register_forward_pre_hook(_times_input(of_head)))
        hooks.append(layer.down.register_forward_pre_hook(_times_input(neurons[:, index])))
        hooks.append(layer.module.register_forward_hook(_times_output(hidden)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _times_input(mask: Tensor) -> Callable[[nn.Module, Any], Any]:
    """Multiplies the first input ``[texts, tokens, width]`` by ``mask`` ``[texts, width]``."""
    return lambda module, args: (args[0] * mask[:, None], *args[1:])


def _times_output(mask: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output * mask[:, None]
        return (output[0] * mask[:, None], *output[1:])

    return hook


@torch.no_grad()
def drawn_labels(model: PreTrainedModel, batch: Batch, task: str, generator: torch.Generator) -> Tensor:
    """Labels drawn from the model's own answers, for texts that have none: with them, :func:`fisher` is the Fisher
    information itself, not the empirical one (Kunstner et al. 2019, "Limitations of the Empirical Fisher
    Approximation", equation 3).

    The model's decisions would not do: the loss of its own answer has next to no gradient. A number is drawn from a
    normal distribution of variance 1 around what the model says.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits: Tensor = model(**inputs).logits.float()
    if task == "multi_label":
        return torch.bernoulli(logits.sigmoid(), generator=generator)
    if task == "single_label":
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return logits.squeeze(-1) + torch.randn(len(logits), generator=generator, device=logits.device)


def taylor(found: Gradients) -> Importance:
    """First-order Taylor expansion of the loss when a mask goes from 1 to 0: the mean of abs(gradient * mask).

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", with gates as there; absolute values in
    place of squares, as Michel et al. 2019 ("Are Sixteen Heads Really Better than One?") have it for heads.
    """
    return Importance(*(each.double().abs().mean(0) for each in (found.heads, found.neurons, found.hidden)))


def fisher(found: Gradients) -> Importance:
    """The diagonal of the empirical Fisher information of the masks: the mean of squared gradients.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", equations 7 to 9: near a minimum of the
    loss the gradient is 0 and the Fisher stands in for the Hessian, so that removing a part costs half of its entry.
    """
    return Importance(*(each.double().square().mean(0) for each in (found.heads, found.neurons, found.hidden)))
