"""Matrices in 2, 3 or 4 bits by HIGGS (Malinovskii et al. 2024, algorithm 1): packed, and as they are restored.

Each row is cut into groups of g values. A random Hadamard transform makes a group's values nearly normal, whatever
they were; they are scaled to variance 1, and rounded to a grid that loses least on normal numbers::

    s = |v| / sqrt(g),    c = nearest(H D v / s),    v ~ s D H^T grid[c]

H is Hadamard's matrix divided by sqrt(g), D a diagonal of random signs. By the paper's linearity theorem, what a model
loses grows with the relative squared error t^2 of its layers, which needs no calibration texts. Evenly spaced points
without a transform (rounding to nearest) go through the same code, so that both are compared at equal bytes.

By hand: transformers' HIGGS computes on GPUs alone, and by a package with kernels for them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optimizer.quantize.grids import Floats, clipped_scales, nearest, normal_grid, uniform_grid

Grid = Literal["normal-2d", "normal-1d", "uniform"]
SMALLEST_GROUP = 16
"""Its scale costs a bit a weight."""
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Scheme:
    """How a matrix is rounded."""

    bits: Literal[2, 3, 4]
    """A weight, beside the 16 of each group's scale."""
    grid: Grid = "normal-2d"
    """Points that are best for normal numbers, for pairs of them or one by one, after a random Hadamard transform; or
    evenly spaced ones without a transform."""
    group_size: int = 128

    @property
    def dimensions(self) -> int:
        """How many values share a code."""
        return 2 if self.grid == "normal-2d" else 1

    @property
    def widths(self) -> list[int]:
        """Bits of a code in each of its planes, the lowest first: a byte holds no whole number of 3 or 6 bits."""
        return {2: [2], 3: [2, 1], 4: [4], 6: [4, 2], 8: [8]}[self.bits * self.dimensions]

    @property
    def points(self) -> Floats:
        """The grid, ``[2 ** (bits * dimensions), dimensions]``, of normal numbers with variance 1 or of integers."""
        return uniform_grid(self.bits) if self.grid == "uniform" else normal_grid(self.bits, self.dimensions)

    def fits(self, columns: int) -> Scheme:
        """This with the group, not larger than its own, by which rows of so many columns take fewest bytes.

        Rows are filled up with zeros to whole groups: smaller groups fill up less, and have more scales.
        """
        sizes = [self.group_size >> by for by in range(5) if self.group_size >> by >= SMALLEST_GROUP]
        return min((replace(self, group_size=size) for size in sizes), key=lambda scheme: scheme.size((1, columns)))

    def size(self, shape: Sequence[int]) -> int:
        """Bytes of a matrix ``[rows, columns]``, without the grid and the rotation, which all matrices share."""
        groups = shape[0] * -(-shape[1] // self.group_size)
        return groups * (self.group_size * self.bits // 8 + 2)


@dataclass(frozen=True)
class Packed:
    """A matrix ``[rows, columns]`` in few bits."""

    planes: list[NDArray[np.uint8]]
    """``[rows, groups * group_size / dimensions * width / 8]`` for each of the scheme's widths; the first value in the
    low bits."""
    scales: NDArray[np.float16]
    """``[rows, groups]``"""
    columns: int
    """Of the matrix: what is more in the groups is let go."""

    @property
    def size_bytes(self) -> int:
        """What is stored; :meth:`Scheme.size` foretells it."""
        return sum(plane.nbytes for plane in self.planes) + self.scales.nbytes


@functools.cache
def rotation(size: int, seed: int = 0) -> NDArray[np.int8]:
    """A random Hadamard transform ``[size, size]`` of 1 and -1; divided by ``sqrt(size)`` it is orthogonal.

    ``values @ rotation`` undoes ``values @ rotation.T``. ``size`` is a power of 2.
    """
    from scipy.linalg import hadamard

    signs = np.random.default_rng(seed).integers(0, 2, size) * 2 - 1
    return np.asarray(hadamard(size) * signs, np.int8)


def _orthogonal(size: int) -> NDArray[np.float32]:
    return np.asarray(rotation(size) / np.sqrt(size), np.float32)


def packed(matrix: NDArray[np.float32], scheme: Scheme) -> Packed:
    """``matrix`` ``[rows, columns]`` in few bits."""
    parts = [_packed(matrix[at : at + ROWS_AT_ONCE], scheme) for at in range(0, len(matrix), ROWS_AT_ONCE)]
    planes = [np.concatenate(each) for each in zip(*(part.planes for part in parts), strict=True)]
    return Packed(planes, np.concatenate([part.scales for part in parts]), matrix.shape[1])


def _packed(matrix: NDArray[np.float32], scheme: Scheme) -> Packed:
    whole = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % scheme.group_size)))
    groups: NDArray[np.float32] = whole.reshape(len(matrix), -1, scheme.group_size)
    if scheme.grid == "uniform":
        half = clipped_scales(groups, scheme.points)
    else:
        groups = groups @ _orthogonal(scheme.group_size).T
        half = np.sqrt(np.square(groups).mean(axis=2, keepdims=True)).astype(np.float16)
    divisor = np.where(half, half, 1).astype(np.float32)  # a padding token's group is all zeros
    values = (groups / divisor).reshape(len(matrix), -1, scheme.dimensions)
    codes, planes, below = nearest(values, scheme.points), [], 0
    for width in scheme.widths:
        plane = (codes >> below & (2**width - 1)).reshape(len(codes), -1, 8 // width)
        planes.append(np.bitwise_or.reduce(plane << shifts(width), axis=2))
        below += width
    return Packed(planes, half[..., 0], matrix.shape[1])


def shifts(width: int) -> NDArray[np.uint8]:
    """Where the values of a plane of this width lie in a byte."""
    return np.arange(0, 8, width, dtype=np.uint8)


def restored(parts: Packed, scheme: Scheme) -> NDArray[np.float32]:
    """What :func:`packed` kept, ``[rows, columns]``."""
    rows = len(parts.scales)
    codes, below = np.zeros((rows, 1), np.uint8), 0
    for width, plane in zip(scheme.widths, parts.planes, strict=True):
        codes = codes | ((plane[..., None] >> shifts(width) & (2**width - 1)) << below).reshape(rows, -1)
        below += width
    values: NDArray[np.float32] = scheme.points.astype(np.float32)[codes].reshape(
        *parts.scales.shape, scheme.group_size
    )
    if scheme.grid != "uniform":
        values = values @ _orthogonal(scheme.group_size)
    whole = np.asarray(values * parts.scales[..., None].astype(np.float32)).reshape(rows, -1)
    return whole[:, : parts.columns]
