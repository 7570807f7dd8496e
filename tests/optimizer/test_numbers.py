"""A regression at toy size: trained on numbers, judged by their order, and a student that learns them from it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from bantam.artifact import Artifact
from benchmarks.architectures.toy import FILLER, MOODS
from optimizer import distill, finetune
from optimizer.catalog import Checkpoint
from optimizer.config import LossWeights
from optimizer.data import Dataset, Split
from optimizer.evaluate import correlation_of
from optimizer.reference import Reference
from tests.optimizer.moods import CONFIG, DISTILL, context_in


@pytest.fixture(scope="module")
def ratings() -> Dataset:
    """Texts of five words, rated by how many of them are of joy and how many of anger."""
    draw, words = random.Random(0), (*MOODS["joy"], *MOODS["anger"], *FILLER[:5])
    rows = [draw.choices(words, k=5) for _ in range(600)]
    rated = [sum((word in MOODS["joy"]) - (word in MOODS["anger"]) for word in row) for row in rows]
    parts = {"train": slice(0, 400), "dev": slice(400, 500), "test": slice(500, 600)}
    splits = {
        name: Split(tuple(" ".join(row) for row in rows[part]), np.array(rated[part], dtype=np.float32))
        for name, part in parts.items()
    }
    return Dataset("ratings", "regression", ("joy",), MappingProxyType(splits), "0" * 64, "CC0-1.0", "made up", ())


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory, ratings: Dataset, untrained: Checkpoint) -> Artifact:
    context = context_in(tmp_path_factory.mktemp("rater"), ratings, untrained)
    return finetune.run(None, CONFIG.model_copy(update={"epochs": 6.0}), context)


def spearman(artifact: Artifact, data: Dataset) -> float:
    """On test, from the numbers that the model itself says."""
    test = data.splits["test"]
    return correlation_of(Reference.load(artifact.folder).probabilities(test.texts), test.targets[:, None])["spearman"]


def test_a_model_learns_numbers_and_is_stopped_by_their_order(rater: Artifact, ratings: Dataset) -> None:
    assert spearman(rater, ratings) > 0.9
    assert (rater.manifest.signature.task, rater.manifest.signature.labels) == ("regression", ("joy",))
    evaluations = [entry["eval_spearman"] for entry in rater.manifest.metrics["log"] if "eval_spearman" in entry]
    assert rater.manifest.metrics["dev"]["spearman"] == max(evaluations)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_student_learns_numbers_from_its_teacher(
    tmp_path: Path, rater: Artifact, ratings: Dataset, untrained: Checkpoint, labelled: bool
) -> None:
    unknown = {
        name: replace(split, targets=np.full_like(split.targets, np.nan)) for name, split in ratings.splits.items()
    }
    data = ratings if labelled else replace(ratings, labelled=False, splits=MappingProxyType(unknown))
    losses = LossWeights(soft=1.0, hard=0.5 if labelled else 0.0)
    config = DISTILL.model_copy(update={"losses": losses, "epochs": 6.0})
    student = distill.run(rater, config, context_in(tmp_path, data, untrained, {"baseline": rater}))
    assert spearman(student, ratings) > 0.85
    assert student.manifest.metrics["dev"]["spearman"] > 0.85
