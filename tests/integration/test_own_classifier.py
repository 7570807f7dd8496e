"""A classifier that is fine-tuned already is the baseline as it is: with labels, and with texts alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.report.file import read_report
from bantam.report.schema import Report
from optimizer.data import load_dataset
from tests.integration.conftest import Toy
from tests.plugins import tiny

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def own(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A folder with the classifier that the toy's run has fine-tuned, its outputs the other way round."""
    import torch

    from optimizer.load.model import load_model

    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(toy.run_folder / "baseline", folder / "mine", ignore=shutil.ignore_patterns("manifest.json"))
    model = load_model(folder / "mine")
    head = model.get_submodule("classifier")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter.flip(0))
    labels = list((model.config.id2label or {}).values())[::-1]
    model.config.id2label, model.config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    model.save_pretrained(folder / "mine")
    shutil.copy(toy.folder / "moods.csv", folder)
    train = load_dataset(str(folder / "moods.csv")).splits["train"].single
    (folder / "texts.txt").write_text("\n".join(train) + "\n", encoding="utf-8")
    return Toy(folder, model="mine").with_recipe("one.toml", tiny.ONE_VARIANT)


def optimized(own: Toy, *arguments: str) -> tuple[Report, str]:
    done = own.bantam(*own.arguments, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return Report.model_validate(json.loads(done.stdout)), done.stderr


def test_it_is_not_trained_and_its_figures_are_those_of_the_run_that_made_it(own: Toy, toy: Toy) -> None:
    report, said = optimized(own)
    before = read_report(toy.run_folder)
    assert "mine is a classifier already and is not trained. joy, fear, anger (by name)" in said
    for name in ("baseline", "onnx-int8"):
        here, there = report.variant(name).on_dev, before.variant(name).on_dev
        assert here is not None
        assert there is not None
        assert here.macro_f1 == pytest.approx(there.macro_f1, abs=1e-6)
    scores = scores_of_pipeline(own.folder / "mine", load_dataset(str(own.folder / "moods.csv")).splits["test"].single)
    (kept,) = own.folder.glob("build/*/scores-baseline-test/scores.npy")
    assert np.abs(np.load(kept) - scores).max() < 1e-5


def scores_of_pipeline(folder: Path, texts: tuple[str, ...]) -> np.ndarray:
    """What transformers' own pipeline says, ``[texts, labels]`` in the order of the checkpoint."""
    from transformers import pipeline

    classify: Any = pipeline("text-classification", model=str(folder), top_k=None, function_to_apply="sigmoid")
    answers = [{each["label"]: each["score"] for each in answer} for answer in classify(list(texts))]
    return np.array([[answer[label] for label in ("joy", "fear", "anger")] for answer in answers])


def test_texts_alone_are_enough_for_agreement(own: Toy) -> None:
    report, said = optimized(replace(own, data="texts.txt"), "--name", "unlabelled")
    assert "is a classifier already and is not trained" in said
    assert report.budget.metric == "agreement"
    chosen = report.variant(report.chosen)
    assert chosen.quality is not None
    assert chosen.quality.metric_value == pytest.approx(1, abs=0.05)
    assert chosen.quality.drop_ci95 is not None
    assert report.published is not None
    assert (report.published.name, report.published.version) == ("unlabelled", 1)
