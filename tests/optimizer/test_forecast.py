"""What a training that goes on is foreseen to take, and what a trial leaves behind, without any training."""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bantam.errors import UserError
from optimizer.catalog import Checkpoint
from optimizer.config import FinetuneConfig
from optimizer.data import Dataset
from optimizer.stage import RunContext
from optimizer.training import forecast
from optimizer.training.forecast import Figures, Forecast, step_tokens
from optimizer.training.minutes import within_minutes
from optimizer.training.trainer import GroupedByLength
from tests.optimizer.moods import context_in

CONFIG = FinetuneConfig(name="baseline", minutes=1.0, evaluations_per_epoch=20)
LENGTHS = [3 + number % 37 for number in range(160)]
STEPS = 20


@pytest.fixture
def context(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> RunContext:
    return context_in(tmp_path, moods, untrained)


@pytest.fixture
def trainer() -> Any:
    """Of 160 rows in batches of 8: 20 steps an epoch."""
    args = SimpleNamespace(train_batch_size=8, gradient_accumulation_steps=1, eval_steps=10)
    rows = [{"input_ids": [0] * length} for length in LENGTHS]
    return SimpleNamespace(
        train_dataset=rows, args=args, _get_train_sampler=lambda: GroupedByLength(LENGTHS, 8, seed=0)
    )


def test_steps_are_those_of_the_epoch_that_a_training_goes_on_in(trainer: Any, context: RunContext) -> None:
    sampler = GroupedByLength(LENGTHS, 8, seed=0)
    expected = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        expected += [8 * max(LENGTHS[row] for row in order[start : start + 8]) for start in range(0, 160, 8)]
    assert step_tokens(trainer, 1) == expected[:STEPS] != step_tokens(trainer)
    watched = Forecast(trainer, context, "fine-tuning")
    first = STEPS + 15
    state = SimpleNamespace(global_step=first, max_steps=3 * STEPS)
    watched.on_train_begin(None, state, None)
    for _ in range(forecast.WARM_UP + forecast.TIMED - 1):
        watched.on_step_begin(None, state, None)
        state.global_step += 1
        watched.on_step_end(None, state, None)
    timed = [tokens for tokens, _ in watched.figures.timed]
    assert timed == expected[15 + forecast.WARM_UP :][: len(timed)]
    assert len(timed) == forecast.TIMED - 1


def test_rows_that_fit_are_those_of_a_training_from_its_first_step_on(
    trainer: Any, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "mean_step_s", lambda timed, tokens: 10.0)
    monkeypatch.setattr(Forecast, "_dev_s", lambda self: 1.0)
    monkeypatch.setattr(Forecast, "_pass_longest", lambda self: None)
    watched = Forecast(trainer, replace(context, deadline=time.monotonic() + 60.5), "fine-tuning")
    # All 100 steps and 10 looks at dev take 1,010 s, the 10 that are left and one look 101 s.
    with pytest.raises(UserError, match=r"rows = 8 in the recipe instead of 160"):
        watched._foresee(SimpleNamespace(global_step=90, max_steps=100))


def test_a_trial_looks_at_dev_once_and_says_if_it_has_found_nothing(context: RunContext) -> None:
    said: list[str] = []

    def trial(short: FinetuneConfig, aside: RunContext) -> Figures:
        assert (short.evaluations_per_epoch, short.epochs) == (1, 1.0)
        return Figures()

    found = within_minutes(CONFIG, replace(context, log=said.append), trial)
    assert found.rows == len(context.data.splits["train"].texts)
    assert found.evaluations_per_epoch == 20
    assert "too few to time a step; all of them are trained on, whatever the 1 minutes" in said[0]


class Model:
    """In a cycle, as a model and what trains it are."""

    def __init__(self) -> None:
        self.itself = self


def test_a_trial_gives_its_memory_back(context: RunContext) -> None:
    models: list[weakref.ref[Model]] = []

    def trial(short: FinetuneConfig, aside: RunContext) -> Figures:
        model = Model()
        models.append(weakref.ref(model))
        return Figures()

    gc.disable()
    try:
        within_minutes(CONFIG, context, trial)
        assert models[0]() is None
    finally:
        gc.enable()
