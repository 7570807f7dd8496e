"""The search keeps what matters, reaches its target, and says what can be reached."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from bantam.errors import StageError
from optimizer.architecture import Anatomy, Layer, flops
from optimizer.prune.importance import Gradients, fisher
from optimizer.prune.search import Size, Space, rearranged, select
from optimizer.surgery.importance import Importance

LAYERS, TOKENS = 2, 24


def parts_of(
    *, heads: int = 4, key_value_heads: int = 4, dim: int = 8, neurons: int = 64, tied: bool = True
) -> Anatomy:
    """Sizes only: no weight is looked at."""
    linear = nn.Linear(1, 1)
    up = (linear,) if tied else (linear, linear)
    layer = Layer(nn.Identity(), linear, linear, linear, linear, up, linear)
    return Anatomy((layer,) * LAYERS, heads, key_value_heads, dim, heads * dim, neurons, tied)


def equal(parts: Anatomy, *, heads: float = 1.0, neurons: float = 1.0, hidden: float = 1.0) -> Importance:
    """All parts of one kind matter as much, but for an order that makes the choice unique: later parts matter more."""

    def rising(*shape: int) -> torch.Tensor:
        return 1 + 1e-6 * torch.arange(shape[-1], dtype=torch.float64).expand(shape)

    return Importance(
        heads * rising(LAYERS, parts.heads), neurons * rising(LAYERS, parts.neurons), hidden * rising(parts.hidden)
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_the_target_is_reached_and_not_by_more_than_a_neuron(tied: bool, ratio: float) -> None:
    space = Space(parts_of(tied=tied))
    cost = space.flops(TOKENS)
    chosen = select(space, equal(space.parts), cost, ratio)
    more = space.size(chosen.size.heads, chosen.size.neurons + 1)
    assert cost(chosen.size) <= ratio * cost(space.full)
    assert chosen.size.neurons == space.full.neurons or cost(more) > ratio * cost(space.full)
    assert {len(layer) for layer in chosen.neurons} == {chosen.size.neurons}
    assert {len(layer) for layer in chosen.heads} == {chosen.size.heads}
    assert len(chosen.hidden) == chosen.size.hidden == (8 * chosen.size.heads if tied else 32)
    assert cost(space.full) == flops(space.parts, TOKENS)


def test_planted_parts_stay() -> None:
    space = Space(parts_of())
    importance = equal(space.parts)
    importance.heads[0, 1] = importance.heads[1, 3] = 50
    importance.neurons[1, 2] = 50
    importance.hidden[5] = 50
    chosen = select(space, importance, space.flops(TOKENS), 0.3)
    assert 1 in chosen.heads[0]
    assert 3 in chosen.heads[1]
    assert 2 in chosen.neurons[1]
    assert 5 in chosen.hidden
    assert chosen.lost < 50


def test_the_cheapest_pair_wins() -> None:
    space = Space(parts_of())
    cost = space.flops(TOKENS)
    neurons_matter = select(space, equal(space.parts, heads=1e-3, hidden=1e-3), cost, 0.7)
    heads_matter = select(space, equal(space.parts, neurons=1e-3), cost, 0.7)
    assert neurons_matter.size.neurons > heads_matter.size.neurons
    assert heads_matter.size.heads == 4
    importance = equal(space.parts)
    chosen = select(space, importance, cost, 0.5)
    every = [space.size(h, n) for h, n in itertools.product(space.head_counts, space.neuron_counts)]
    losses = [
        LAYERS * (4 - size.heads) + LAYERS * (64 - size.neurons) + 32 - size.hidden
        for size in every
        if cost(size) <= 0.5 * cost(space.full)
    ]
    assert chosen.lost == pytest.approx(min(losses), abs=0.01)


def test_kept_hidden_keeps_the_heads_that_are_tied_to_it() -> None:
    space = Space(parts_of(), keep_hidden=True)
    chosen = select(space, equal(space.parts), space.flops(TOKENS), 0.7)
    assert (chosen.size.heads, chosen.size.hidden) == (4, 32)
    assert chosen.hidden == list(range(32))


def test_heads_that_share_keys_and_values_go_together() -> None:
    space = Space(parts_of(key_value_heads=2, tied=False))
    importance = equal(space.parts, neurons=10)
    importance.heads[0, 0] = importance.heads[1, 2] = 5
    chosen = select(space, importance, space.flops(TOKENS), 0.85)
    assert chosen.heads == [[0, 1], [2, 3]]
    assert chosen.size.key_value_heads == 1
    assert Space(parts_of(key_value_heads=1, tied=False)).head_counts == [1, 2, 4]
    assert Space(parts_of(key_value_heads=1, tied=False)).size(2, 64).key_value_heads == 1


def test_layers_that_share_position_biases_keep_the_same_heads() -> None:
    space = Space(parts_of())
    importance = equal(space.parts, neurons=10)
    importance.heads[0, 1] = importance.heads[1, 3] = 5
    importance.heads[1, 0] = 2
    gradients = torch.rand(5, LAYERS, 4), torch.rand(5, LAYERS, 64), torch.rand(5, 32)
    for found in (None, Gradients(*gradients)):
        chosen = select(space, importance, space.flops(TOKENS), 0.6, gradients=found, same_heads=True)
        assert chosen.heads[0] == chosen.heads[1]
        assert len(chosen.heads[0]) < 4


def test_an_unreachable_target_says_what_can_be_reached() -> None:
    space = Space(parts_of(), keep_hidden=True)
    cost = space.flops(TOKENS)
    with pytest.raises(
        StageError, match=r"0\.01 cannot be reached .* keep_hidden = true. Expected at least 0\.\d+"
    ) as got:
        select(space, equal(space.parts), cost, 0.01)
    said = float(str(got.value).split("at least ")[1].split(";")[0])
    assert select(space, equal(space.parts), cost, said).size.neurons == 1


@pytest.mark.parametrize("seed", range(5))
def test_rearranging_lowers_the_cost_of_what_goes_together(seed: int) -> None:
    # Few texts, so that gradients of different parts are strongly correlated.
    gradients = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def cost(going: list[int]) -> float:
        return float(gradients[:, going].sum(1).square().mean())

    by_diagonal = gradients.square().mean(0).argsort()[:5].tolist()
    kept = rearranged(gradients, 7)
    going = [i for i in range(12) if i not in kept]
    assert len(kept) == 7
    assert cost(going) == pytest.approx(cost(greedy(gradients, by_diagonal)))
    assert cost(going) < cost(by_diagonal)


def greedy(gradients: torch.Tensor, going: list[int]) -> list[int]:
    """The same by trying out each exchange."""
    order = gradients.square().mean(0).argsort().tolist()
    for candidate in order[len(going) :]:
        options = [[*going[:i], *going[i + 1 :], candidate] for i in range(len(going))] + [going]
        going = min(options, key=lambda option: float(gradients[:, option].sum(1).square().mean()))
    return going


def test_the_search_rearranges_with_gradients() -> None:
    space = Space(parts_of(neurons=8))
    draw = torch.Generator().manual_seed(3)
    found = Gradients(*(torch.randn(shape, generator=draw) for shape in ((4, LAYERS, 4), (4, LAYERS, 8), (4, 32))))
    plain = select(space, fisher(found), space.flops(TOKENS), 0.6)
    chosen = select(space, fisher(found), space.flops(TOKENS), 0.6, gradients=found)
    assert chosen.size == plain.size
    assert chosen.neurons == [rearranged(found.neurons[:, i], chosen.size.neurons) for i in range(LAYERS)]
    assert chosen.neurons != plain.neurons


def test_any_cost_can_be_the_target() -> None:
    space = Space(parts_of())

    def only_neurons_take_time(size: Size) -> float:
        return 1 + size.neurons

    chosen = select(space, equal(space.parts), only_neurons_take_time, 0.5)
    assert chosen.size == space.size(4, 31)
