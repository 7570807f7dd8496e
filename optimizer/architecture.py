"""Where the parts of a transformer are (blocks, projections, heads, feed-forward neurons) and what they cost.

Distillation, pruning and the surgery of both look at a model through this module; none names an architecture itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from bantam.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Layer:
    """One transformer block; shapes are those of the weights."""

    module: nn.Module
    """Its forward returns hidden states ``[batch, tokens, hidden]``, or a tuple that begins with them."""
    query: nn.Linear
    """``[heads * head_dim, hidden]``."""
    key: nn.Linear
    """``[key_value_heads * head_dim, hidden]``."""
    value: nn.Linear
    """``[key_value_heads * head_dim, hidden]``."""
    output: nn.Linear
    """Attention's output projection, ``[hidden, heads * head_dim]``."""
    up: tuple[nn.Linear, ...]
    """Into the feed-forward neurons, ``[neurons, hidden]``: one, or gate and up where the neurons are gated."""
    down: nn.Linear
    """Out of the feed-forward neurons, ``[hidden, neurons]``."""


@dataclass(frozen=True)
class Anatomy:
    """The blocks of a model, first to last, and their sizes, which are the same in all of them."""

    layers: tuple[Layer, ...]
    heads: int
    key_value_heads: int
    """Fewer than ``heads`` where query heads share keys and values: heads i * group to (i + 1) * group - 1 use i."""
    head_dim: int
    hidden: int
    neurons: int
    tied: bool
    """The config cannot say head_dim: hidden = heads * head_dim must hold, so heads and hidden size shrink together."""

    @property
    def group(self) -> int:
        """Query heads for each key/value head."""
        return self.heads // self.key_value_heads


@dataclass(frozen=True)
class _Paths:
    """Names of the parts inside a block."""

    query: str
    key: str
    value: str
    output: str
    up: tuple[str, ...]
    down: str
    tied: bool = True


_BERT = _Paths(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up=("intermediate.dense",),
    down="output.dense",
)
_DISTILBERT = _Paths(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    up=("ffn.lin1",),
    down="ffn.lin2",
)
_MPNET = _Paths(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    up=("intermediate.dense",),
    down="output.dense",
)
_LLAMA = _Paths(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    tied=False,
)

_FAMILIES = {
    "bert": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of the model's blocks; they are the model's own modules, not copies.

    Raises :class:`ModelError` for an architecture that is not known here, such as one with fused projections.
    """
    paths = _FAMILIES.get(model.config.model_type)
    if paths is None:
        raise ModelError(
            f"A {model.config.model_type} model cannot be taken apart into heads and neurons. "
            f"Possible with: {', '.join(sorted(_FAMILIES))}. Whole layers can still be removed."
        )
    layers = tuple(
        Layer(
            module=block,
            query=_linear(block, paths.query),
            key=_linear(block, paths.key),
            value=_linear(block, paths.value),
            output=_linear(block, paths.output),
            up=tuple(_linear(block, path) for path in paths.up),
            down=_linear(block, paths.down),
        )
        for block in blocks(model)
    )
    heads = int(model.config.num_attention_heads)
    head_dim = layers[0].query.out_features // heads
    return Anatomy(
        layers,
        heads=heads,
        key_value_heads=layers[0].key.out_features // head_dim,
        head_dim=head_dim,
        hidden=layers[0].query.in_features,
        neurons=layers[0].down.in_features,
        tied=paths.tied,
    )


def _linear(block: nn.Module, path: str) -> nn.Linear:
    part = block.get_submodule(path)
    if not isinstance(part, nn.Linear):
        raise ModelError(f"{path} of {type(block).__name__} is a {type(part).__name__}; expected a plain Linear.")
    return part


def blocks(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """The transformer blocks, first to last; of every architecture that has one list of ``num_hidden_layers`` of them.

    Raises :class:`ModelError` where there is no such list, as with layers that share their weights (albert), or two, as
    with an encoder and a decoder.
    """
    return tuple(model.get_submodule(blocks_path(model)).children())


def blocks_path(model: PreTrainedModel) -> str:
    """Dotted name of the list of blocks, such as ``bert.encoder.layer``. Raises like :func:`blocks`."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    modules: list[tuple[str, nn.Module]] = list(model.named_modules())
    found = [name for name, part in modules if isinstance(part, nn.ModuleList) and len(part) == count]
    if len(found) != 1:
        raise ModelError(
            f"A {model.config.model_type} model with {count} layers has {len(found) or 'no'} lists of so many blocks. "
            "Expected exactly one: unshared layers, and no decoder beside an encoder. Use another model."
        )
    return found[0]


def flops(
    parts: Anatomy,
    tokens: int,
    *,
    heads: int | None = None,
    key_value_heads: int | None = None,
    neurons: int | None = None,
    hidden: int | None = None,
) -> int:
    """Multiply-adds of all blocks for one text of ``tokens`` tokens; with other sizes where they are given.

    Counted are the matrix products: the projections and the feed-forward network, each weight once per token, and
    attention's two own products, tokens x tokens x head_dim per head. Embeddings, norms, activations and the classifier
    are left out: they are small, and pruning of blocks does not touch them. A multiply-add is one here, not two.
    ``key_value_heads`` follows ``heads`` where every head has its own keys and values.
    """
    heads = parts.heads if heads is None else heads
    if key_value_heads is None:
        key_value_heads = heads if parts.group == 1 else parts.key_value_heads
    neurons = parts.neurons if neurons is None else neurons
    hidden = parts.hidden if hidden is None else hidden
    projections = 2 * (heads + key_value_heads) * parts.head_dim * hidden
    feed_forward = (len(parts.layers[0].up) + 1) * neurons * hidden
    attention = 2 * tokens * heads * parts.head_dim
    return len(parts.layers) * tokens * (projections + feed_forward + attention)
