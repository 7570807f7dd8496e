"""``bantam optimize``: from a model's name to a measured, published endpoint."""

from __future__ import annotations

import time
from pathlib import Path

import tomli_w

from bantam.errors import GateError, ParityError, StageError, UnfaithfulError
from bantam.files import write_text
from bantam.memory import MemoryWatch
from bantam.report.file import REPORT_JSON, write_report
from bantam.report.schema import BASELINE, Report
from bantam.run import builder as pipeline
from bantam.run import evaluator, judge, record, search, search_record, text_parity
from bantam.run.choose import Choice, choose, contradicts
from bantam.run.prepare import prepare
from bantam.run.publish import publish_chosen
from bantam.run.quality import of_order
from bantam.run.rehearse import rehearse
from bantam.run.request import OptimizeRequest
from bantam.run.score import score_name
from bantam.run.state import Log, Run
from bantam.run.store import Store
from optimizer import distributed
from optimizer.evaluate import Drop

LOOKS = (text_parity.SPLIT, evaluator.GLANCE)
"""What else than splits a run has scores of."""


def optimize(request: OptimizeRequest, log: Log) -> tuple[Report, Path]:
    """Make every variant, serve all of them, measure, publish the best; returns the report and the run's folder.

    Raises any :class:`BantamError`; whatever was finished is kept for the next call, and what was served before stays.
    A :class:`GateError`, which says why nothing was published, comes after the report was written; an
    :class:`UnfaithfulError` may come before, when nothing could be chosen.
    """
    started = time.monotonic()
    with distributed.main_first(request.device):
        run = prepare(request, log)
    with pipeline.locked(run.folder), search.keeping_times(run), MemoryWatch() as memory:
        rehearse(run, log)
        make(run, log)
        if run.recipe.search is None:
            evaluator.measure_variants(run, run.scored, memory, log)
        else:
            search.measure(run, run.recipe.search, memory, log)
        choice = _choose(run, memory, log)
        if run.recipe.search is not None:
            search_record.write_chosen(run, choice.chosen)
        if choice.unmet is None:
            evaluator.score_test(run, [BASELINE, choice.chosen], log)
        refused = _refused(run, choice)
        if refused is None:
            try:
                publish_chosen(run, choice.chosen, log)
            except GateError as exc:
                refused = exc
        run.peak_rss_mb, run.seconds = memory.peak_mb, time.monotonic() - started
        report = record.report(run, choice)
        write_report(report, run.folder)
    if refused is not None:
        log(f"what was measured is in {run.folder / REPORT_JSON}")
        raise refused
    return report, run.folder


def make(run: Run, log: Log) -> None:
    """Make every variant and score it on dev, or keep what is there. The caller holds the folder's lock."""
    # As it was resolved, profile and defaults applied: --recipe with this file runs it again.
    write_text(run.folder / "recipe.toml", tomli_w.dumps(run.recipe.model_dump(mode="json", exclude_none=True)))
    built = pipeline.run(
        run.recipe,
        run.data,
        run.checkpoints,
        run.folder,
        device=run.request.device,
        log=log,
        deadline=run.deadline,
    )
    run.artifacts = built.artifacts
    run.failed = {name: str(exc) for name, exc in built.failed.items()}
    _check_texts(run, log)
    measured = [stage.name for stage in run.recipe.stages if stage.measure and stage.name in run.artifacts]
    if run.recipe.search is not None:
        first = [name for name in (BASELINE, run.safe) if name is not None]
        _score(run, first, log)
        measured = [name for name in search.glance(run, run.recipe.search, measured, log) if name not in first]
    _score(run, measured, log)
    for note in of_order(run):
        log(note)
    # Last: what the recipe has under another name than before is shown under one of them at any time.
    stages = [stage.name for stage in run.recipe.stages]
    scores = [score_name(stage, split) for stage in stages for split in (*run.data.splits, *LOOKS)]
    Store(run.folder.parent, log).show_only([*stages, *scores], run.folder)


def _check_texts(run: Run, log: Log) -> None:
    """What computes the baseline as it is must treat texts as the baseline does, before anything is measured."""
    for name, artifact in list(run.artifacts.items()):
        if not artifact.servable or not judge.as_it_was(run, name):
            continue
        try:
            difference = text_parity.check(run.artifacts[BASELINE], artifact, evaluator.context(run, log))
        except ParityError as exc:
            if name == run.safe:
                raise
            run.failed[name] = str(exc)
            del run.artifacts[name]
            log(f"{name:<24} failed: {exc}")
        else:
            log(f"{name:<24} treats texts as the model's own tokenizer does, largest difference {difference:.1e}")


def _score(run: Run, names: list[str], log: Log) -> None:
    """Score variants on dev. One that cannot run here is one that failed, unless nothing can be chosen without it."""
    for name in names:
        try:
            evaluator.score_dev(run, [name], log)
        except StageError as exc:
            if name in (BASELINE, run.safe):
                raise
            run.failed[name] = str(exc)
            log(f"{name:<24} failed: {exc}")


def take_part(request: OptimizeRequest) -> None:
    """What a process of several does that is not the main one: it trains with the others, and writes nothing."""
    with distributed.main_first(request.device):
        run = prepare(request, lambda _: None)
    pipeline.run(
        run.recipe,
        run.data,
        run.checkpoints,
        run.folder,
        device=request.device,
        log=lambda _: None,
        deadline=run.deadline,
    )


def _choose(run: Run, memory: MemoryWatch, log: Log) -> Choice:
    """The variant to publish, measured by then: the safe choice may be one that the recipe does not measure."""
    choice = choose(judge.candidates(run), run.measured[BASELINE], run.budget, run.safe)
    if choice.chosen not in run.scored:
        log(f"{choice.chosen} is measured too: {choice.why}")
        evaluator.score_dev(run, [choice.chosen], log)
        evaluator.measure_variants(run, [choice.chosen], memory, log)
        choice = choose(judge.candidates(run), run.measured[BASELINE], run.budget, run.safe)
    if problem := judge.problem(run, choice.chosen):
        raise UnfaithfulError(
            f"Nothing was published: {choice.why}. That is {choice.chosen}, but {problem}. The version before stays."
        )
    return choice


def _refused(run: Run, choice: Choice) -> GateError | None:
    """Why nothing may be published although a variant was chosen, or is the nearest; None if it may."""
    if choice.unmet:
        return GateError(f"Nothing was published: {choice.why}. The version before, if any, stays.")
    if run.request.require_gain and not choice.gain:
        return GateError(f"Nothing was published, as --require-gain asks: {choice.why}. The version before stays.")
    if found := _contradicted(run, choice.chosen):
        where, drop = found
        return GateError(
            f"Nothing was published: {choice.chosen} was within {run.budget} of {run.budget.metric} on dev, but on "
            f"test it loses {drop.points:.2f}{where}, and at least {drop.low:.2f} (lower end of the 95% interval).\n"
            "Dev and test differ, or dev is too small. The version before stays."
        )
    return None


def _contradicted(run: Run, chosen: str) -> tuple[str, Drop] | None:
    """The drop on test that says that what dev has shown is not so, and of what it is."""
    drop = judge.drop(run, chosen, "test")
    if drop is not None and contradicts(drop, run.budget):
        return "", drop
    numbers = judge.numbers_drop(run, chosen, "test")
    if numbers is not None and contradicts(numbers, run.budget):
        return " of Pearson's correlation", numbers
    slices = judge.slice_drops(run, chosen, "test")
    if name := run.budget.contradicted_on(slices):
        return f" on {name}", slices[name]
    return None
