"""What a data set is, and the checks that every one passes, wherever it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from bantam.artifact import Text
from bantam.errors import DataError
from optimizer.data.checks import odd

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what, as far as the user says so; the others are found by their usual names."""

    text: str | None = None
    pair: str | None = None
    """Of the second text of a pair."""
    label: str | None = None
    """Empty: the texts have no labels, whatever other columns there are."""
    labels: tuple[str, ...] = ()
    """One column of 0 and 1 for each label, instead of ``label``; or what the positions of multi-hot lists mean."""
    separator: str | None = None
    """Separates several labels in one cell. Empty: each cell is one label."""
    group: str | None = None
    """Of what rows are grouped by for quality on slices, such as a language."""
    task: Literal["single_label", "multi_label", "regression"] | None = None


@dataclass(frozen=True)
class Split:
    """Texts and their targets, in one order."""

    texts: tuple[Text, ...]
    targets: np.ndarray
    """multi_label: uint8 ``[rows, labels]`` of 0 and 1; single_label: int64 ``[rows]``, the index of the label;
    regression: float32 ``[rows]``. Without labels: all 0, all -1, all NaN."""
    groups: tuple[str, ...] = ()
    """What ``Columns.group`` says of each row; empty if it was not asked for."""

    @property
    def single(self) -> tuple[str, ...]:
        """The texts, where they are no pairs. Raises :class:`DataError` for pairs."""
        found = tuple(text for text in self.texts if isinstance(text, str))
        if len(found) < len(self.texts):
            raise DataError(f"Got pairs, such as {self.texts[0]!r}; expected single texts.")
        return found


@dataclass(frozen=True)
class Dataset:
    """A text classification data set with its three splits."""

    name: str
    task: str
    """``multi_label``, ``single_label`` or ``regression``; two labels, one a row, are single_label. ``unlabelled``: no
    row has a label, and :meth:`read_by` has not been called yet."""
    labels: tuple[str, ...]
    """regression: the name of the label column; unlabelled: none."""
    splits: Mapping[str, Split]
    """train, dev and test."""
    digest: str
    """SHA-256 of task, labels, texts and targets: what models and scores follow from, as they do not from groups."""
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
    labelled: bool = True
    """False: nobody knows what is right; a model can be compared with another one only."""
    pair: bool = False
    """Whether each text is a pair."""
    classes: tuple[str, ...] = ()
    """All classes that the file itself numbers, in its order, where it does: some may have no row, and are no label."""

    def read_by(self, task: str, labels: tuple[str, ...], called: tuple[str, ...] | None = None) -> Dataset:
        """This data as a classifier with these labels reads it: targets in the order of its outputs.

        The classifier may know labels that no row has. ``called``: its own names for them, where the data has numbers.
        Raises :class:`DataError` if it lacks a label that a row has, or does another task.
        """
        if not self.labelled:
            rows = {part: len(split.texts) for part, split in self.splits.items()}
            targets = {part: no_targets(task, count, len(labels)) for part, count in rows.items()}
        elif task != self.task:
            raise DataError(
                f"{self.name} is {self.task}, and the classifier does {task}. --task {task} reads the labels so, if "
                "they can be."
            )
        elif task == "regression":
            # One output and one column: whatever they are called.
            targets = {part: split.targets for part, split in self.splits.items()}
        elif missing := [label for label in self.labels if label not in labels]:
            shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
            raise DataError(
                f"{self.name}: the classifier has no label {shown}. It has: {', '.join(map(repr, labels[:10]))}."
            )
        else:
            columns = np.array([labels.index(label) for label in self.labels])
            targets = {part: _moved(split.targets, task, columns, len(labels)) for part, split in self.splits.items()}
        splits = {part: replace(split, targets=targets[part]) for part, split in self.splits.items()}
        names = called or labels
        digest = _digest(task, names, splits)
        return replace(self, task=task, labels=names, splits=MappingProxyType(splits), digest=digest)

    def without_labels(self, note: str) -> Dataset:
        """The texts alone, as of data in which no row has a label; ``note`` says why."""
        splits = {
            part: replace(s, targets=no_targets("unlabelled", len(s.texts), 0)) for part, s in self.splits.items()
        }
        return replace(
            self,
            task="unlabelled",
            labels=(),
            labelled=False,
            splits=MappingProxyType(splits),
            digest=_digest("unlabelled", (), splits),
            notes=(*self.notes, note),
        )


def no_targets(task: str, rows: int, labels: int) -> np.ndarray:
    """What stands for targets where nobody knows any, see :class:`Split`."""
    if task == "multi_label":
        return np.zeros((rows, labels), dtype=np.uint8)
    return np.full(rows, np.nan, np.float32) if task == "regression" else np.full(rows, -1, np.int64)


def _moved(targets: np.ndarray, task: str, columns: np.ndarray, labels: int) -> np.ndarray:
    """Targets whose label ``i`` is now label ``columns[i]`` of ``labels``."""
    if task == "single_label":
        return np.asarray(columns[targets])
    moved = np.zeros((len(targets), labels), dtype=targets.dtype)
    moved[:, columns] = targets
    return moved


@dataclass(frozen=True)
class Rows:
    """Texts with the names of their labels, before the labels are numbered."""

    texts: Sequence[Text]
    labels: Sequence[tuple[str, ...]]
    """None of them where there are values."""
    values: Sequence[float] = ()
    """regression: a number a row."""
    groups: Sequence[str] = ()

    def at(self, indices: Sequence[int]) -> Rows:
        """Some of the rows, in the order of ``indices``."""
        return Rows(*(_taken(column, indices) for column in (self.texts, self.labels, self.values, self.groups)))


def _taken(column: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    return [column[i] for i in indices] if column else ()


def build(
    name: str,
    task: str,
    rows: Mapping[str, Rows],
    *,
    labels: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    licence: str,
    source: str,
    notes: Iterable[str] = (),
    hub_id: str | None = None,
    language: str | None = None,
    about: str | None = None,
) -> Dataset:
    """Number the labels, check the splits, and find what is odd about them.

    ``labels`` fixes their order; sorted by name if it is absent. Raises :class:`DataError` if there are fewer labels
    than the task needs, or a split has no rows.
    """
    names = tuple(
        labels if labels is not None else sorted({x for part in rows.values() for r in part.labels for x in r})
    )
    if task in ("single_label", "multi_label") and len(names) < 2:
        found = f"one label ({names[0][:60]!r})" if names else "no labels"
        raise DataError(
            f"{name}: {found}; a classifier needs at least two. Is the label column the right one? --label-column "
            "names another."
        )
    if empty := next((part for part in SPLITS if not rows[part].texts), None):
        raise DataError(f"{name}: the {empty} split has no rows; {', '.join(SPLITS)} all need some.")
    splits = {
        part: Split(tuple(rows[part].texts), _targets(rows[part], names, task), tuple(rows[part].groups))
        for part in SPLITS
    }
    return Dataset(
        name=name,
        task=task,
        labels=names,
        splits=MappingProxyType(splits),
        digest=_digest(task, names, splits),
        licence=licence,
        source=source,
        notes=(*notes, *odd(task, names, splits)),
        hub_id=hub_id,
        language=language,
        about=about,
        labelled=task != "unlabelled",
        pair=not isinstance(splits["train"].texts[0], str),
        classes=tuple(classes),
    )


def _targets(rows: Rows, names: Sequence[str], task: str) -> np.ndarray:
    if task == "unlabelled":
        return no_targets(task, len(rows.texts), 0)
    if task == "regression":
        return np.array(rows.values, dtype=np.float32)
    index = {label: i for i, label in enumerate(names)}
    if task == "single_label":
        return np.array([index[row[0]] for row in rows.labels], dtype=np.int64)
    targets = np.zeros((len(rows.labels), len(names)), dtype=np.uint8)
    for i, row in enumerate(rows.labels):
        for label in row:
            targets[i, index[label]] = 1
    return targets


def _digest(task: str, names: Sequence[str], splits: Mapping[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps([task, names]).encode())
    for part in SPLITS:
        split = splits[part]
        # JSON, so that no text can look like the border between two; a pair is a list in it, as no text is.
        digest.update(json.dumps([part, split.texts], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(split.targets).tobytes())
    return digest.hexdigest()
