"""What annotation tools export as JSON, as plain rows: Label Studio's tasks, Prodigy's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bantam.errors import DataError

Rows = tuple[Sequence[dict[str, Any]], Sequence[int], tuple[str, ...]]


def from_export(path: Path, objects: Sequence[dict[str, Any]], lines: Sequence[int]) -> Rows:
    """The rows, their lines, and notes on those left out: not annotated, skipped or rejected ones.

    Rows that are no tool's export come back as they are. Raises :class:`DataError` where annotators disagree.
    """
    if not objects:
        return objects, lines, ()
    if all(isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list) for row in objects):
        made = [_label_studio(row, f"{path}, line {line}") for row, line in zip(objects, lines, strict=True)]
        return _kept(path, _one_question(made), lines, "have no annotation")
    if all(row.get("answer") in ("accept", "reject", "ignore") and "text" in row for row in objects):
        accepted = [_prodigy(row) if row["answer"] == "accept" else None for row in objects]
        return _kept(path, accepted, lines, "were rejected or ignored")
    return objects, lines, ()


def _kept(path: Path, made: Sequence[dict[str, Any] | None], lines: Sequence[int], why: str) -> Rows:
    kept = [(row, line) for row, line in zip(made, lines, strict=True) if row is not None]
    left = len(made) - len(kept)
    notes = (f"{left:,} of {len(made):,} rows of {path} {why}; they were left out.",) if left else ()
    return [row for row, _ in kept], [line for _, line in kept], notes


def _label_studio(task: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """A task's data and its choices by the name of the question; None if nobody answered."""
    given = [note for note in task["annotations"] if isinstance(note, dict) and not note.get("was_cancelled")]
    answers = [dict(_answers(note)) for note in given]
    answers = [answer for answer in answers if answer]
    if not answers:
        return None
    if any(answer != answers[0] for answer in answers):
        raise DataError(
            f"{where}: the annotators of a task disagree: {answers[0]!r}, {answers[-1]!r}. Settle it in Label Studio, "
            "or export one annotation a task."
        )
    return {"data": task["data"], "answers": answers[0]}


def _one_question(made: Sequence[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """Data and answers beside each other; a single question's answer is the label, whatever the question is called."""
    questions = {name for row in made if row is not None for name in row["answers"]}
    single = len(questions) == 1
    return [
        None
        if row is None
        else {**row["data"], **({"label": next(iter(row["answers"].values()))} if single else row["answers"])}
        for row in made
    ]


def _answers(annotation: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for result in annotation.get("result", ()):
        if isinstance(result, dict) and result.get("type") == "choices":
            yield str(result.get("from_name", "label")), list(result["value"]["choices"])


def _prodigy(row: Mapping[str, Any]) -> dict[str, Any]:
    """The text and what was accepted: the choices, or the one label that was asked about."""
    return {"text": row["text"], "label": row["accept"] if "accept" in row else row.get("label")}
