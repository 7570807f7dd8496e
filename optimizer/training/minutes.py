"""As many rows as train in the minutes that a recipe allows: found out once, by a trial, and then kept to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch

from bantam.errors import UserError
from bantam.files import write_text
from bantam.memory import give_back
from optimizer import distributed
from optimizer.config import FinetuneConfig
from optimizer.stage import RunContext
from optimizer.training.forecast import TIMED, WARM_UP, Figures, duration

KEPT = "rows.json"
"""File in the stage's scratch folder: a training that goes on must go on with the same rows."""
TRIAL_STEPS = 4 * (WARM_UP + TIMED)
"""Length of the training that is begun on trial: long enough to end before it looks at dev."""
FEWEST_STEPS = 10
"""With fewer, nothing is learnt."""


def within_minutes(
    config: FinetuneConfig, context: RunContext, trial: Callable[[FinetuneConfig, RunContext], Figures]
) -> FinetuneConfig:
    """The config with at most as many ``rows`` as train in its ``minutes``; as it is without them.

    ``trial`` begins a training, and ends with the first steps' figures. A machine's speed decides, so the number is not
    part of the stage's key: it is in the artifact's lineage, and said, to be written into a recipe for others. Raises
    :class:`UserError` if the time is too short for any training.
    """
    minutes = config.minutes
    if minutes is None:
        return config
    kept = context.scratch / KEPT
    if not distributed.agreed(kept.is_file(), context.device):
        rows = _rows(minutes, config, context, trial)
        if distributed.is_main():
            write_text(kept, json.dumps({"rows": rows}))
        distributed.wait(context.device)
    return config.model_copy(update={"rows": int(json.loads(kept.read_text(encoding="utf-8"))["rows"])})


def _rows(
    minutes: float,
    config: FinetuneConfig,
    context: RunContext,
    trial: Callable[[FinetuneConfig, RunContext], Figures],
) -> int:
    most = min(config.rows or len(context.data.splits["train"].texts), len(context.data.splits["train"].texts))
    # Looks at dev could end it, for want of patience, before it is timed.
    update = {"rows": min(most, TRIAL_STEPS * config.batch_size), "epochs": 1.0, "evaluations_per_epoch": 1}
    short = config.model_copy(update=update)
    scratch = context.scratch / "trial"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        figures = trial(short, replace(context, scratch=scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        # Its model and optimizer hold each other, and the training that follows needs the room.
        give_back()
        torch.cuda.empty_cache()
    if figures.step_s is None:
        context.log(
            f"{config.name}: {most:,} rows are too few to time a step; all of them are trained on, whatever the "
            f"{minutes:g} minutes of the recipe"
        )
        return most
    left = 60 * minutes - config.evaluations_per_epoch * config.epochs * figures.dev_s
    steps = int(left / (figures.step_s * config.epochs))
    if steps < FEWEST_STEPS:
        raise UserError(
            f"Stage {config.name!r}: in {minutes:g} minutes there is time for {max(steps, 0)} steps of "
            f"{figures.step_s:.2g} s, beside looking at dev ({duration(figures.dev_s)} each time); expected "
            f"{FEWEST_STEPS} at least.\nAllow more minutes or fewer dev_rows; or take a smaller model, or a GPU."
        )
    rows = min(most, steps * config.batch_size)
    context.log(
        f"{config.name}: {rows:,} of {most:,} rows train in {minutes:g} minutes here (rows = {rows} in a recipe "
        "has the same ones elsewhere)"
    )
    return rows
