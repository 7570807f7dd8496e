"""Which of its choices each unit of a model gets, so that a budget is kept: a multiple-choice knapsack.

Losses are taken to add up over the units, as the linearity theorem has it for small errors of the weights (Malinovskii
et al. 2024, "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bantam.errors import StageError

Unit = TypeVar("Unit", bound=Hashable)
Choice = TypeVar("Choice")

CELLS = 20_000
"""Of the grid of bytes, at most."""


class Infeasible(StageError):
    """No assignment keeps the budget."""

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message)
        self.least = least
        """The smallest budget that can be kept, in bytes or in loss."""


class ByteCells(NamedTuple):
    """The bytes of each choice of each unit above those of the unit's smallest, in cells."""

    step: int
    """Bytes of a cell."""
    cells: list[list[int]]
    """``[units][choices]``, rounded up."""
    least: int
    """Bytes of the smallest assignment."""


def within_bytes(
    table: Mapping[Unit, Mapping[Choice, float]], cost: Callable[[Unit, Choice], int], budget: int
) -> dict[Unit, Choice]:
    """The assignment of least loss that takes at most ``budget`` bytes.

    ``table``: unit -> its choices -> the loss of each; ``cost``: bytes of a choice. Of equal losses, the one of fewer
    bytes; of equal ones in both, the choices that come first. Bytes are counted in cells of a grid: in
    the greatest common divisor of all differences if the budget leaves at most :data:`CELLS` of them, and then the
    result is the optimum. Otherwise a cell is ``step = ceil(spare / CELLS)`` bytes, where ``spare`` is what the budget
    leaves above the smallest assignment, costs are rounded up to it, the budget is still kept, and no assignment of at
    most ``budget - units * step`` bytes loses less.

    Raises :class:`Infeasible` if the smallest assignment takes more than the budget; ``ValueError`` for a unit without
    a choice.
    """
    grid = _grid(table, cost, budget)
    if budget < grid.least:
        raise Infeasible(
            f"A budget of {budget:,} bytes cannot be kept: the smallest assignment takes {grid.least:,}.", grid.least
        )
    losses, taken = _filled(table, grid, (budget - grid.least) // grid.step)
    return _assignment(table, grid, taken, int(np.argmin(losses)))


def within_loss(
    table: Mapping[Unit, Mapping[Choice, float]], cost: Callable[[Unit, Choice], int], budget: float
) -> dict[Unit, Choice]:
    """The assignment of fewest bytes that loses at most ``budget``; see :func:`within_bytes`.

    Bytes are the fewest, or, with a grid coarser than the differences, at most ``units * step`` more. Raises
    :class:`Infeasible` if even the least loss is more than the budget.
    """
    largest = sum(max(cost(unit, choice) for choice in choices) for unit, choices in table.items() if choices)
    grid = _grid(table, cost, largest)
    losses, taken = _filled(table, grid, sum(max(cells) for cells in grid.cells))
    keeps = np.flatnonzero(losses <= budget)
    if not len(keeps):
        least = float(losses.min())
        raise Infeasible(f"A loss of {budget:.3g} cannot be kept: the least that is possible is {least:.3g}.", least)
    return _assignment(table, grid, taken, int(keeps[0]))


def _grid(table: Mapping[Unit, Mapping[Choice, float]], cost: Callable[[Unit, Choice], int], budget: int) -> ByteCells:
    bare = [str(unit) for unit, choices in table.items() if not choices]
    if bare:
        raise ValueError(f"no choice for {', '.join(bare)}: each unit needs at least one")
    bytes_of = [[cost(unit, choice) for choice in choices] for unit, choices in table.items()]
    above = [[each - min(costs) for each in costs] for costs in bytes_of]
    least = sum(min(costs) for costs in bytes_of)
    spare = max(0, min(budget - least, sum(max(costs) for costs in above)))
    exact = math.gcd(*(each for costs in above for each in costs)) or 1
    step = exact if spare <= CELLS * exact else math.ceil(spare / CELLS)
    return ByteCells(step, [[math.ceil(each / step) for each in costs] for costs in above], least)


def _filled(
    table: Mapping[Unit, Mapping[Choice, float]], grid: ByteCells, limit: int
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Least loss of all units with exactly so many cells, ``[cells]``, and the last choice of each unit there.

    Bellman's recursion: ``f_u(c) = min over choices k of f_(u-1)(c - cells_uk) + loss_uk``, ``f_0(0) = 0``.
    """
    limit = min(limit, sum(max(cells) for cells in grid.cells))
    losses = np.full(limit + 1, np.inf)
    losses[0] = 0.0
    taken: list[NDArray[np.int64]] = []
    for choices, cells in zip(table.values(), grid.cells, strict=True):
        options = np.full((len(cells), limit + 1), np.inf)
        for row, loss, size in zip(options, choices.values(), cells, strict=True):
            if size <= limit:
                row[size:] = losses[: limit + 1 - size] + loss
        taken.append(options.argmin(axis=0))
        losses = options.min(axis=0)
    return losses, taken


def _assignment(
    table: Mapping[Unit, Mapping[Choice, float]], grid: ByteCells, taken: list[NDArray[np.int64]], cell: int
) -> dict[Unit, Choice]:
    """The choices that led to this cell, from the last unit back to the first."""
    found: dict[Unit, Choice] = {}
    for (unit, choices), cells, of_cell in reversed(list(zip(table.items(), grid.cells, taken, strict=True))):
        index = int(of_cell[cell])
        found[unit] = list(choices)[index]
        cell -= cells[index]
    return dict(reversed(found.items()))
