"""What a training takes is known before it is spent, and refused where there is less, by planted limits."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bantam.artifact import Artifact, sha256
from bantam.errors import UserError
from bantam.run import builder as pipeline
from bantam.run.request import OptimizeRequest
from bantam.run.state import Run
from optimizer import finetune
from optimizer.catalog import Checkpoint
from optimizer.config import AdapterConfig, FinetuneConfig
from optimizer.data import Dataset
from optimizer.load.model import load_model
from optimizer.recipe import Recipe
from optimizer.training import classifier, forecast, minutes, progress, room, trainer
from optimizer.training.forecast import mean_step_s
from tests.optimizer.moods import CONFIG, context_in
from tests.optimizer.toy_decoder import load_toy_decoder

SHORT = CONFIG.model_copy(update={"epochs": 1.0})
LORA = AdapterConfig(method="lora")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_toy_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 0.2 ms a token longer: much more than what differs from one run to the next."""
    step = trainer.RepeatableTrainer.training_step

    def slower(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> torch.Tensor:
        time.sleep(2e-4 * inputs["input_ids"].numel())
        return step(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainer.RepeatableTrainer, "training_step", slower)


@pytest.mark.parametrize("adapter", [None, LORA, AdapterConfig(method="qlora", target_modules=("q_proj",))])
def test_needs_are_those_of_the_model_that_is_trained(
    adapter: AdapterConfig | None, tmp_path: Path, moods: Dataset, decoder: Checkpoint
) -> None:
    config = FinetuneConfig(name="baseline", adapter=adapter)
    needs = room.needs_of(config, context_in(tmp_path, moods, decoder))
    model = load_model(decoder.folder, labels=moods.labels, task=moods.task)
    classifier.set_up(model, config)
    trained = sum(each.nbytes for each in model.parameters() if each.requires_grad) / 1e6
    assert needs.gradients == pytest.approx(trained)
    assert needs.optimizer == pytest.approx(2 * trained)
    states = [getattr(each, "quant_state", None) for each in model.parameters()]
    # Of NF4, the scales of scales are rounded up to whole blocks in matrices as small as these.
    scales = sum(each.absmax.nbytes + each.state2.absmax.nbytes for each in states if each is not None)
    assert needs.weights == pytest.approx((sum(each.nbytes for each in model.parameters()) + scales) / 1e6, rel=0.01)


def test_galore_keeps_less_than_adamw(tmp_path: Path, moods: Dataset, decoder: Checkpoint) -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(room, "GALORE_RANK", 8)
    context = context_in(tmp_path, moods, decoder)
    config = FinetuneConfig(name="baseline")
    adamw, galore = (
        room.needs_of(config.model_copy(update={"optimizer": each}), context) for each in ("adamw", "galore")
    )
    monkeypatch.undo()
    assert galore.optimizer < 0.5 * adamw.optimizer
    assert galore.gradients == adamw.gradients


def test_too_little_memory_is_known_before_weights_are_loaded(
    tmp_path: Path, moods: Dataset, decoder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(finetune, "load_checkpoint", never)
    monkeypatch.setattr(room, "available_mb", lambda: 0.9)
    with pytest.raises(UserError, match=r"needs at least .* GB of memory .*weights.*gradients.*optimizer's") as refused:
        finetune.run(None, FinetuneConfig(name="baseline"), context_in(tmp_path, moods, decoder))
    assert refused.value.exit_code == 2
    assert 'adapter = { method = "lora" }' in str(refused.value)
    assert "a GPU (TARGET=gpu)" in str(refused.value)
    monkeypatch.setattr(room, "available_mb", lambda: 0.01)
    with pytest.raises(UserError) as refused:
        finetune.run(None, FinetuneConfig(name="baseline"), context_in(tmp_path, moods, decoder))
    assert "lora" not in str(refused.value)


def test_too_little_disk_is_known_as_early(
    tmp_path: Path, moods: Dataset, decoder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(UserError, match=r"of disk \(3 checkpoints and the model\)"):
        finetune.run(None, FinetuneConfig(name="baseline"), context_in(tmp_path, moods, decoder))


def test_activations_that_will_not_fit_are_found_on_the_first_steps(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "available_mb", lambda: -1.0)
    with pytest.raises(UserError, match=r"smaller batch_size or max_length, gradient_checkpointing") as refused:
        finetune.run(None, SHORT, context_in(tmp_path, moods, untrained))
    assert refused.value.exit_code == 2


@pytest.mark.usefixtures("slow_steps")
def test_what_was_foreseen_is_what_it_took(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    said: list[str] = []
    context = replace(context_in(tmp_path, moods, untrained), log=said.append)
    found = finetune.run(None, SHORT, context).manifest.metrics["forecast"]
    assert found["seconds"] / 1.5 < found["took_s"] < found["seconds"] * 1.5
    assert found["memory_mb"] / 1.2 < found["took_mb"] < found["memory_mb"] * 1.2
    assert len(found["timed"]) == forecast.TIMED
    assert any("steps of" in line and "GB of memory" in line for line in said)


def test_the_longest_batch_is_tried_early_and_changes_nothing(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor the random numbers of dropout."""
    seen: list[int] = []
    step = trainer.RepeatableTrainer.training_step

    def noted(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> torch.Tensor:
        seen.append(inputs["input_ids"].numel())
        return step(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainer.RepeatableTrainer, "training_step", noted)
    tried = finetune.run(None, SHORT, context_in(tmp_path / "tried", moods, untrained))
    extra = forecast.WARM_UP + forecast.TIMED
    assert seen.pop(extra) == max(seen)
    steps, seen[:] = list(seen), []
    monkeypatch.setattr(forecast.Forecast, "_pass_longest", lambda self: None)
    untried = finetune.run(None, SHORT, context_in(tmp_path / "untried", moods, untrained))
    assert seen == steps
    assert sha256(tried.folder / "model.safetensors") == sha256(untried.folder / "model.safetensors")


def test_a_limit_of_hours_refuses_with_the_rows_that_fit(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = replace(context_in(tmp_path, moods, untrained), deadline=time.monotonic() + 0.0001 * 3600)
    config = SHORT.model_copy(update={"epochs": 10.0})
    with pytest.raises(UserError, match=r"MAX_HOURS leaves 0 s\.\nWhat would fit") as refused:
        finetune.run(None, config, context)
    assert refused.value.exit_code == 2
    monkeypatch.setattr(forecast, "mean_step_s", lambda timed, tokens: 10.0)
    monkeypatch.setattr(forecast.Forecast, "_dev_s", lambda self: 1.0)
    # Twenty looks at dev leave about 980 s for 10 epochs: 98 steps in all, of 16 rows.
    context = replace(context, deadline=time.monotonic() + 1000)
    with pytest.raises(UserError, match=r"rows = 1[56]\d in the recipe instead of 605"):
        finetune.run(None, config, context)


def test_the_limit_goes_from_the_command_to_the_training(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    recipe = Recipe(name="toy", description="toy", stages=(SHORT,))
    run = Run(OptimizeRequest(max_hours=0.0), recipe, moods, untrained, {}, tmp_path, "toy", None)  # type: ignore[arg-type]
    assert run.deadline == run.started
    assert replace(run, request=OptimizeRequest()).deadline is None
    with pipeline.locked(tmp_path / "run"), pytest.raises(UserError, match="MAX_HOURS leaves 0 s"):
        pipeline.run(recipe, moods, {None: untrained}, tmp_path / "run", log=lambda _: None, deadline=run.deadline)


def test_a_training_of_few_steps_ends_with_them(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    config = SHORT.model_copy(update={"epochs": 0.2})
    found = finetune.run(None, config, context_in(tmp_path, moods, untrained)).manifest.metrics
    assert found["steps"] == 8
    assert len(found["forecast"]["timed"]) == 8 - forecast.WARM_UP


class Counted:
    """How often training was begun on trial."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trials = 0
        rows = minutes._rows

        def counted(*args: Any) -> int:
            self.trials += 1
            return rows(*args)

        monkeypatch.setattr(minutes, "_rows", counted)


def test_as_many_rows_as_fit_the_minutes_also_after_a_kill(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 2 seconds, 0.2 for each of two looks at dev: 1.6 s for steps of 0.1 s.
    monkeypatch.setattr(forecast, "mean_step_s", lambda timed, tokens: 0.1)
    monkeypatch.setattr(forecast.Forecast, "_dev_s", lambda self: 0.2)
    config, counted = SHORT.model_copy(update={"minutes": 2 / 60}), Counted(monkeypatch)
    said: list[str] = []
    context = replace(context_in(tmp_path, moods, untrained), log=said.append)
    step = progress.ProgressBar.on_step_end

    def die(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        step(self, args, state, control, **more)
        if self.doing == "fine-tuning":
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.ProgressBar, "on_step_end", die)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(None, config, context)
    monkeypatch.setattr(progress.ProgressBar, "on_step_end", step)
    artifact: Artifact = finetune.run(None, config, context)
    assert counted.trials == 1
    rows = artifact.manifest.metrics["rows"]
    assert rows == 16 * config.batch_size
    assert f"rows = {rows} in a recipe" in "".join(said)
    assert artifact.manifest.lineage[-1]["config"]["rows"] == rows
    assert not (tmp_path / "scratch" / "trial").exists()
    given = finetune.run(None, SHORT.model_copy(update={"rows": rows}), context_in(tmp_path / "2", moods, untrained))
    weights = "model.safetensors"
    assert given.manifest.files[weights]["sha256"] == artifact.manifest.files[weights]["sha256"]


def test_minutes_that_hold_no_training_are_refused(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    config = SHORT.model_copy(update={"minutes": 1e-5})
    with pytest.raises(UserError, match=r"time for 0 steps of .* expected 10 at least"):
        finetune.run(None, config, context_in(tmp_path, moods, untrained))


def test_a_step_of_mean_length_is_on_the_line_through_those_that_were_timed() -> None:
    timed = [(tokens, 0.1 + 0.001 * tokens) for tokens in (100, 200, 400)]
    assert mean_step_s(timed, 300) == pytest.approx(0.4)
    assert mean_step_s([(100, 0.2), (100, 0.4)], 100) == pytest.approx(0.3)
    # Longer texts that took less time: noise, so length says nothing.
    assert mean_step_s([(100, 0.4), (200, 0.2)], 1000) == pytest.approx(0.3)
    # Steeper than through zero: noise, so all is for the tokens.
    assert mean_step_s([(100, 0.1), (200, 0.5)], 50) == pytest.approx(0.1)
