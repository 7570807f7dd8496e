"""The rehearsal: what will fail is said before anything is trained, in seconds, and passes only once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import ModelError, ParityError, StageError
from bantam.run.rehearse import rehearse, rehearsed
from bantam.run.request import OptimizeRequest
from bantam.run.state import Run
from optimizer import export, finetune, quantize
from optimizer.catalog import Checkpoint
from optimizer.config import AdapterConfig, AdoptConfig, FinetuneConfig
from optimizer.data import Dataset
from optimizer.recipe import load_recipe
from optimizer.training import adapters, galore, one_step
from serving.version_folder import Identity

RECIPE = """
description = "a student in int8"
max_drop_points = 1.0
[[stages]]
stage = "finetune"
name = "baseline"
[[stages]]
stage = "distill"
name = "student"
parent = "baseline"
layers = 1
[[stages]]
stage = "export"
name = "onnx"
parent = "student"
format = "onnx"
[[stages]]
stage = "quantize"
name = "int8"
parent = "onnx"
method = "onnx-dynamic-int8"
"""


@pytest.fixture
def run(tmp_path: Path, moods: Dataset, untrained: Checkpoint, cache: Path) -> Run:
    request = OptimizeRequest(build=tmp_path / "build", repository=tmp_path / "repo")
    folder = tmp_path / "build" / "run"
    identity = Identity("it", "1", "moods", "2")
    (tmp_path / "mine.toml").write_text(RECIPE)
    recipe = load_recipe(str(tmp_path / "mine.toml")).exporting("baseline")
    return Run(request, recipe, moods, untrained, {None: untrained}, folder, "it", identity)


def test_students_and_fewer_layers_are_passed_over_for_what_they_are_made_from() -> None:
    stages = {stage.name: stage for stage in rehearsed(load_recipe("small")).stages}
    assert isinstance(stages["baseline"], AdoptConfig)
    assert not {"distilled", "both"} & {*stages}
    assert stages["both-cut"].parent == "baseline"
    assert stages["small"].parent == "both-cut"
    assert stages["small-onnx-int8"].parent == "small-onnx-fp32"


def test_all_that_follows_the_training_is_tried_without_any_and_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise StageError("no kernel for this")

    said: list[str] = []
    monkeypatch.setattr(finetune, "run", None)
    with monkeypatch.context() as patch:
        patch.setattr(quantize, "run", broken)
        assert rehearse(run, said.append) == {"int8": "no kernel for this"}
    beginning = "rehearsal: a step of training and what follows it, on a small untrained model"
    assert said == [beginning, "int8 will probably fail: no kernel for this"]
    assert not run.folder.exists()
    assert [path.name for path in run.folder.parent.iterdir()] == ["store"]
    assert rehearse(run, said.append) == {}
    with monkeypatch.context() as patch:
        patch.setattr(quantize, "run", None)
        assert rehearse(run, said.append) == {}, "what has passed is in the store"
    monkeypatch.setattr(export, "run", broken)
    other = replace(run, data=replace(run.data, digest="another"))
    with pytest.raises(StageError, match="no kernel for this"):
        rehearse(other, said.append)


def test_a_run_that_trains_nothing_needs_none(run: Run) -> None:
    adopted = replace(run, recipe=load_recipe("int8").adopting(["baseline"]))
    assert rehearse(adopted, lambda line: pytest.fail(line)) == {}


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_merged_in_the_rehearsal_too(
    method: Any, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig(name="baseline", adapter=AdapterConfig(method=method), gradient_checkpointing=True)
    merge, differences = adapters.merge, []
    monkeypatch.setattr(adapters, "merge", lambda *given: differences.append(merge(*given)))
    one_step.take_one_step(untrained, moods, config, lambda line: None)
    assert len(differences) == 1
    assert differences[0] < 1e-4

    def broken(*_: object) -> None:
        raise ParityError("another model")

    monkeypatch.setattr(adapters, "merge", broken)
    with pytest.raises(ParityError, match="another model"):
        one_step.take_one_step(untrained, moods, config, lambda line: None)


def test_galore_needs_layers_of_its_class_in_the_rehearsal_too(
    moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(galore, "linears", lambda model, *kinds: [])
    with pytest.raises(ModelError, match="has no layers for optimizer"):
        one_step.take_one_step(untrained, moods, FinetuneConfig(name="baseline", optimizer="galore"), lambda line: None)


def test_only_the_training_of_the_baseline_ends_a_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FinetuneConfig(name="other", optimizer="galore")
    both = replace(run, recipe=run.recipe.model_copy(update={"stages": (*run.recipe.stages, other)}))
    wrong = {"other"}

    def step(checkpoint: Checkpoint, data: Dataset, config: FinetuneConfig, log: Any) -> None:
        if config.name in wrong:
            raise ModelError("no layers for it")

    monkeypatch.setattr(one_step, "take_one_step", step)
    said: list[str] = []
    assert rehearse(both, said.append) == {"other": "no layers for it"}
    assert said[-1] == "other will probably fail: no layers for it"
    wrong.add("baseline")
    with pytest.raises(ModelError, match="no layers for it"):
        rehearse(both, said.append)
