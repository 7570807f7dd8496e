"""Stratified splits, for several labels a row as for one."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from optimizer.data.dataset import Rows

FRACTIONS = {"train": 0.6, "test": 0.3, "dev": 0.1}


def split_rows(rows: Rows, *, seed: int) -> dict[str, Rows]:
    """Split 60/30/10 into train, test and dev; each label is spread in the same proportions.

    Rows with the same text go into the same split, so that no test text was trained on.
    """
    first_seen: dict[str, int] = {}
    group = [first_seen.setdefault(text, len(first_seen)) for text in rows.texts]
    labels: list[set[str]] = [set() for _ in first_seen]
    for g, found in zip(group, rows.labels, strict=True):
        labels[g].update(found)
    part_of = stratify([tuple(sorted(found)) for found in labels], tuple(FRACTIONS.values()), seed=seed)
    chosen: list[list[int]] = [[] for _ in FRACTIONS]
    for row, g in enumerate(group):
        chosen[part_of[g]].append(row)
    return {
        name: Rows([rows.texts[i] for i in indices], [rows.labels[i] for i in indices])
        for name, indices in zip(FRACTIONS, chosen, strict=True)
    }


def stratify(labels: Sequence[tuple[str, ...]], fractions: Sequence[float], *, seed: int) -> list[int]:
    """The part, 0 to ``len(fractions) - 1``, of each row. Reproducible for a seed.

    Iterative stratification, Sechidis, Tsoumakas, Vlahavas 2011, "On the Stratification of Multi-Label Data",
    algorithm 1: the label with the fewest rows left is spread first, each row to the part that lacks it most, ties to
    the part that lacks most rows. With one label a row this is plain stratification. Rows without a label come last.
    """
    shuffle = random.Random(seed)
    order = list(range(len(labels)))
    shuffle.shuffle(order)
    left: dict[str, dict[int, None]] = defaultdict(dict)
    for row in order:
        for label in labels[row]:
            left[label][row] = None
    lacking_rows = [fraction * len(labels) for fraction in fractions]
    lacking = {label: [fraction * len(rows) for fraction in fractions] for label, rows in left.items()}
    part_of = [-1] * len(labels)

    def place(row: int, wanted: Sequence[float]) -> None:
        part = max(range(len(fractions)), key=lambda p: (wanted[p], lacking_rows[p], shuffle.random()))
        part_of[row] = part
        lacking_rows[part] -= 1
        for label in labels[row]:
            lacking[label][part] -= 1
            left[label].pop(row, None)

    while any(left.values()):
        rarest = min((label for label in left if left[label]), key=lambda label: (len(left[label]), label))
        for row in list(left[rarest]):
            place(row, lacking[rarest])
    for row in order:
        if part_of[row] < 0:
            place(row, lacking_rows)
    return part_of
