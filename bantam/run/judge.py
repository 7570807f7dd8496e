"""What the scores and times of a run mean: decisions, drops against the baseline, and the candidates of the choice."""

from __future__ import annotations

from contextlib import suppress

from bantam.artifact import Artifact
from bantam.errors import ArtifactError, RepositoryError, UnfaithfulError
from bantam.report.schema import BASELINE
from bantam.run.choose import Candidate
from bantam.run.state import SCORE_TOLERANCE, Run
from optimizer.evaluate import Drop, bootstrap_drop, cross_fitted, one_hot, predict
from optimizer.metric import Array, Measure
from serving.repository import published


def decided(run: Run, name: str, split: str, answers: Array | None = None) -> Array:
    """The labels that a variant gives, bool ``[rows, labels]``; ``answers``: those of a server instead of its own.

    On dev no row is decided by thresholds that were tuned on it; on test by those of all of dev, which are published.
    """
    scored = run.scored[name]
    if split == "dev":
        return cross_fitted(scored.dev, run.data.splits["dev"].targets, answers)
    return predict(scored.on(split) if answers is None else answers, scored.thresholds)


def actual(run: Run, split: str) -> Array:
    """The labels that the texts of a split have, bool ``[rows, labels]``."""
    return one_hot(run.data.splits[split].targets, len(run.data.labels))


def measure(run: Run, name: str, split: str) -> Measure:
    """The budget's metric of a variant on a split, as a function of row weights."""
    scores = run.scored[name].on(split)
    return run.recipe.metric.on(scores, decided(run, name, split), actual(run, split), run.data.labels)


def drop(run: Run, name: str, split: str) -> Drop | None:
    """What a variant loses against the baseline on a split; None for the baseline, and for random weights."""
    if name == BASELINE or run.checkpoint.random_weights:
        return None
    if (name, split) not in run.drops:
        rows, resamples = len(run.data.splits[split].texts), run.recipe.metric.resamples
        both = (measure(run, BASELINE, split), measure(run, name, split))
        run.drops[name, split] = bootstrap_drop(*both, rows, resamples=resamples)
    return run.drops[name, split]


def candidates(run: Run) -> list[Candidate]:
    """The measured variants that can be served, in the recipe's order.

    Raises :class:`UnfaithfulError` if none of them answers as it was measured.
    """
    parents = {stage.name: stage.parent for stage in run.recipe.stages}
    found = [
        Candidate(
            name=name,
            timing=timing,
            drop=drop(run, name, "dev"),
            source=parents[name],
            compressed=not as_it_was(run, name),
            published=_is_published(run, run.scored[name].artifact),
            problem=problem(run, name),
        )
        for name, timing in run.measured.items()
        if name != BASELINE and run.artifacts[name].servable
    ]
    if all(candidate.problem for candidate in found):
        problems = "; ".join(f"{candidate.name}: {candidate.problem}" for candidate in found)
        raise UnfaithfulError(
            f"Nothing can be published: no variant answers as it was measured. {problems}.\n"
            "The version before, if any, stays. Please report this."
        )
    return found


def problem(run: Run, name: str) -> str | None:
    """Why a variant cannot be published, however fast and good it is; None if there is no reason."""
    if not (difference := run.difference(name, "dev")) <= SCORE_TOLERANCE:
        return f"the server's scores differ from those in process by up to {difference:.1e}"
    if run.measured[name].failed:
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
