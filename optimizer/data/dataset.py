"""What a data set is, and the checks that every one passes, wherever it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from bantam.errors import DataError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Split:
    """Texts and their targets, in one order."""

    texts: tuple[str, ...]
    targets: np.ndarray
    """multi_label: uint8 ``[rows, labels]`` of 0 and 1; single_label: int64 ``[rows]``, the index of the label."""


@dataclass(frozen=True)
class Dataset:
    """A text classification data set with its three splits."""

    name: str
    task: str
    """``multi_label`` or ``single_label``; two labels, one a row, are single_label."""
    labels: tuple[str, ...]
    splits: Mapping[str, Split]
    """train, dev and test."""
    digest: str
    """SHA-256 of task, labels, texts and targets."""
    licence: str
    source: str
    notes: tuple[str, ...]
    """Lines for the user, such as how many texts are in two splits."""
    hub_id: str | None = None
    """Where the hub has it; None if it is not there, or not known to be."""
    language: str | None = None
    """ISO 639-1 code of the texts' language, if it is known."""
    about: str | None = None
    """What the texts are, where they come from, and whom they leave out; for who has to trust a model of them."""


@dataclass(frozen=True)
class Rows:
    """Texts with the names of their labels, before the labels are numbered."""

    texts: Sequence[str]
    labels: Sequence[tuple[str, ...]]


def build(
    name: str,
    task: str,
    rows: Mapping[str, Rows],
    *,
    labels: Sequence[str] | None = None,
    licence: str,
    source: str,
    notes: Iterable[str] = (),
    hub_id: str | None = None,
    language: str | None = None,
    about: str | None = None,
) -> Dataset:
    """Number the labels, check the splits, and find the texts that are in more than one.

    ``labels`` fixes their order; sorted by name if it is absent. Raises :class:`DataError` if there is one label only,
    a split has no rows, or a label has no row in a split.
    """
    names = tuple(
        labels if labels is not None else sorted({x for part in rows.values() for r in part.labels for x in r})
    )
    if len(names) < 2:
        found = f"one label ({names[0]!r})" if names else "no labels"
        raise DataError(f"{name}: {found}; a classifier needs at least two. Is the label column the right one?")
    splits = {part: Split(tuple(rows[part].texts), _targets(rows[part], names, task)) for part in SPLITS}
    _check_labels(name, names, task, splits)
    return Dataset(
        name=name,
        task=task,
        labels=names,
        splits=MappingProxyType(splits),
        digest=_digest(task, names, splits),
        licence=licence,
        source=source,
        notes=(*notes, *_duplicates(splits)),
        hub_id=hub_id,
        language=language,
        about=about,
    )


def _targets(rows: Rows, names: Sequence[str], task: str) -> np.ndarray:
    index = {label: i for i, label in enumerate(names)}
    if task == "single_label":
        return np.array([index[row[0]] for row in rows.labels], dtype=np.int64)
    targets = np.zeros((len(rows.labels), len(names)), dtype=np.uint8)
    for i, row in enumerate(rows.labels):
        for label in row:
            targets[i, index[label]] = 1
    return targets


def _check_labels(name: str, names: Sequence[str], task: str, splits: Mapping[str, Split]) -> None:
    for part, split in splits.items():
        if not split.texts:
            raise DataError(f"{name}: the {part} split has no rows; {', '.join(SPLITS)} all need some.")
        single = task == "single_label"
        counts = np.bincount(split.targets, minlength=len(names)) if single else split.targets.sum(axis=0)
        missing = [repr(label) for label, count in zip(names, counts, strict=True) if count == 0]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(
                f"{name}: no row of the {part} split has the label {', '.join(missing[:5])}{more}.\n"
                f"Each label needs rows in {', '.join(SPLITS)}: merge or leave out rare labels, or give the data "
                "without splits to have each label spread evenly."
            )


def _digest(task: str, names: Sequence[str], splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps([task, names]).encode())
    for part in SPLITS:
        # JSON, so that no text can look like the border between two.
        digest.update(json.dumps([part, splits[part].texts], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(splits[part].targets).tobytes())
    return digest.hexdigest()


def _duplicates(splits: Mapping[str, Split]) -> list[str]:
    """One line for each pair of splits that share texts; nothing is removed."""
    notes = []
    for first, second in (("train", "dev"), ("train", "test"), ("dev", "test")):
        known = set(splits[first].texts)
        shared = [text for text in splits[second].texts if text in known]
        if shared:
            example = shared[0] if len(shared[0]) <= 60 else shared[0][:57] + "..."
            notes.append(
                f"{len(shared):,} of {len(splits[second].texts):,} texts of {second} are also in {first}, "
                f"for example {example!r}; they were kept."
            )
    return notes
