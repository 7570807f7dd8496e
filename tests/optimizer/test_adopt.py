"""A classifier as it is: its scores are those that transformers' own pipeline gives, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bantam.artifact import Artifact, Text
from bantam.errors import ModelError
from benchmarks.architectures.toy import tokenizer
from optimizer import adopt
from optimizer.config import AdoptConfig
from optimizer.data import Dataset
from optimizer.reference import Reference
from tests.optimizer.moods import context_in
from tests.optimizer.toy_classifiers import (
    LABELS,
    PAIRS,
    TEXTS,
    checkpoint,
    dataset,
    write_classifier,
)


def adopted(folder: Path, data: Dataset, into: Path) -> Artifact:
    return adopt.run(None, AdoptConfig(name="baseline"), context_in(into, data, checkpoint(folder)))


def by_pipeline(folder: Path, texts: tuple[Text, ...], function: str) -> list[dict[str, float]]:
    """What a user gets without Bantam: scores by label, one text at a time."""
    classify: Any = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
    found = [classify(one, top_k=None, function_to_apply=function, truncation=True) for one in inputs]
    return [{each["label"]: each["score"] for each in scores} for scores in found]


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("task", "labels", "function", "pair"),
    [
        ("single_label", ("neg", "neu", "pos"), "softmax", False),
        ("single_label", ("neg", "neu", "pos"), "softmax", True),
        ("multi_label", ("joy", "anger", "fear"), "sigmoid", False),
        ("regression", ("score",), "none", True),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_scores_are_those_of_transformers_own_pipeline(
    tmp_path: Path, model_type: str, task: str, labels: tuple[str, ...], function: str, pair: bool, reverse: bool
) -> None:
    folder = write_classifier(tmp_path / "toy", model_type, labels, task=task)
    # Of an empty second text, transformers makes a pair in a batch and none of a single one: left out here.
    texts: tuple[Text, ...] = tuple(pair for pair in PAIRS if pair[1]) if pair else (*TEXTS, " ".join(TEXTS * 20))
    wanted = labels[::-1] if reverse else labels
    artifact = adopted(folder, dataset(task, wanted, pair=pair), tmp_path)
    signature = artifact.manifest.signature
    assert (signature.labels, signature.task, signature.pair) == (wanted, task, pair)
    scores = Reference.load(artifact.folder).probabilities(texts)
    expected = np.array([[row[label] for label in wanted] for row in by_pipeline(folder, texts, function)])
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() < 1e-5
    assert scores.std(axis=0).min() > 1e-4, "texts have scores of their own"


def test_nothing_is_trained_and_the_artifact_says_so(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy", task="single_label")
    artifact = adopted(folder, dataset("single_label", LABELS), tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(artifact.folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    manifest = Artifact.load(artifact.folder, verify=True).manifest
    assert manifest.details["trained"] is False
    assert (manifest.stage, manifest.layout) == ("adopt", "hf")
    assert manifest.lineage[-1]["config"]["stage"] == "adopt"


def test_what_was_adopted_can_be_adopted_again(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy", task="single_label")
    data = dataset("single_label", LABELS)
    first = adopted(folder, data, tmp_path / "1")
    second = adopted(first.folder, data, tmp_path / "2")
    assert second.digest == first.digest


def test_an_empty_text_has_a_padding_token_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    """As the engine gives it one: transformers cannot run GPT-2 on an empty text."""
    folder = write_classifier(tmp_path / "toy", "gpt2")
    plain = tokenizer(model_input_names=["input_ids", "attention_mask"])
    plain.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    plain.save_pretrained(folder)
    artifact = adopted(folder, dataset("single_label", LABELS), tmp_path / "out")
    scores = Reference.load(artifact.folder).probabilities(["", "", "[PAD]"])
    alone = Reference.load(artifact.folder).probabilities([""])
    np.testing.assert_allclose(scores, np.repeat(alone, 3, axis=0), atol=1e-6)


def test_the_configs_longest_text_bounds_the_models(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    tokenizer(model_max_length=10**30).save_pretrained(folder)
    said: list[str] = []
    context = replace(context_in(tmp_path, dataset("single_label", LABELS), checkpoint(folder)), log=said.append)
    artifact = adopt.run(None, AdoptConfig(name="baseline", max_length=24), context)
    assert artifact.manifest.signature.max_length == 24
    cut = "longer texts are cut at 24 tokens, as the recipe's max_length says; the classifier itself reads more"
    assert said == [f"baseline: {cut}"]


def test_a_head_for_other_labels_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    with pytest.raises(ModelError, match=r"cannot be taken as it is\. The head has no label cat, dog; it has neg, pos"):
        adopted(folder, dataset("single_label", ("cat", "dog")), tmp_path)
