"""Before hours of training: does what follows it work at all? Tried on a small untrained model of the architecture."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from bantam.errors import StageError, UserError
from bantam.report.schema import BASELINE
from bantam.run import builder as pipeline
from bantam.run import evaluator, text_parity
from bantam.run.state import Log, Run
from optimizer.catalog import Checkpoint
from optimizer.config import (
    AdoptConfig,
    AnyStage,
    CheckpointConfig,
    DistillConfig,
    FinetuneConfig,
    LayersConfig,
    TrainingConfig,
)
from optimizer.data import Dataset
from optimizer.data.sample import draw
from optimizer.recipe import Recipe

ROWS = 64
"""Of each split, for what is calibrated."""


def rehearse(run: Run, log: Log) -> dict[str, str]:
    """Take one step, export, quantize and prune with a small untrained model; returns why stages failed, by name.

    A run without training needs no rehearsal. What passed once is in the store, so that a run that goes on does not
    wait. What fails here is said, and tried all the same when its turn comes: random weights are not the user's.
    Raises :class:`StageError` or :class:`ModelError` if the baseline cannot be trained, or nothing would be left that
    can be served, or served texts would be handled otherwise than by the model's own tokenizer.
    """
    if not any(isinstance(stage, TrainingConfig) for stage in run.recipe.stages):
        return {}
    from optimizer.load.small import small

    log("rehearsal: a step of training and what follows it, on a small untrained model")
    data = _few_rows(run.data)
    checkpoints = {name: small(checkpoint, data) for name, checkpoint in run.checkpoints.items()}
    trial = replace(
        run,
        recipe=rehearsed(run.recipe),
        data=data,
        checkpoint=checkpoints[None],
        checkpoints=checkpoints,
        folder=run.folder.with_name(f"{run.folder.name}.rehearsal"),
    )
    try:
        with pipeline.locked(trial.folder):
            failed = _one_step_each(run.recipe, data, checkpoints)
            built = pipeline.run(trial.recipe, data, checkpoints, trial.folder, device=run.request.device, log=_silent)
            if export := trial.recipe.export_of(BASELINE):
                context = evaluator.context(trial, _silent)
                text_parity.check(built.artifacts[BASELINE], built.artifacts[export], context)
    finally:
        shutil.rmtree(trial.folder, ignore_errors=True)
    failed |= {name: str(exc) for name, exc in built.failed.items()}
    for name, why in failed.items():
        log(f"{name} will probably fail: {why}")
    return failed


def _one_step_each(recipe: Recipe, data: Dataset, checkpoints: Mapping[str | None, Checkpoint]) -> dict[str, str]:
    """Why stages that fine-tune cannot take a step, by name; what the baseline raises is raised."""
    from optimizer.training.one_step import take_one_step

    failed: dict[str, str] = {}
    for stage in recipe.stages:
        if not isinstance(stage, FinetuneConfig):
            continue
        try:
            take_one_step(checkpoints[stage.model], data, stage, _silent)
        except (StageError, UserError) as exc:
            if stage.name == BASELINE:
                raise
            failed[stage.name] = str(exc)
    return failed


def rehearsed(recipe: Recipe) -> Recipe:
    """The recipe without its trainings: each checkpoint as it is, and what is made from it.

    A student, and a model with fewer layers, are passed over for what they are made from.
    """
    stands_for: dict[str, str] = {}
    stages: list[AnyStage] = []
    for stage in recipe.stages:
        if isinstance(stage, CheckpointConfig) and (stage.parent is None or stage.model):
            stages.append(AdoptConfig(name=stage.name, model=stage.model, max_length=stage.max_length))
        elif isinstance(stage, DistillConfig | LayersConfig):
            stands_for[stage.name] = stands_for.get(stage.parent, stage.parent)
        else:
            parent = stands_for.get(str(stage.parent), stage.parent)
            stages.append(stage.model_copy(update={"parent": parent}))
    return recipe.model_copy(update={"stages": tuple(stages)})


def _few_rows(data: Dataset) -> Dataset:
    splits = {name: draw(split, ROWS, 0) for name, split in data.splits.items()}
    return replace(data, splits=MappingProxyType(splits), digest=f"{ROWS} rows of {data.digest}")


def _silent(line: str) -> None:
    """What a rehearsal makes is nothing to the user."""
