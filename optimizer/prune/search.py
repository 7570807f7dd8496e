"""Which heads, neurons and hidden dimensions stay under a target: Kwon et al. 2022, for uniform sizes.

Kwon et al. remove what is cheapest in the whole model, so that layers end in different sizes. A config of transformers
says one size for all layers; the search is therefore over pairs (heads, neurons) a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from bantam.errors import StageError
from optimizer.architecture import Anatomy, flops
from optimizer.prune.importance import Gradients
from optimizer.surgery.importance import Importance


@dataclass(frozen=True)
class Size:
    """Sizes of every layer."""

    heads: int
    key_value_heads: int
    neurons: int
    hidden: int


Cost = Callable[[Size], float]
"""What a model of a size costs, in any unit."""


@dataclass(frozen=True)
class Space:
    """The sizes that a model can be cut to."""

    parts: Anatomy
    keep_hidden: bool = False
    """Where heads and hidden size are tied, this keeps the heads, too."""

    @property
    def unit(self) -> int:
        """Heads go by so many: those that share keys and values go together, unless all heads share the same."""
        return self.parts.group if self.parts.key_value_heads > 1 else 1

    @property
    def head_counts(self) -> list[int]:
        """Numbers of heads, ascending."""
        parts = self.parts
        if parts.tied:
            return [parts.heads] if self.keep_hidden else list(range(1, parts.heads + 1))
        # What llama's config asks for.
        return [n for n in range(self.unit, parts.heads + 1, self.unit) if parts.hidden % n == 0 or n == parts.heads]

    @property
    def neuron_counts(self) -> list[int]:
        """Numbers of neurons, ascending; in large models multiples of 16, which is a vector register of floats."""
        step = 16 if self.parts.neurons >= 256 else 1
        return [*range(step, self.parts.neurons, step), self.parts.neurons]

    def size(self, heads: int, neurons: int) -> Size:
        """The whole size that goes with so many heads and neurons."""
        parts = self.parts
        hidden = heads * parts.head_dim if parts.tied and not self.keep_hidden else parts.hidden
        return Size(heads, max(1, heads // parts.group), neurons, hidden)

    @property
    def full(self) -> Size:
        """The model as it is."""
        return Size(self.parts.heads, self.parts.key_value_heads, self.parts.neurons, self.parts.hidden)

    def flops(self, tokens: int) -> Cost:
        """Multiply-adds of the blocks for one text of so many tokens."""
        return lambda size: float(flops(self.parts, tokens, **asdict(size)))


@dataclass(frozen=True)
class Selection:
    """What stays, as indices in ascending order: heads and neurons for each layer, hidden dimensions for all."""

    size: Size
    heads: list[list[int]]
    neurons: list[list[int]]
    hidden: list[int]
    lost: float
    """Summed importance of what goes."""


def select(
    space: Space,
    importance: Importance,
    cost: Cost,
    ratio: float,
    *,
    gradients: Gradients | None = None,
    same_heads: bool = False,
) -> Selection:
    """The size that costs at most ``ratio`` of the full one and loses the least importance, and what stays in it.

    For each number of heads the most neurons that the target allows are looked at. With ``gradients`` the choice inside
    each layer is rearranged by the block Fisher; ``same_heads`` makes all layers keep the same heads (mpnet's shared
    position biases). Raises :class:`StageError` if no size is small enough; the message says what can be reached.
    """
    if same_heads:
        importance = replace(importance, heads=importance.heads.mean(0, keepdim=True).expand_as(importance.heads))
    heads = importance.heads.unflatten(1, (-1, space.unit)).sum(2)
    size = _cheapest(space, replace(importance, heads=heads), cost, ratio)
    # Gradients of heads that go together add up, like their masks.
    by_unit = gradients.heads.unflatten(2, (-1, space.unit)).sum(3) if gradients and not same_heads else None
    units = _kept(heads, size.heads // space.unit, by_unit)
    neurons = _kept(importance.neurons, size.neurons, gradients.neurons if gradients else None)
    return Selection(
        size,
        heads=[[unit * space.unit + i for unit in chosen for i in range(space.unit)] for chosen in units],
        neurons=neurons,
        hidden=_largest(importance.hidden, size.hidden),
        lost=_lost(space, replace(importance, heads=heads), size),
    )


def _cheapest(space: Space, importance: Importance, cost: Cost, ratio: float) -> Size:
    limit = ratio * cost(space.full)
    within: list[Size] = []
    for heads in space.head_counts:
        sizes = (space.size(heads, neurons) for neurons in reversed(space.neuron_counts))
        largest = next((size for size in sizes if cost(size) <= limit), None)
        within += [largest] if largest else []
    if not within:
        smallest = min(cost(space.size(heads, space.neuron_counts[0])) for heads in space.head_counts)
        raise StageError(
            f"A ratio of {ratio:g} cannot be reached by removing heads and neurons"
            f"{' while keep_hidden = true' if space.keep_hidden else ''}. Expected at least "
            f"{math.ceil(1e3 * smallest / cost(space.full)) / 1e3:g}; remove layers to get below."
        )
    return min(within, key=lambda size: _lost(space, importance, size))


def _lost(space: Space, importance: Importance, size: Size) -> float:
    """Summed importance of the least important parts, as many as go; ``importance.heads`` is by units."""
    counts = (size.heads // space.unit, size.neurons, size.hidden)
    kinds = (importance.heads, importance.neurons, importance.hidden)
    return sum(float(kind.sum() - kind.topk(n, dim=-1).values.sum()) for kind, n in zip(kinds, counts, strict=True))


def _kept(scores: Tensor, count: int, gradients: Tensor | None) -> list[list[int]]:
    """Indices that stay in each layer, from scores ``[layers, n]`` and gradients ``[texts, layers, n]``."""
    if gradients is None:
        return [_largest(layer, count) for layer in scores]
    return [rearranged(gradients[:, index], count) for index in range(len(scores))]


def _largest(scores: Tensor, count: int) -> list[int]:
    return sorted(scores.topk(count).indices.tolist())


def rearranged(gradients: Tensor, count: int) -> list[int]:
    """The ``count`` parts of a layer that stay, so that those that go cost little together; ascending indices.

    Kwon et al. 2022, section 4.2: with masks m the loss changes by (1 - m)' F (1 - m) / 2, where F is the layer's block
    of the Fisher, the mean over texts of g g' for gradients g ``[texts, n]``. From the diagonal's solution on, each
    part that stays, least important first, changes places with the one that goes for which this lowers the cost most,
    if any. By hand: no library has it.
    """
    g = gradients.double()
    block = g.T @ g / len(g)
    diagonal = block.diagonal()
    order = diagonal.argsort()
    going = torch.zeros(len(order), dtype=torch.bool)
    going[order[: len(order) - count]] = True
    # The cost without part j is (cost - 2 (F s)_j + F_jj), s the indicator of what goes.
    product = block[:, going].sum(1)
    for candidate in order[len(order) - count :].tolist() if going.any() else []:
        going[candidate] = True
        product += block[:, candidate]
        spared = int((diagonal - 2 * product).masked_fill(~going, torch.inf).argmin())
        going[spared] = False
        product -= block[:, spared]
    return (~going).nonzero().flatten().tolist()
