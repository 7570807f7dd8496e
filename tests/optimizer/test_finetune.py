"""Fine-tuning at toy size: it learns, it is repeatable, and a run that was killed goes on to the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bantam.artifact import Artifact
from bantam.errors import ModelError, StageError
from benchmarks.architectures.toy import FILLER, MOODS
from optimizer import adopt, finetune
from optimizer.catalog import Checkpoint
from optimizer.config import AdoptConfig, FinetuneConfig
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import quality
from optimizer.load import resolve
from optimizer.load.head import fit, read_head
from optimizer.reference import Reference
from optimizer.training import progress, trainer
from tests.optimizer.moods import CONFIG, context_in, macro_f1


def train(folder: Path, data: Dataset, checkpoint: Checkpoint, config: FinetuneConfig = CONFIG) -> Artifact:
    return finetune.run(None, config, context_in(folder, data, checkpoint))


def test_it_learns_and_the_folder_is_a_hugging_face_checkpoint(fine_tuned: Artifact, moods: Dataset) -> None:
    assert macro_f1(fine_tuned, moods) > 0.9
    assert Reference.load(fine_tuned.folder).model.config.id2label == dict(enumerate(moods.labels))
    assert fine_tuned.manifest.signature.labels == moods.labels
    assert set(fine_tuned.manifest.deployable) >= {"model.safetensors", "config.json", "tokenizer.json"}


def test_what_it_wrote_is_a_classifier_that_is_taken_as_it_is(
    fine_tuned: Artifact, moods: Dataset, tmp_path: Path
) -> None:
    found = resolve(str(fine_tuned.folder))
    head = read_head(found.folder)
    assert head is not None
    assert fit(head, moods.labels, moods.task).labels == moods.labels
    again = adopt.run(None, AdoptConfig(name="baseline"), context_in(tmp_path, moods, found))
    texts = moods.splits["test"].texts[:50]
    scores = [Reference.load(each.folder).probabilities(texts) for each in (fine_tuned, again)]
    assert np.array_equal(scores[0], scores[1])


def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here and not by a fixture: another test may have set the number of threads since, and with it the last bits.
    whole = train(tmp_path / "whole", moods, untrained)
    step, calls = progress.ProgressBar.on_step_end, []

    def die_late(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        calls.append(state.global_step)
        if state.global_step == 60:
            raise KeyboardInterrupt
        step(self, args, state, control, **kwargs)

    monkeypatch.setattr(progress.ProgressBar, "on_step_end", die_late)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", moods, untrained)
    newest = max((tmp_path / "killed" / "scratch").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    # As after a kill in the middle of a save: weights without the state that is written last.
    broken = newest.with_name("checkpoint-9999")
    shutil.copytree(newest, broken)
    (broken / "trainer_state.json").write_text("{")
    monkeypatch.undo()
    resumed = train(tmp_path / "killed", moods, untrained)
    weights = "model.safetensors"
    assert resumed.manifest.files[weights]["sha256"] == whole.manifest.files[weights]["sha256"]
    assert min(calls) == 1


def test_out_of_memory_halves_the_batch_and_accumulates(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.RepeatableTrainer.training_step

    def small_memory(self: Any, model: Any, inputs: Any, *rest: Any, **kwargs: Any) -> torch.Tensor:
        if len(inputs["labels"]) > 4:
            raise torch.OutOfMemoryError("a machine with room for four rows")
        return real(self, model, inputs, *rest, **kwargs)

    monkeypatch.setattr(trainer.RepeatableTrainer, "training_step", small_memory)
    config = CONFIG.model_copy(update={"epochs": 1.0})
    artifact = train(tmp_path, moods, untrained, config)
    assert artifact.manifest.metrics["batch_size"] == 4
    # The same number of steps: four small batches make one of the old size.
    assert artifact.manifest.metrics["steps"] == -(-len(moods.splits["train"].texts) // 16)


def test_memory_that_holds_no_single_text_is_a_clear_error(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("none")

    monkeypatch.setattr(trainer.RepeatableTrainer, "training_step", no_memory)
    with pytest.raises(StageError, match=r"batch of one text.*lower max_length"):
        train(tmp_path, moods, untrained)


def test_single_label_uses_softmax(tmp_path: Path, untrained: Checkpoint) -> None:
    path = tmp_path / "single.csv"
    rows = [f"{word} {filler},{mood}" for mood, words in MOODS.items() for word in words for filler in FILLER]
    path.write_text("text,label\n" + "\n".join(rows))
    data = load_dataset(str(path))
    artifact = train(tmp_path, data, untrained, CONFIG.model_copy(update={"epochs": 20.0}))
    scores = Reference.load(artifact.folder).probabilities(data.splits["test"].texts)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert quality(scores, data.splits["test"].targets, None)["accuracy"] > 0.9


def test_a_folder_that_is_no_model_is_a_clear_error(tmp_path: Path, moods: Dataset) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody-knows"}')
    wrong = Checkpoint("wrong", tmp_path, "test", "local", "Apache-2.0", "digest")
    with pytest.raises(ModelError, match="cannot be loaded as a classifier"):
        train(tmp_path / "out", moods, wrong)
