"""Grids that round normally distributed numbers with the least mean squared error, by Lloyd's algorithm.

A grid has n points in p dimensions; its distortion is what HIGGS (Malinovskii et al. 2024, section 4) calls t^2(G)::

    t^2(G) = 1/p  E min_i |x - G_i|^2,    x ~ N(0, I_p)

Lloyd's algorithm takes turns: each x goes to its nearest point, and each point to the mean of what went to it. By hand,
because libraries cluster samples, while in one dimension the means are known in closed form (Max 1960).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PLANES = Path(__file__).with_name("normal_grids.json")
"""Grids of two dimensions, by their number of points, as ``python -m optimizer.quantize.grids`` makes them: it takes a
minute, and rounds otherwise with another numpy."""
RADIUS = 5.2
"""Of the numerical integral in two dimensions: farther out are 1e-6 of all x."""


@functools.cache
def normal_grid(bits: int, dimensions: int) -> Floats:
    """The grid of ``2 ** (bits * dimensions)`` points, ``[points, dimensions]``, for ``dimensions`` 1 or 2.

    Points are in ascending order in one dimension, and of ascending distance from 0 in two.
    """
    points = 2 ** (bits * dimensions)
    if dimensions == 1:
        return _line(points)[:, None]
    return np.array(json.loads(PLANES.read_text(encoding="utf-8"))[str(points)])


def uniform_grid(bits: int) -> Floats:
    """``2 ** bits`` evenly spaced points from -1, with 0 among them and without 1, ``[points, 1]``: integers."""
    half = 2 ** (bits - 1)
    return np.asarray(np.arange(-half, half)[:, None] / half, np.float64)


CLIPS = tuple(sign * tenths / 10 for tenths in range(12, 2, -1) for sign in (1, -1))
"""Scales that are tried, in units of a group's largest value. Of either sign: integers reach one step farther below."""


def clipped_scales(groups: NDArray[np.float32], grid: Floats) -> NDArray[np.float16]:
    """The scale of each group ``[rows, groups, 1]`` of :data:`CLIPS` with which rounding to ``grid`` loses least.

    ``groups``: ``[rows, groups, group_size]``. Rounding to nearest is known to lose less where large values are clipped
    (OCTAV, Sakr et al. 2022); with the largest value alone it would be a weak thing to compare with.
    """
    largest = np.abs(groups).max(axis=2, keepdims=True)
    best: NDArray[np.float16] = largest.astype(np.float16)
    least = np.full(largest.shape, np.inf)
    for part in CLIPS:
        half = (part * largest).astype(np.float16)
        scales = half.astype(np.float32)
        divisor = np.where(scales, scales, 1).astype(np.float32)  # a padding token's group is all zeros
        codes = nearest((groups / divisor)[..., None], grid)
        loss = np.square(grid[codes, 0] * scales - groups).sum(axis=2, keepdims=True)
        best, least = np.where(loss < least, half, best), np.minimum(loss, least)
    return best


def nearest(values: NDArray[np.float32], grid: Floats) -> NDArray[np.uint8]:
    """Index of the nearest of the grid's points ``[n, p]``, n at most 256, to each of ``values`` ``[..., p]``."""
    if grid.shape[1] == 1:  # the nearest of ascending numbers changes half way between two of them
        return np.searchsorted((grid[1:, 0] + grid[:-1, 0]) / 2, values[..., 0]).astype(np.uint8)
    from scipy.spatial import KDTree

    return np.asarray(KDTree(grid).query(values)[1]).astype(np.uint8)


def _line(points: int) -> Floats:
    """Lloyd-Max: edges e_i are half way between points; the mean of x between two is (phi(e_i) - phi(e_i+1)) / mass."""
    from scipy.stats import norm

    grid: Floats = norm.ppf((np.arange(points) + 0.5) / points)
    for _ in range(10_000):
        edges = np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2, [np.inf]])
        before, grid = grid, -np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges))
        if np.abs(grid - before).max() < 1e-12:
            break
    return (grid - grid[::-1]) / 2  # it is symmetric, but for rounding


def lattice(step: float) -> tuple[Floats, Floats]:
    """Places ``[places, 2]`` and their share of N(0, I) ``[places]``, to sum integrals over."""
    axis = np.arange(-RADIUS, RADIUS, step) + step / 2
    places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    places = places[np.square(places).sum(axis=1) < RADIUS**2]
    mass = np.exp(-np.square(places).sum(axis=1) / 2)
    return places, mass / mass.sum()


def turn(grid: Floats, places: Floats, mass: Floats) -> Floats:
    """One turn of Lloyd's algorithm; a point that nothing goes to stays."""
    from scipy.spatial import KDTree

    cell = KDTree(grid).query(places)[1]
    total = np.bincount(cell, mass, len(grid))
    sums = np.stack([np.bincount(cell, mass * x, len(grid)) for x in places.T], axis=1)
    return np.where(total[:, None] > 0, sums / np.maximum(total, 1e-300)[:, None], grid)


def plane(points: int, turns: int = 1000) -> Floats:
    """A grid of two dimensions: Lloyd's algorithm, with noise that fades, so as not to end in the next best grid.

    It starts from a sunflower's spiral with the density of N(0, 2 I): the best grids of many points are as dense as the
    distribution to the power p / (p + 2), here 1/2 (Zador 1982). The noise is that of Zeger, Vaisey and Gersho (1992).
    """
    places, mass = lattice(step=0.06)
    rng, number = np.random.default_rng(0), np.arange(points) + 0.5
    radius, angle = np.sqrt(-4 * np.log(1 - number / points)), np.pi * (3 - np.sqrt(5)) * number
    grid: Floats = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    apart = np.sqrt(4 * np.pi / points)  # near 0, where most points are
    for done in range(turns):
        noise = 0.3 * apart * (1 - done / turns) ** 3
        grid = turn(grid + rng.normal(size=grid.shape) * noise, places, mass)
    for _ in range(turns // 10):
        grid = turn(grid, places, mass)
    return grid[np.argsort(np.square(grid).sum(axis=1), kind="stable")]


if __name__ == "__main__":
    grids = {str(points): plane(points).round(6).tolist() for points in (16, 64, 256)}
    PLANES.write_text(json.dumps(grids).replace("]], ", "]],\n") + "\n", encoding="utf-8")
