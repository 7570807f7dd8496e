"""The knapsack against every assignment there is, and against an optimum that was planted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from optimizer.quantize import allocate
from optimizer.quantize.allocate import Infeasible, within_bytes, within_loss

Table = dict[str, dict[int, float]]


def drawn(seed: int, scale: int) -> tuple[Table, dict[tuple[str, int], int]]:
    """Five units with one to four choices, named by numbers; losses and bytes have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    table = {f"unit {i}": {k: float(rng.uniform()) for k in range(rng.integers(1, 5))} for i in range(5)}
    return table, {(unit, k): scale * int(rng.integers(1, 400)) for unit, choices in table.items() for k in choices}


def every(table: Table, cost: dict[tuple[str, int], int]) -> list[tuple[int, float]]:
    """Bytes and loss of each assignment."""
    return [total(dict(zip(table, each, strict=True)), table, cost) for each in itertools.product(*table.values())]


def total(found: dict[str, int], table: Table, cost: dict[tuple[str, int], int]) -> tuple[int, float]:
    assert [*found] == [*table]
    return sum(cost[each] for each in found.items()), sum(table[unit][k] for unit, k in found.items())


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_of_all_assignments(seed: int) -> None:
    table, cost = drawn(seed, 128)
    assignments = every(table, cost)
    smallest, largest = min(assignments)[0], max(assignments)[0]
    for share in (0.0, 0.2, 0.5, 0.9, 2.0):
        budget = int(smallest + share * (largest - smallest))
        size, loss = total(within_bytes(table, lambda *each: cost[each], budget), table, cost)
        assert size <= budget
        assert loss == pytest.approx(min(loss for size, loss in assignments if size <= budget))
        size, least = total(within_loss(table, lambda *each: cost[each], loss + 1e-9), table, cost)
        assert least <= loss + 1e-9
        assert size == min(size for size, each in assignments if each <= loss + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_on_a_coarse_grid_it_is_off_by_at_most_a_cell_a_unit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocate, "CELLS", 50)
    table, cost = drawn(seed, 1009)
    assignments = every(table, cost)
    smallest, largest = min(assignments)[0], max(assignments)[0]
    step = -(-(largest - smallest) // 50)
    budget = (smallest + largest) // 2
    size, loss = total(within_bytes(table, lambda *each: cost[each], budget), table, cost)
    assert size <= budget
    assert loss <= min(loss for size, loss in assignments if size <= budget - len(table) * step) + 1e-12
    size, _ = total(within_loss(table, lambda *each: cost[each], loss), table, cost)
    assert size <= min(size for size, each in assignments if each <= loss) + len(table) * step


def test_a_planted_optimum_is_found_among_many_units() -> None:
    """Half of 60 units lose a thousand times as much in 4 bits: with room for half of the rest in 8, they get it."""
    units = range(60)
    table = {unit: {4: 1.0 if unit % 2 else 1e-3, 8: 1e-6} for unit in units}
    found = within_bytes(table, lambda unit, bits: bits * 3001, 60 * 4 * 3001 + 30 * 4 * 3001 + 1)
    assert found == {unit: 8 if unit % 2 else 4 for unit in units}
    assert within_loss(table, lambda unit, bits: bits * 3001, 30 * 1e-6 + 30 * 1e-3 + 1e-9) == found


def test_of_equal_losses_the_fewest_bytes_and_then_the_first_choice() -> None:
    table = {"one": {"large": 1.0, "small": 1.0, "as small": 1.0}, "two": {"only": 0.5}}
    sizes = {"large": 9, "small": 3, "as small": 3, "only": 7}
    assert within_bytes(table, lambda _, choice: sizes[choice], 100) == {"one": "small", "two": "only"}
    assert within_loss(table, lambda _, choice: sizes[choice], 1.5) == {"one": "small", "two": "only"}
    assert within_bytes({}, lambda _, choice: 1, 0) == {}


def test_what_cannot_be_kept_says_the_least_that_can() -> None:
    table = {"one": {4: 0.2, 8: 0.1}, "two": {4: 0.4}}
    with pytest.raises(Infeasible, match=r"A budget of 7,999 bytes cannot be kept: .* 8,000") as found:
        within_bytes(table, lambda _, bits: 1000 * bits, 7999)
    assert found.value.least == 8000
    with pytest.raises(Infeasible, match=r"A loss of 0\.4 cannot be kept: .* 0\.5") as found:
        within_loss(table, lambda _, bits: 1000 * bits, 0.4)
    assert found.value.least == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no choice for two: each unit needs at least one"):
        within_bytes({"one": {4: 0.1}, "two": {}}, lambda _, bits: bits, 100)
