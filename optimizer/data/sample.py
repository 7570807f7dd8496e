"""Random parts of splits, with a fixed seed: what bounds the time that large data take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from bantam.artifact import cache_key
from optimizer.data.dataset import Dataset, Split


def draw(split: Split, rows: int | None, seed: int) -> Split:
    """A random part of a split, in the split's order; the split itself if it has no more ``rows`` than that."""
    if rows is None or rows >= len(split.texts):
        return split
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.texts), rows, replace=False))
    groups = tuple(split.groups[i] for i in chosen) if split.groups else ()
    return Split(tuple(split.texts[i] for i in chosen), split.targets[chosen], groups)


def bounded(data: Dataset, dev_rows: int, test_rows: int) -> Dataset:
    """The data with at most so many rows of dev and of test, which the notes say; the same data if it has no more."""
    limits = {"dev": dev_rows, "test": test_rows}
    sizes = {part: len(data.splits[part].texts) for part in limits}
    cut = {part: limit for part, limit in limits.items() if sizes[part] > limit}
    if not cut:
        return data
    parts: Mapping[str, Split] = {part: draw(split, cut.get(part), 0) for part, split in data.splits.items()}
    notes = [
        f"Scored on {limit:,} of the {sizes[part]:,} rows of {part}, drawn with a fixed seed ({part}_rows in the "
        "recipe's table measure)."
        for part, limit in cut.items()
    ]
    return replace(
        data,
        splits=MappingProxyType(parts),
        digest=cache_key(data=data.digest, limits=cut),
        notes=(*data.notes, *notes),
    )
