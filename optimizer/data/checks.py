"""What is odd about a data set's rows, said and not mended: one line for each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bantam.artifact import Text

if TYPE_CHECKING:
    from optimizer.data.dataset import Split

FEW = 5
"""Fewer rows of a label in train than this teach nothing that can be relied upon."""
SHOWN = 5


def odd(task: str, names: Sequence[str], splits: Mapping[str, Split]) -> Iterator[str]:
    """Lines for the user: labels with few or no rows, numbers that are all one, texts in two splits, or two labels."""
    if task in ("single_label", "multi_label"):
        yield from _rare(task, names, splits)
    if task == "regression":
        yield from _constant(splits)
    yield from _duplicates(splits)
    if task != "unlabelled":
        yield from _contradictions(splits)


def _rare(task: str, names: Sequence[str], splits: Mapping[str, Split]) -> Iterator[str]:
    counts = {part: _counts(task, len(names), split.targets) for part, split in splits.items()}
    few = [(name, int(count)) for name, count in zip(names, counts["train"], strict=True) if count < FEW]
    if few:
        shown = [f"{name!r} ({count})" for name, count in few]
        yield f"Labels with fewer than {FEW} rows in train, which can hardly be learned: {_some(shown)}."
    for part in ("dev", "test"):
        none = [repr(name) for name, count in zip(names, counts[part], strict=True) if count == 0]
        if none:
            yield f"No row of {part} has the label {_some(none)}: quality on {part} says nothing of it."


def _constant(splits: Mapping[str, Split]) -> Iterator[str]:
    for part in ("dev", "test"):
        first = splits[part].targets[0]
        if (splits[part].targets == first).all():
            yield f"All numbers of {part} are {first:g}: correlation on {part} says nothing, whatever a variant loses."


def _counts(task: str, labels: int, targets: np.ndarray) -> np.ndarray:
    return np.asarray(np.bincount(targets, minlength=labels) if task == "single_label" else targets.sum(axis=0))


def _some(shown: Sequence[str]) -> str:
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else "")


def _duplicates(splits: Mapping[str, Split]) -> Iterator[str]:
    """One line for each pair of splits that share texts; nothing is removed."""
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        known = set(splits[first].texts)
        shared = [text for text in splits[second].texts if text in known]
        if shared:
            yield (
                f"{len(shared):,} of {len(splits[second].texts):,} texts of {second} are also in {first}, "
                f"for example {_short(shared[0])!r}; they were kept."
            )
    yield from _shared_parts(splits)


def _shared_parts(splits: Mapping[str, Split]) -> Iterator[str]:
    """A line where other pairs of train have a text of a pair that is judged: a model may know it."""
    train = splits["train"].texts
    if isinstance(train[0], str):
        return
    pairs, known = {*train}, {text for pair in train for text in pair}
    for part in ("dev", "test"):
        texts = splits[part].texts
        shared = sum(not known.isdisjoint(pair) for pair in texts if pair not in pairs)
        if shared:
            yield f"{shared:,} of {len(texts):,} pairs of {part} have a text that is in another pair of train."


def _contradictions(splits: Mapping[str, Split]) -> Iterator[str]:
    """A line on texts that have one label here and another there."""
    first: dict[Text, object] = {}
    against: dict[Text, None] = {}
    for split in splits.values():
        rows = split.targets.tolist() if split.targets.ndim == 1 else [row.tobytes() for row in split.targets]
        for text, target in zip(split.texts, rows, strict=True):
            if first.setdefault(text, target) != target:
                against[text] = None
    if against:
        yield (
            f"Texts with different labels in different rows: {len(against):,}, for example "
            f"{_short(next(iter(against)))!r}. No model can be right on all of these rows; they were kept."
        )


def _short(text: Text) -> str:
    parts = (text,) if isinstance(text, str) else text
    return " / ".join(each if len(each) <= 60 else each[:57] + "..." for each in parts)
