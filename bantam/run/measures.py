"""What a user says of how quality is measured: metric and thresholds. Checked against the data before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bantam.errors import RecipeError
from optimizer.data import Dataset
from optimizer.evaluate import UNTUNED, one_hot
from optimizer.metric import OF_LABELS, OF_NUMBERS, Metric

EXPECTED = 'Expected a number such as 0.5 for all labels, or a JSON file of {"label": threshold} or of a list in the '


def check_metric(metric: Metric | None, data: Dataset) -> None:
    """Raise :class:`RecipeError` for a metric that judges another kind of task, or a label that no row of dev has."""
    if metric is None:
        return
    if metric.of_numbers != (data.task == "regression"):
        known, what = (OF_NUMBERS, "numbers") if data.task == "regression" else (OF_LABELS, "labels")
        raise RecipeError(f"Got metric {str(metric)!r}, but {data.name} is of {what}. Expected one of: {known}.")
    if metric.label is None:
        return
    if metric.label not in data.labels:
        raise RecipeError(
            f"Got metric {str(metric)!r}, but {data.name} has no label {metric.label!r}. Expected f1: and one of: "
            f"{', '.join(data.labels)}."
        )
    dev = one_hot(data.splits["dev"].targets, len(data.labels))
    if data.labelled and not dev[:, data.labels.index(metric.label)].any():
        raise RecipeError(
            f"Got metric {str(metric)!r}, but no row of dev has the label {metric.label!r}: nobody could say what is "
            "lost of it. Expected a label with rows in dev."
        )


def given_thresholds(said: str | None, data: Dataset) -> tuple[float, ...] | None:
    """Thresholds in the order of the labels, as the user says; None where they are tuned, or the task has none.

    Raises :class:`RecipeError` for tasks without thresholds, a file that cannot be read, labels that are missing or not
    there, and what is no number from 0 to 1.
    """
    if data.task != "multi_label":
        if said is not None:
            rule = "the best-scored label wins" if data.task == "single_label" else "a number is no decision"
            raise RecipeError(f"Got --thresholds {said}, but {data.name} is {data.task}: {rule}. Leave them out.")
        return None
    if said is None:
        return None if data.labelled else (UNTUNED,) * len(data.labels)
    return read_thresholds(said, data.labels)


def read_thresholds(said: str, labels: tuple[str, ...]) -> tuple[float, ...]:
    """One a label, in their order: from a number for all, or a file. Raises what :func:`given_thresholds` does."""
    found = _read(said)
    if isinstance(found, Mapping):
        return tuple(_by_name(found, labels, said))
    values = found if isinstance(found, list) else [found] * len(labels)
    if len(values) != len(labels):
        raise RecipeError(
            f"{said} has {len(values)} thresholds, and there are {len(labels)} labels. Expected one for each, in "
            f"this order: {', '.join(labels)}."
        )
    return tuple(_threshold(value, label, said) for label, value in zip(labels, values, strict=True))


def _read(said: str) -> object:
    try:
        return float(said)
    except ValueError:
        pass
    try:
        return json.loads(Path(said).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as exc:
        raise RecipeError(f"Got --thresholds {said}, which cannot be read ({exc}). {EXPECTED}labels' order.") from exc


def _by_name(found: Mapping[str, object], labels: tuple[str, ...], said: str) -> list[float]:
    missing, unknown = ([n for n in a if n not in b] for a, b in ((labels, found), (found, labels)))
    if missing or unknown:
        said_of = [("has no threshold for", missing), ("names what is no label:", unknown)]
        problems = " and ".join(f"{what} {', '.join(map(repr, names))}" for what, names in said_of if names)
        raise RecipeError(f"{said} {problems}. Expected one for each of: {', '.join(labels)}.")
    return [_threshold(found[label], label, said) for label in labels]


def _threshold(value: object, label: str, said: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RecipeError(f"--thresholds {said}: got {value!r} for {label!r}, expected a number from 0 to 1.")
    return float(value)
