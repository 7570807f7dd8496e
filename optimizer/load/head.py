"""The classification head that a checkpoint brings, and how its labels are those of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bantam.errors import ModelError
from optimizer.load.folder import read_config
from optimizer.load.weights import own_names, shapes

_SHOWN = 8


@dataclass(frozen=True)
class Head:
    """A trained classification head, as its checkpoint describes it."""

    labels: tuple[str, ...]
    """In the order of the outputs; ``LABEL_0`` ... where the checkpoint has no names."""
    problem: str | None
    """``single_label``, ``multi_label`` or ``regression``; None if several outputs may be either of the first two."""

    @property
    def named(self) -> bool:
        """Whether its labels mean something."""
        return self.labels != unnamed(len(self.labels))

    def task(self, wanted: str) -> str:
        """What it does: ``wanted`` is taken where the checkpoint leaves open which of several labels apply."""
        return self.problem or (wanted if wanted == "multi_label" else "single_label")


@dataclass(frozen=True)
class Fit:
    """How a head's outputs are the labels of a data set."""

    labels: tuple[str, ...]
    """In the order of the outputs, as the data names them; labels that no row has are the head's own."""
    task: str
    how: str
    """The mapping, for the user."""
    called: tuple[str, ...] | None = None
    """The head's own names for them, where the data has only numbers."""

    def rows(self, labels: tuple[str, ...]) -> tuple[int, ...] | None:
        """Which output of the head is each of ``labels``; None if these are not the same labels in some order."""
        same = sorted(self.labels) == sorted(labels)
        return tuple(self.labels.index(label) for label in labels) if same else None


def read_head(folder: Path) -> Head | None:
    """The head of the checkpoint in ``folder``, from its config and the names of its tensors; None if it has none.

    Trained is a head of a sequence classifier whose weights are there, outside the encoder, with a row for each label.
    Raises :class:`ModelError` if config or weights cannot be read.
    """
    config = read_config(folder)
    labels = label_names(config)
    kinds = config.get("architectures") or ()
    if not any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        return None
    found = shapes(folder)
    parts = {own: found[name] for name, own in own_names(found).items()}
    ((encoder, _),) = Counter(name.partition(".")[0] for name in parts).most_common(1) or [("", 0)]
    outside = [shape for name, shape in parts.items() if name.partition(".")[0] != encoder]
    if not any(len(shape) > 1 and shape[0] == len(labels) for shape in outside):
        return None
    problem = str(config.get("problem_type") or "").removesuffix("_classification")
    return Head(labels, "regression" if len(labels) == 1 else problem or None)


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a config.json names, in their order; ``LABEL_0`` ... if it only counts them.

    ``id2label`` may be a list, or a table with numbers or texts as keys; ``label2id`` serves where it is missing or
    means nothing. transformers takes two outputs where nothing is said.
    """
    count = config.get("num_labels")
    for table in (config.get("id2label"), _turned(config.get("label2id"))):
        pairs = table.items() if isinstance(table, Mapping) else enumerate(table) if isinstance(table, list) else ()
        found = {str(key): str(label) for key, label in pairs}
        names = tuple(found.get(str(i), "") for i in range(len(found)))
        whole = names and "" not in names and len({*names}) == len(names) and count in (None, len(names))
        if whole and names != unnamed(len(names)):
            return names
        count = count or (len(names) if whole else None)
    return unnamed(count if isinstance(count, int) and count > 0 else 2)


def unnamed(count: int) -> tuple[str, ...]:
    """What transformers calls labels that nobody has named."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _turned(table: Any) -> dict[Any, Any] | None:
    return {value: key for key, value in table.items()} if isinstance(table, Mapping) else None


def fit(head: Head, labels: tuple[str, ...], task: str, classes: tuple[str, ...] = ()) -> Fit:
    """The labels and task of a data set as outputs of ``head``: by name whatever the order, else by index.

    Of unlabelled data, they are the head's own. ``classes``: those that the data's file numbers, with or without rows,
    which a head without names was trained on. Raises :class:`ModelError` if they are not the same: it names the labels
    that one has and the other lacks.
    """
    does = head.task(task)
    if task == "unlabelled":
        own = ("score",) if does == "regression" and not head.named else head.labels
        return Fit(own, does, f"{_listed(own)} ({does}; the data has no labels)")
    if does != task or (does == "regression" and len(head.labels) > 1):
        outputs = f"{len(head.labels)} output{'s' * (len(head.labels) > 1)}"
        raise ModelError(f"The head has {outputs} for {does}; the data is {task} (--task reads it otherwise).")
    if does == "regression":
        return Fit(labels, does, f"its one output = {labels[0]}")
    own = classes if not head.named and len(classes) == len(head.labels) else labels
    found = _by_name(head.labels, labels) or _by_index(head, own)
    if found is None:
        raise ModelError(_difference(head, labels))
    numbers = head.named and all(label.strip().isdecimal() for label in found[0])
    return Fit(found[0], does, found[1], called=head.labels if numbers else None)


def _by_name(have: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """Names as the data writes them, where each of its labels is one of the head; case and outer space do not count."""
    exact = {label: label for label in have}
    plain = {label.strip().casefold(): label for label in have}
    if len(plain) < len(have):
        plain = exact
    spelled = {exact.get(label) or plain.get(label.strip().casefold()): label for label in wanted}
    if None in spelled or len(spelled) < len(wanted):
        return None
    labels = tuple(spelled.get(label, label) for label in have)
    if len({*labels}) < len(labels):
        return None
    changed = [f"{label} = {spelled[label]}" for label in have if spelled.get(label, label) != label]
    extra = [label for label in have if label not in spelled]
    how = f"{_listed(labels)} (by name)"
    how += f"; written otherwise: {_listed(changed)}" if changed else ""
    return labels, how + (f"; no row has {_listed(extra)}" if extra else "")


def _by_index(head: Head, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], str] | None:
    """The first output is the data's first label, where the head has no names or the data has only numbers."""
    numbers = all(label.strip().isdecimal() for label in wanted)
    ordered = sorted(wanted, key=int) if numbers else list(wanted)
    if numbers and int(ordered[-1]) < len(head.labels):
        at = {int(label): label for label in wanted}
        labels = tuple(at.get(i, str(i)) for i in range(len(head.labels)))
    elif len(wanted) == len(head.labels) and (numbers or not head.named):
        labels = tuple(ordered)
    else:
        return None
    why = "the data's labels are numbers" if head.named else "the checkpoint has no names"
    pairs = [f"{have} = {label}" for have, label in zip(head.labels, labels, strict=True)]
    return labels, f"{_listed(pairs)} (by index: {why})"


def _difference(head: Head, wanted: tuple[str, ...]) -> str:
    if not head.named:
        return f"The head has {len(head.labels)} labels without names; the data has {len(wanted)}: {_listed(wanted)}."
    have = {label.strip().casefold() for label in head.labels}
    lacks = [label for label in wanted if label.strip().casefold() not in have]
    known = {label.strip().casefold() for label in wanted}
    more = [label for label in head.labels if label.strip().casefold() not in known]
    return f"The head has no label {_listed(lacks)}" + (f"; it has {_listed(more)}, which no row has." if more else ".")


def _listed(labels: tuple[str, ...] | list[str]) -> str:
    more = len(labels) - _SHOWN
    return ", ".join(labels[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
