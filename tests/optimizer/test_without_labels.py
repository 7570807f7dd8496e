"""Stages that learn, on data of which nobody knows what is right: from what a teacher, or the model itself, says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification
from transformers.trainer_utils import EvalPrediction

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer import distill, prune
from optimizer.catalog import Checkpoint
from optimizer.config import DistillConfig, VocabularyConfig, WidthConfig
from optimizer.data import Dataset
from optimizer.evaluate import said_as_targets
from optimizer.prune.importance import drawn_labels
from optimizer.training.trainer import best_by, dev_metrics
from tests.optimizer.moods import DISTILL, context_in, macro_f1


@pytest.fixture
def unlabelled(moods: Dataset) -> Dataset:
    splits = {name: replace(split, targets=np.zeros_like(split.targets)) for name, split in moods.splits.items()}
    return replace(moods, labelled=False, splits=MappingProxyType(splits))


def test_a_student_learns_from_its_teacher_and_is_judged_by_it(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, unlabelled: Dataset, untrained: Checkpoint
) -> None:
    said: list[str] = []
    context = replace(context_in(tmp_path, unlabelled, untrained, {"baseline": fine_tuned}), log=said.append)
    config = DistillConfig.model_validate(
        {**DISTILL.model_dump(exclude_unset=True), "losses": {"soft": 1.0, "hard": 0.5}}
    )
    artifact = distill.run(fine_tuned, config, context)
    best = artifact.manifest.metrics["dev"]
    assert best["agreement"] == best["accuracy"] > 0.9
    assert macro_f1(artifact, moods) > 0.9, "the labels, which it has not seen"
    assert any("has no labels, so it learns from its teachers alone (hard = 0)" in line for line in said)


def test_labels_alone_that_are_not_there_are_refused(
    tmp_path: Path, fine_tuned: Artifact, unlabelled: Dataset, untrained: Checkpoint
) -> None:
    config = DISTILL.model_copy(update={"losses": DISTILL.losses.model_copy(update={"soft": 0.0, "hard": 1.0})})
    with pytest.raises(
        StageError, match=r"learns from labels alone .* has none\. Expected a loss that a teacher gives"
    ):
        distill.run(fine_tuned, config, context_in(tmp_path, unlabelled, untrained, {"baseline": fine_tuned}))


def test_single_texts_beside_pairs_are_refused(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    config = DISTILL.model_copy(update={"unlabelled": "more.txt"})
    context = context_in(tmp_path, replace(moods, pair=True), untrained, {"baseline": fine_tuned})
    with pytest.raises(StageError, match=r"more\.txt too, which holds single texts, and the data are pairs"):
        distill.run(fine_tuned, config, context)


def test_what_is_pruned_is_chosen_by_the_models_own_answers(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, unlabelled: Dataset, untrained: Checkpoint
) -> None:
    config = WidthConfig(name="cut", parent="baseline", ratio=0.7, calibration_rows=256)
    f1 = {}
    for name, data in (("labelled", moods), ("unlabelled", unlabelled)):
        found = prune.run(fine_tuned, config, context_in(tmp_path / name, data, untrained, {"baseline": fine_tuned}))
        f1[name] = macro_f1(found, moods)
    assert f1["unlabelled"] > f1["labelled"] - 0.1


def test_a_vocabulary_is_cut_at_thresholds_that_nobody_has_tuned(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, unlabelled: Dataset, untrained: Checkpoint
) -> None:
    config = VocabularyConfig(name="small", parent="baseline", tolerance=0.01)
    context = context_in(tmp_path, unlabelled, untrained, {"baseline": fine_tuned})
    assert macro_f1(prune.run(fine_tuned, config, context), moods) == pytest.approx(macro_f1(fine_tuned, moods))
    said: list[str] = []
    numbers = context_in(
        tmp_path / "numbers", replace(unlabelled, task="regression", labels=("rating",)), untrained, {}
    )
    prune.run(fine_tuned, config, replace(numbers, log=said.append))
    assert any("nothing tried: a regression has no classes" in line for line in said)


@pytest.mark.parametrize("task", ["multi_label", "single_label", "regression"])
def test_labels_are_drawn_by_what_the_model_says(fine_tuned: Artifact, task: str) -> None:
    head = {"num_labels": 1, "ignore_mismatched_sizes": True} if task == "regression" else {}
    model = AutoModelForSequenceClassification.from_pretrained(fine_tuned.folder, **head).eval()
    ids = torch.tensor([[2, 6, 3]]).repeat(4000, 1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(4000)}
    logits = model(input_ids=ids[:1]).logits[0].detach()
    drawn = drawn_labels(model, batch, task, torch.Generator().manual_seed(0))
    assert not drawn.is_inference(), "autograd has to take them"
    if task == "multi_label":
        torch.testing.assert_close(drawn.mean(0), logits.sigmoid(), atol=0.03, rtol=0)
    elif task == "single_label":
        shares = torch.bincount(drawn, minlength=len(logits)) / 4000
        torch.testing.assert_close(shares, logits.softmax(-1), atol=0.03, rtol=0)
    else:
        assert (drawn.mean() - logits).abs().item() < 0.1
        assert drawn.std().item() == pytest.approx(1, abs=0.1)


def test_decisions_as_targets_have_the_shape_of_their_task() -> None:
    logits = np.array([[0.2, -0.1], [-3.0, 2.0]], dtype=np.float32)
    assert said_as_targets(logits, "multi_label").tolist() == [[1, 0], [0, 1]]
    assert said_as_targets(logits, "single_label").tolist() == [0, 1]
    assert said_as_targets(logits[:, :1], "regression").tolist() == pytest.approx([0.2, -3.0])


@pytest.mark.parametrize(
    ("task", "labelled", "metric", "value"),
    [
        ("single_label", True, "macro_f1", 1 / 3),
        ("single_label", False, "agreement", 0.5),
        ("multi_label", False, "agreement", 0.5),
        ("regression", True, "spearman", 1.0),
    ],
)
def test_dev_is_judged_by_what_the_task_has(
    moods: Dataset, task: str, labelled: bool, metric: str, value: float
) -> None:
    logits = np.array([[3.0, -3.0], [2.0, -2.0]], dtype=np.float32)
    targets = {"single_label": np.array([0, 1]), "multi_label": np.array([[1, 0], [1, 1]])}
    numbers = np.array([9.0, 1.0])
    data = replace(moods, task=task, labelled=labelled, labels=("a", "b"))
    of_task = logits[:, :1] if task == "regression" else logits
    found = dev_metrics(EvalPrediction(of_task, targets.get(task, numbers)), data)
    assert best_by(data) == metric
    assert found[metric] == pytest.approx(value)
