"""What the scores and times of a run mean: decisions, drops against the baseline, and the candidates of the choice."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from bantam.artifact import Artifact
from bantam.errors import ArtifactError, RepositoryError, UnfaithfulError
from bantam.report.schema import BASELINE
from bantam.run.choose import Candidate
from bantam.run.state import Run
from bantam.run.timing import Timing
from optimizer.evaluate import Drop, bootstrap_drop, cross_fitted, disagreement, one_hot, predict, tune_thresholds
from optimizer.metric import RESAMPLES_OF_ORDER, Array, Measure, Metric
from optimizer.slices import Portion, by_group, by_length, by_pieces
from serving.repository import published


def decided(run: Run, name: str, split: str, answers: Array | None = None) -> Array:
    """The labels that a variant gives, bool ``[rows, labels]``; ``answers``: those of a server instead of its own.

    On dev no row is decided by thresholds that were tuned on it; on test by those of all of dev, which are published.
    Thresholds that were given decide both. What a regression says are the numbers themselves, ``[rows, 1]``.
    """
    if answers is None:
        if (name, split) not in run.decisions:  # asked for by every slice: thresholds are tuned once
            run.decisions[name, split] = decided(run, name, split, run.scored[name].on(split))
        return run.decisions[name, split]
    scored = run.scored[name]
    if run.data.task == "regression":
        return answers
    if split == "dev" and run.thresholds is None:
        return cross_fitted(scored.dev, run.data.splits["dev"].targets, answers)
    return predict(answers, scored.thresholds)


def actual(run: Run, split: str) -> Array:
    """The labels that the texts of a split have, bool ``[rows, labels]``; of a regression the numbers, ``[rows, 1]``.

    Without labels nobody knows what is right: then it is what the baseline says.
    """
    targets = run.data.splits[split].targets
    if not run.data.labelled:
        return decided(run, BASELINE, split)
    return targets[:, None] if run.data.task == "regression" else one_hot(targets, len(run.data.labels))


def wanted(run: Run, split: str, metric: Metric) -> Array:
    """What a metric wants to be said: what is right, or for agreement, whatever is right, what the baseline decides."""
    return decided(run, BASELINE, split) if metric.kind == "agreement" else actual(run, split)


def measure(run: Run, name: str, split: str, metric: Metric | None = None, rows: Array | None = None) -> Measure:
    """A metric of a variant, by default the budget's, on a split or some ``rows`` of it: a function of row weights."""
    metric, chosen = metric or run.metric, slice(None) if rows is None else rows
    scores, said = run.scored[name].on(split), decided(run, name, split)
    return metric.on(scores[chosen], said[chosen], wanted(run, split, metric)[chosen], run.data.labels)


def drop(run: Run, name: str, split: str, tries: int = 1, metric: Metric | None = None) -> Drop | None:
    """What a variant loses against the baseline on a split; None for the baseline, and for random weights.

    ``tries``: how many variants the interval holds for at once. ``metric``: by default the budget's.
    """
    if name == BASELINE or run.checkpoint.random_weights:
        return None
    metric = metric or run.metric
    if (key := (name, split, str(metric), tries)) not in run.drops:
        run.drops[key] = _drop(run, name, split, metric, resamples=metric.resamples, tries=tries)
    return run.drops[key]


def drop_on(run: Run, name: str, split: str, part: Portion) -> Drop | None:
    """The same on a part of a split's rows."""
    if name == BASELINE or run.checkpoint.random_weights:
        return None
    if (name, split, part.name) not in run.part_drops:
        run.part_drops[name, split, part.name] = _drop(run, name, split, run.metric, part.rows)
    return run.part_drops[name, split, part.name]


def slice_drops(run: Run, name: str, split: str) -> dict[str, Drop]:
    """The drops on slices that are beyond what the budget has for them; empty if it has no such limit.

    Slices are: each label, by its F1; the texts of each length and of each value of the slice column, by the metric.
    The intervals hold for all slices of a variant at once.
    """
    limit = run.budget.slice_points
    if limit is None or name == BASELINE or run.checkpoint.random_weights:
        return {}
    if (name, split) not in run.slice_drops:
        watched: list[tuple[str, Metric, Array | None]] = [
            *((f"label {label}", Metric("f1", label=label), None) for label in _present(run, split)),
            *((part.name, run.metric, part.rows) for part in parts(run, split) if part.kind in ("length", "group")),
        ]
        run.slice_drops[name, split] = {
            slice_name: _drop(run, name, split, metric, rows, tries=len(watched))
            for slice_name, metric, rows in watched
            if _points(run, name, split, metric, rows) > limit  # an interval takes a second
        }
    return run.slice_drops[name, split]


def _present(run: Run, split: str) -> list[str]:
    """The labels that rows of a split have; of a regression there are none."""
    if run.data.task == "regression":
        return []
    return [label for number, label in enumerate(run.data.labels) if actual(run, split)[:, number].any()]


def _drop(
    run: Run,
    name: str,
    split: str,
    metric: Metric,
    rows: Array | None = None,
    *,
    resamples: int = RESAMPLES_OF_ORDER,
    tries: int = 1,
) -> Drop:
    """The drop of a metric on some ``rows`` of a split, or on all; of agreement with the interval of a share."""
    count = len(run.data.splits[split].texts) if rows is None else int(rows.sum())
    if _is_agreement(run, metric):
        chosen = slice(None) if rows is None else rows
        otherwise = decided(run, name, split)[chosen] != decided(run, BASELINE, split)[chosen]
        return disagreement(int(otherwise.any(axis=1).sum()), count, tries)
    before, after = (measure(run, each, split, metric, rows) for each in (BASELINE, name))
    return bootstrap_drop(before, after, count, resamples=resamples, tries=tries)


def _is_agreement(run: Run, metric: Metric) -> bool:
    """Whether a metric is the share of rows that are decided as the baseline does."""
    return metric.kind == "agreement" or (metric.kind == "accuracy" and not run.data.labelled)


def _points(run: Run, name: str, split: str, metric: Metric, rows: Array | None) -> float:
    """The drop alone."""
    whole = np.ones((1, len(run.data.splits[split].texts) if rows is None else int(rows.sum())), dtype=np.float32)
    before, after = (measure(run, each, split, metric, rows)(whole)[0] for each in (BASELINE, name))
    return float(100 * (before - after))


def parts(run: Run, split: str) -> list[Portion]:
    """The parts of a split whose quality is told apart; none on which the metric would mean nothing."""
    rows, right = run.data.splits[split], actual(run, split)
    found = [*by_group(rows.groups, run.request.slice_column or "group"), *by_length(rows.texts)]
    if split in run.tokens:
        found += by_pieces(run.tokens[split])
    if run.data.task == "regression":
        return [part for part in found if part.rows.sum() >= FEWEST_NUMBERS]
    if run.metric.kind in ("accuracy", "agreement"):  # of rows, whatever labels they have
        return found
    return [part for part in found if right[part.rows].any()]


FEWEST_NUMBERS = 3
"""Any two numbers are perfectly correlated."""


def glance(run: Run, rows: Array, scores: Array) -> Drop | None:
    """The drop on some ``rows`` of dev, their numbers, of which these are a variant's ``scores``.

    Thresholds of both, the baseline and the variant, are tuned on these very rows: what that flatters cancels out, and
    the same scores lose nothing. None with random weights, whose drop means nothing.
    """
    if run.checkpoint.random_weights:
        return None
    tries = run.budget.tries
    both = run.scored[BASELINE].dev[rows], scores
    before, after = (_decided_on(run, rows, each) for each in both)
    if _is_agreement(run, run.metric):
        return disagreement(int((after != before).any(axis=1).sum()), len(rows), tries)
    right = actual(run, "dev")[rows] if run.data.labelled else before
    of_baseline, of_variant = (
        run.metric.on(each, said, right, run.data.labels) for each, said in zip(both, (before, after), strict=True)
    )
    return bootstrap_drop(of_baseline, of_variant, len(rows), resamples=run.metric.resamples, tries=tries)


def _decided_on(run: Run, rows: Array, scores: Array) -> Array:
    """The labels that ``scores`` of some rows of dev give, by thresholds that are tuned on them if none were given."""
    if run.data.task == "regression":
        return scores
    thresholds = run.thresholds
    if thresholds is None and run.data.task == "multi_label":
        thresholds = tune_thresholds(scores, run.data.splits["dev"].targets[rows])
    return predict(scores, thresholds)


def candidate(run: Run, name: str) -> Candidate:
    """A servable variant that was scored on dev, as far as it was measured."""
    return Candidate(
        name=name,
        timing=run.measured.get(name, Timing(None, None)),
        drop=drop(run, name, "dev", run.budget.tries),
        size_mb=run.artifacts[name].size_bytes / 1e6,
        slices=slice_drops(run, name, "dev"),
        numbers=numbers_drop(run, name, "dev", run.budget.tries),
        source={stage.name: stage.parent for stage in run.recipe.stages}[name],
        compressed=not as_it_was(run, name),
        published=_is_published(run, run.scored[name].artifact),
        problem=problem(run, name),
        left=run.left[name].reason if name in run.left else None,
    )


def candidates(run: Run) -> list[Candidate]:
    """The variants that can be served and were measured, or left by a search, in the recipe's order.

    Raises :class:`UnfaithfulError` if none of them answers as it was measured.
    """
    names = [name for name in run.scored if name in run.measured or name in run.left]
    found = [candidate(run, name) for name in names if name != BASELINE and run.artifacts[name].servable]
    if all(each.problem for each in found if each.left is None):
        problems = "; ".join(f"{each.name}: {each.problem}" for each in found if each.left is None)
        raise UnfaithfulError(
            f"Nothing can be published: no variant answers as it was measured. {problems}.\n"
            "The version before, if any, stays. Please report this."
        )
    return found


def numbers_drop(run: Run, name: str, split: str, tries: int = 1) -> Drop | None:
    """What Pearson's correlation loses, of a regression by the default metric; None for everything else.

    Spearman's sees the order of the numbers alone. Quantization can move them and keep it: a threshold that somebody
    has set on them would then mean something else.
    """
    if run.data.task != "regression" or run.recipe.metric is not None:
        return None
    return drop(run, name, split, tries, PEARSON)


PEARSON = Metric("pearson")


def problem(run: Run, name: str) -> str | None:
    """Why a variant cannot be published, however fast and good it is; None if there is no reason."""
    if not (difference := run.difference(name, "dev")) <= run.tolerance(run.scored[name].artifact):
        return f"the server's scores differ from those in process by up to {difference:.1e}"
    if name in run.measured and run.measured[name].failed:
        return f"{run.measured[name].failed} of the requests to it failed"
    return None


def as_it_was(run: Run, name: str) -> bool:
    """Whether it computes the baseline's model in the baseline's numbers, only in another format."""
    steps = run.lineage(name)
    if BASELINE not in steps:
        return False
    after = [run.artifacts[step].manifest.stage for step in steps[steps.index(BASELINE) + 1 :]]
    same_numbers = run.artifacts[name].manifest.is_fp32 == run.artifacts[BASELINE].manifest.is_fp32
    return same_numbers and all(stage == "export" for stage in after)


def _is_published(run: Run, artifact: Artifact) -> bool:
    """Whether the served version of the run's name ships the same files."""
    with suppress(ArtifactError, RepositoryError):  # damaged: then it is not
        version = published(run.request.repository, run.name)
        if version is not None:
            there = Artifact.load(version.folder).manifest.files
            ours = artifact.manifest.files
            return all(
                there.get(file, {}).get("sha256") == ours[file]["sha256"] for file in artifact.manifest.deployable
            )
    return False
