"""Make a model narrower: fewer attention heads, feed-forward neurons and hidden dimensions, in smaller matrices.

transformers' configs say one number of heads and neurons for all layers, so each layer keeps as many as the others,
but may keep other ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bantam.errors import StageError
from optimizer.architecture import Anatomy, anatomy
from optimizer.surgery.rebuild import fill, resized, selection


@dataclass(frozen=True)
class _Kept:
    """Indices that stay, checked; the lists in lists have an entry for each layer."""

    heads: list[list[int]]
    key_value_heads: list[list[int]]
    neurons: list[list[int]]
    hidden: list[int]


def keep_width(
    model: PreTrainedModel,
    *,
    heads: Sequence[Sequence[int]] | None = None,
    neurons: Sequence[Sequence[int]] | None = None,
    hidden: Sequence[int] | None = None,
) -> PreTrainedModel:
    """A new model with only these heads and neurons of each layer, and these dimensions of the hidden states.

    ``heads[layer]`` and ``neurons[layer]`` are indices in ascending order, as many in each layer; ``hidden`` are
    indices of the residual stream, the same in all layers; absent means all. ``model`` stays as it is. Without
    ``hidden`` the new model computes what ``model`` would with the outputs of the other heads and neurons at zero.

    Where :attr:`Anatomy.tied`, ``len(hidden)`` is ``len(heads[0]) * head_dim``. Where query heads share keys and
    values, those that stay are whole groups, or as many of each group that stays.

    Raises :class:`ModelError` for an architecture that cannot be taken apart, :class:`StageError` for a selection that
    breaks the above or that the architecture has no config for (llama: the number of heads divides the hidden size).
    """
    parts = anatomy(model)
    kept = _checked(parts, heads, neurons, hidden)
    new = resized(model, _sizes(model, parts, kept))
    targets = new.state_dict()
    cuts = _cuts(parts, kept)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        shape = targets[name].shape if name in targets else tensor.shape  # a name that is not there is told by fill
        axes = cuts[tensor] if tensor in cuts else _axes(name, tensor.shape, shape, parts, kept)
        weights[name] = _select(tensor.detach(), axes)
    return fill(new, weights)


def _checked(
    parts: Anatomy,
    heads: Sequence[Sequence[int]] | None,
    neurons: Sequence[Sequence[int]] | None,
    hidden: Sequence[int] | None,
) -> _Kept:
    """The selection in full. Raises :class:`StageError` if there can be no such model."""
    kept_heads = _of_layers("heads", heads, parts.heads, len(parts.layers))
    groups = [_groups(chosen, parts.group) for chosen in kept_heads]
    if len({len(group) for group in groups}) > 1:
        raise StageError(
            f"heads to keep: they use the keys and values {groups}. "
            "Expected as many key/value heads in each layer: keep whole groups of heads."
        )
    kept_hidden = selection("hidden dimensions", range(parts.hidden) if hidden is None else hidden, range(parts.hidden))
    wanted = len(kept_heads[0]) * parts.head_dim
    if parts.tied and len(kept_hidden) != wanted:
        raise StageError(
            f"Got {len(kept_heads[0])} heads of size {parts.head_dim} and {len(kept_hidden)} hidden dimensions. "
            f"This architecture has as many hidden dimensions as its heads together: keep {wanted}, or other heads."
        )
    return _Kept(
        kept_heads, groups, _of_layers("neurons", neurons, parts.neurons, len(parts.layers)), hidden=kept_hidden
    )


def _of_layers(what: str, kept: Sequence[Sequence[int]] | None, available: int, layers: int) -> list[list[int]]:
    """What stays in each layer, all if nothing is said."""
    if kept is None:
        return [list(range(available)) for _ in range(layers)]
    counts = [len(chosen) for chosen in kept]
    if len(counts) != layers or len(set(counts)) > 1:
        raise StageError(
            f"{what} to keep: got {counts} of them. Expected one selection for each of {layers} layers, all of the "
            "same size, because the config says one size for all layers."
        )
    return [selection(f"{what} of layer {layer}", chosen, range(available)) for layer, chosen in enumerate(kept)]


def _groups(heads: list[int], group: int) -> list[int]:
    """Key/value heads that these query heads use. Raises :class:`StageError` if some would serve more than others."""
    members = [head // group for head in heads]
    used = sorted(set(members))
    if len({members.count(one) for one in used}) > 1:
        raise StageError(
            f"heads to keep: got {heads}, where each {group} in a row share keys and values. "
            "Expected whole groups, or the same number of heads in each group that stays."
        )
    return used


def _sizes(model: PreTrainedModel, parts: Anatomy, kept: _Kept) -> dict[str, Any]:
    """What changes in the config."""
    config = model.config
    neurons = "intermediate_size" if hasattr(config, "intermediate_size") else "hidden_dim"  # distilbert
    sizes: dict[str, Any] = {
        "num_attention_heads": len(kept.heads[0]),
        "hidden_size": len(kept.hidden),
        neurons: len(kept.neurons[0]),
    }
    if hasattr(config, "num_key_value_heads"):
        sizes["num_key_value_heads"] = len(kept.key_value_heads[0])
    if not parts.tied:
        sizes["head_dim"] = parts.head_dim
    if getattr(config, "embedding_size", None) == parts.hidden:  # electra: of equal sizes, it has no projection
        sizes["embedding_size"] = len(kept.hidden)
    return sizes


Axes = tuple[Sequence[int] | None, ...]
"""For each dimension of a tensor the indices that stay; None for all."""


def _cuts(parts: Anatomy, kept: _Kept) -> dict[Tensor, Axes]:
    """What stays of the weights and biases whose rows or columns are heads or neurons."""
    cuts: dict[Tensor, Axes] = {}

    def cut(linear: nn.Linear, rows: Sequence[int], columns: Sequence[int]) -> None:
        cuts[linear.weight] = (rows, columns)
        if linear.bias is not None:
            cuts[linear.bias] = (rows,)

    for index, layer in enumerate(parts.layers):
        queries = _rows(kept.heads[index], parts.head_dim)
        keys = _rows(kept.key_value_heads[index], parts.head_dim)
        cut(layer.query, queries, kept.hidden)
        cut(layer.key, keys, kept.hidden)
        cut(layer.value, keys, kept.hidden)
        cut(layer.output, kept.hidden, queries)
        for up in layer.up:
            cut(up, kept.neurons[index], kept.hidden)
        cut(layer.down, kept.hidden, kept.neurons[index])
    return cuts


def _rows(heads: list[int], head_dim: int) -> list[int]:
    return [head * head_dim + row for head in heads for row in range(head_dim)]


def _axes(name: str, old: torch.Size, new: torch.Size, parts: Anatomy, kept: _Kept) -> Axes:
    """What stays of any other tensor (embeddings, norms, pooler, classifier): where its new shape differs from its old.

    It differs only where its size comes from the config's hidden size or, in mpnet's position biases, number of heads.
    """

    def axis(before: int, after: int) -> Sequence[int] | None:
        if before == after:
            return None
        if (before, after) == (parts.hidden, len(kept.hidden)):
            return kept.hidden
        if (before, after) == (parts.heads, len(kept.heads[0])) and all(kept.heads[0] == each for each in kept.heads):
            return kept.heads[0]
        raise StageError(
            f"{name} cannot be cut from {list(old)} to {list(new)} with other heads in each layer: they share it. "
            "Expected the same heads in all layers."
        )

    return tuple(axis(before, after) for before, after in zip(old, new, strict=True))


def _select(tensor: Tensor, axes: Axes) -> Tensor:
    for dimension, indices in enumerate(axes):
        if indices is not None:
            tensor = tensor.index_select(dimension, torch.tensor(indices, device=tensor.device))
    return tensor.clone() if all(indices is None for indices in axes) else tensor
