"""The quality of a variant on a split, from its scores: what a report has of it, and notes on what it means."""

from __future__ import annotations

from typing import Any

import numpy as np

from bantam.report.quality import Quality, Slice
from bantam.report.schema import BASELINE
from bantam.run import judge
from bantam.run.state import Run
from optimizer.config import AdoptConfig
from optimizer.evaluate import bootstrap_drop, correlation_of, other_order, per_label, quality_of, total_variation
from optimizer.metric import RESAMPLES_OF_ORDER, Array, Metric
from optimizer.slices import LEAST, Portion, too_small


def quality(run: Run, name: str, split: str) -> Quality | None:
    """All figures of a variant on a split; None for random weights, of which quality means nothing."""
    if run.checkpoint.random_weights:
        return None
    drop = judge.drop(run, name, split)
    return Quality(
        split=split,
        rows=len(run.data.splits[split].texts),
        **figures(run, name, split),
        **_against_the_baseline(run, name, split),
        metric_value=_value(run, name, split),
        drop_points=drop.points if drop else None,
        drop_ci95=(drop.low, drop.high) if drop else None,
        slices={part.name: _slice(run, name, split, part) for part in judge.parts(run, split)},
        per_label=_labels(run, name, split),
    )


def figures(run: Run, name: str, split: str, answers: Array | None = None) -> dict[str, float]:
    """What is computed from scores, or a server's ``answers``, and what is right alone."""
    scores = run.scored[name].on(split) if answers is None else answers
    right = judge.actual(run, split)
    if run.data.task == "regression":
        return correlation_of(scores, right)
    decided = judge.decided(run, name, split, answers)
    agreement = {} if run.data.labelled else {"agreement": float((decided == right).all(axis=1).mean())}
    return quality_of(scores, decided, right) | agreement


def _against_the_baseline(run: Run, name: str, split: str) -> dict[str, Any]:
    """Of data without labels: how far the probabilities are from the baseline's, and how sure the macro-F1 is."""
    if run.data.labelled or run.data.task == "regression":
        return {}
    scores, others = (run.scored[each].on(split) for each in (name, BASELINE))
    macro_f1 = judge.measure(run, name, split, Metric("macro-f1"))
    lost = bootstrap_drop(lambda weights: np.ones(len(weights)), macro_f1, len(scores), resamples=RESAMPLES_OF_ORDER)
    return {
        "total_variation": total_variation(scores, others, exclusive=run.data.task == "single_label"),
        "macro_f1_ci95": tuple(float(np.clip(1 - end / 100, 0, 1)) for end in (lost.high, lost.low)),
    }


def _value(run: Run, name: str, split: str, rows: Array | None = None) -> float:
    """The budget's metric on a split, or on some rows of it."""
    count = len(run.data.splits[split].texts) if rows is None else int(rows.sum())
    whole = np.ones((1, count), dtype=np.float32)
    return float(judge.measure(run, name, split, rows=rows)(whole)[0])


def _slice(run: Run, name: str, split: str, part: Portion) -> Slice:
    drop, found = judge.drop_on(run, name, split, part), {}
    if run.data.task != "regression":
        scores, decided = run.scored[name].on(split), judge.decided(run, name, split)
        found = quality_of(*(each[part.rows] for each in (scores, decided, judge.actual(run, split))))
    return Slice(
        rows=int(part.rows.sum()),
        kind=part.kind,
        metric_value=_value(run, name, split, part.rows),
        macro_f1=found.get("macro_f1"),
        accuracy=found.get("accuracy"),
        drop_points=drop.points if drop else None,
        drop_ci95=(drop.low, drop.high) if drop else None,
    )


def _labels(run: Run, name: str, split: str) -> Any:
    """F1 of each label; None for a regression."""
    if run.data.task == "regression":
        return None
    return tuple(per_label(judge.decided(run, name, split), judge.actual(run, split), run.data.labels))


def notes(run: Run) -> list[str]:
    """What a reader has to know of the figures: what is right, which labels and values are left out, what is cut."""
    return [*of_order(run), *_of_labels(run), *_of_groups(run), *_of_texts(run)]


def of_order(run: Run) -> list[str]:
    """Whether a classifier that was taken as it is seems to have its labels in another order than was found."""
    adopted = any(stage.name == BASELINE and isinstance(stage, AdoptConfig) for stage in run.recipe.stages)
    if not (adopted and run.data.labelled and run.data.task == "single_label") or run.checkpoint.random_weights:
        return []
    found = other_order(judge.decided(run, BASELINE, "dev"), judge.actual(run, "dev"))
    if found is None:
        return []
    means, as_it_is, otherwise = found
    labels = run.data.labels
    swapped = [f"{labels[means[i]]!r} where it says {label!r}" for i, label in enumerate(labels) if means[i] != i]
    shown = ", ".join(swapped[:5]) + (f" and {len(swapped) - 5} more" if len(swapped) > 5 else "")
    return [
        f"The classifier's labels seem to be in another order: {as_it_is:.0%} of rows of dev are right, and "
        f"{otherwise:.0%} would be with {shown}. If so, write the names into id2label of its config.json."
    ]


def _of_labels(run: Run) -> list[str]:
    found = []
    if not run.data.labelled:
        found.append(
            "The data have no labels: quality is agreement with the baseline. Whether the baseline is right, nothing "
            "here can say."
        )
    if run.data.task == "regression" or run.checkpoint.random_weights:
        return found
    for split in ("dev", "test"):
        there = np.flatnonzero(judge.actual(run, split).any(axis=0))
        absent = [label for number, label in enumerate(run.data.labels) if number not in there]
        if absent:
            names = ", ".join(map(repr, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            found.append(f"No row of {split} has the label {names}: macro-F1 is the mean over the others.")
    return found


def _of_groups(run: Run) -> list[str]:
    small = too_small(run.data.splits["dev"].groups)
    if not small:
        return []
    names = ", ".join(f"{value!r} ({rows})" for value, rows in [*small.items()][:5])
    more = f" and {len(small) - 5} more" if len(small) > 5 else ""
    unheld = "" if run.budget.slice_points is None else f" that is held to {run.budget.slice_points:g} points"
    what = f"no slice of their own{unheld}: {run.request.slice_column} {names}{more}"
    return [f"Fewer than {LEAST} rows of dev, and so {what}."]


def _of_texts(run: Run) -> list[str]:
    cut = {split: found.cut for split, found in run.tokens.items() if found.cut}
    if not cut:
        return []
    shares = ", ".join(f"{share:.1%} of {split}" for split, share in cut.items())
    longest = next(iter(run.tokens.values())).max_length
    return [f"Texts longer than the {longest:,} tokens that the model reads are cut: {shares}."]
