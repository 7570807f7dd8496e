"""Stratified splits, for several labels a row as for one."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bantam.artifact import Text
from optimizer.data.dataset import Rows

FRACTIONS = {"train": 0.6, "test": 0.3, "dev": 0.1}
WITHOUT_LABELS = {"train": 0.6, "test": 0.1, "dev": 0.3}
"""Dev has to prove that next to nothing is decided otherwise, which takes hundreds of rows; test confirms it."""


def fill_splits(given: Mapping[str, Rows], *, seed: int) -> tuple[dict[str, Rows], list[str]]:
    """Take the splits that are not given out of train, in the proportions :data:`FRACTIONS` to each other.

    Each label is spread evenly. Rows with the same text go into the same split, so that no test text was trained on;
    of pairs see :func:`_groups`. Rows with neither label nor value are divided as :data:`WITHOUT_LABELS` says. Returns
    all three splits, and a line that says what was done (none if there was nothing to do).
    """
    train = given["train"]
    fractions = FRACTIONS if any(train.labels) or len(train.values) else WITHOUT_LABELS
    missing = [name for name in fractions if name != "train" and name not in given]
    if not missing:
        return dict(given), []
    parts = ["train", *missing]
    total = sum(fractions[name] for name in parts)
    made = _split(train, {name: fractions[name] / total for name in parts}, seed)
    shares = ", ".join(f"{fractions[name] / total:.0%} {name}" for name in parts)
    which = "No splits were given" if len(missing) == 2 else f"No {missing[0]} split was given"
    how = "stratified, seed" if any(train.labels) else "by chance, seed"
    return {**given, **made}, [f"{which}: the rows of train were divided into {shares}; {how} {seed}."]


def _split(rows: Rows, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    group = _groups(rows.texts)
    labels: list[tuple[str, ...]] = [()] * (max(group, default=-1) + 1)
    for g, found in zip(group, rows.labels, strict=False):  # no labels: numbers are not spread
        labels[g] = found if not labels[g] or labels[g] == found else tuple(sorted({*labels[g], *found}))
    part_of = stratify(labels, tuple(fractions.values()), seed=seed)
    chosen: list[list[int]] = [[] for _ in fractions]
    for row, g in enumerate(group):
        chosen[part_of[g]].append(row)
    return {name: rows.at(indices) for name, indices in zip(fractions, chosen, strict=True)}


def _groups(texts: Sequence[Text]) -> list[int]:
    """Which rows have to stay together, as a number from 0 on for each: the same text, the same pair in any order.

    Pairs that share a text stay together too, unless that would tie more than :data:`LARGEST` of all rows into one
    group, as where each text is paired with many others.
    """
    numbers: dict[object, int] = {}

    def numbered(keys: Iterable[object]) -> list[int]:
        numbers.clear()
        return [numbers.setdefault(key, len(numbers)) for key in keys]

    same = numbered(text if isinstance(text, str) else frozenset(text) for text in texts)
    pairs = [text for text in texts if not isinstance(text, str)]
    if not pairs:
        return same
    tied = numbered(_tied(pairs))
    return tied if max(Counter(tied).values()) <= LARGEST * len(texts) else same


LARGEST = 0.05


def _tied(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One text for each pair, the same for all pairs that share texts, directly or through others (union-find)."""
    above: dict[str, str] = {}

    def top(text: str) -> str:
        while (parent := above.setdefault(text, text)) != text:
            above[text] = text = above.setdefault(parent, parent)  # halves the path
        return text

    for first, second in pairs:
        above[top(first)] = top(second)
    return (top(first) for first, _ in pairs)


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
    # Beyond the paper: at least one row each, so that a label with a handful of rows is in every part.
    lacking = {label: [max(1.0, fraction * len(rows)) for fraction in fractions] for label, rows in left.items()}
    part_of = [-1] * len(labels)
    parts = range(len(fractions))

    def place(row: int, wanted: Sequence[float]) -> None:
        draws = [shuffle.random() for _ in parts]
        part = max(zip(wanted, lacking_rows, draws, parts, strict=True))[-1]
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
