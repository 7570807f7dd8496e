"""The head that a checkpoint brings: which labels it has, whether it is trained, and how it has the data's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from bantam.errors import ModelError
from optimizer.load import guard
from optimizer.load.head import Head, fit, label_names, read_head
from optimizer.load.model import load_model
from tests.optimizer.tiny_models import CONFIGS
from tests.optimizer.toy_classifiers import change_json, write_classifier


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"0": "neg", "1": "pos"}}, ("neg", "pos")),
        ({"id2label": {0: "neg", 1: "pos"}}, ("neg", "pos")),
        ({"id2label": {"1": "pos", "0": "neg"}}, ("neg", "pos")),
        ({"id2label": ["neg", "pos"]}, ("neg", "pos")),
        ({"id2label": {"0": 1, "1": 2}}, ("1", "2")),
        ({"label2id": {"pos": 1, "neg": 0}}, ("neg", "pos")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"neg": 0, "pos": 1}}, ("neg", "pos")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"0": "neg", "1": "pos"}, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"0": "same", "1": "same"}}, ("LABEL_0", "LABEL_1")),
        ({"id2label": None}, ("LABEL_0", "LABEL_1")),
        ({}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_labels_are_read_in_whatever_form_a_config_has_them(config: dict[str, Any], names: tuple[str, ...]) -> None:
    assert label_names(config) == names


def test_m14c_a_list_of_labels_loads(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy", labels=("low", "mid", "high"))
    change_json(folder / "config.json", id2label=["low", "mid", "high"])
    assert read_head(folder) == Head(("low", "mid", "high"), None)
    assert load_model(folder).config.id2label == {0: "low", 1: "mid", 2: "high"}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama"])
def test_a_trained_head_is_told_from_none(tmp_path: Path, model_type: str) -> None:
    write_classifier(tmp_path / "classifier", model_type, labels=("a", "b", "c"), task="multi_label")
    assert read_head(tmp_path / "classifier") == Head(("a", "b", "c"), "multi_label")
    config = AutoConfig.for_model(model_type, **{"vocab_size": 200, **CONFIGS[model_type]}, num_labels=3)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    assert read_head(tmp_path / "base") is None
    # A config that was copied beside weights without a head.
    change_json(tmp_path / "base/config.json", architectures=["SomethingForSequenceClassification"])
    assert read_head(tmp_path / "base") is None


def test_a_pretraining_head_is_no_classifier(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bert", vocab_size=200, **CONFIGS["bert"])
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    assert read_head(tmp_path) is None
    assert load_model(tmp_path, labels=("a", "b"), task="single_label").config.num_labels == 2


@pytest.mark.parametrize(
    ("head", "labels", "task", "outputs", "said"),
    [
        (("pos", "neg"), ("neg", "pos"), "single_label", ("pos", "neg"), "pos, neg (by name)"),
        (("Pos ", "NEG"), ("neg", "pos"), "single_label", ("pos", "neg"), "written otherwise: Pos  = pos, NEG = neg"),
        (("neg", "neu", "pos"), ("neg", "pos"), "single_label", ("neg", "neu", "pos"), "no row has neu"),
        (
            ("LABEL_0", "LABEL_1"),
            ("negative", "positive"),
            "single_label",
            ("negative", "positive"),
            "LABEL_0 = negative, LABEL_1 = positive (by index: the checkpoint has no names)",
        ),
        (("neg", "pos"), ("0", "1"), "single_label", ("0", "1"), "neg = 0, pos = 1 (by index: the data's labels are"),
        (("neg", "neu", "pos"), ("0", "2"), "single_label", ("0", "1", "2"), "neg = 0, neu = 1, pos = 2 (by index"),
        (("a", "b", "c"), ("1", "2", "3"), "single_label", ("1", "2", "3"), "a = 1, b = 2, c = 3 (by index"),
        (tuple("abcdefghijk"), tuple(map(str, sorted(map(str, range(11))))), "single_label",
         tuple(map(str, range(11))), "a = 0, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6, h = 7 and 3 more"),
        (("0", "1"), ("1", "0"), "multi_label", ("0", "1"), "(by name)"),
        (("LABEL_0",), ("stars",), "regression", ("stars",), "its one output = stars"),
        (("pos", "neg"), (), "unlabelled", ("pos", "neg"), "single_label; the data has no labels"),
        (("LABEL_0",), (), "unlabelled", ("score",), "regression; the data has no labels"),
    ],
)  # fmt: skip
def test_labels_are_matched_by_name_else_by_index(
    head: tuple[str, ...], labels: tuple[str, ...], task: str, outputs: tuple[str, ...], said: str
) -> None:
    found = fit(Head(head, "regression" if len(head) == 1 else None), labels, task)
    assert found.labels == outputs
    assert said in found.how
    again = fit(Head(head, "regression" if len(head) == 1 else None), found.labels, found.task)
    assert again.rows(found.labels) == tuple(range(len(head))), "read by the head, the outputs stay where they are"


def test_a_head_without_names_has_the_classes_that_the_file_numbers() -> None:
    """A class without a row still has its output."""
    head = Head(("LABEL_0", "LABEL_1", "LABEL_2"), None)
    found = fit(head, ("neg", "pos"), "single_label", ("neg", "neu", "pos"))
    assert found.labels == ("neg", "neu", "pos")
    assert "LABEL_1 = neu" in found.how
    with pytest.raises(ModelError, match="3 labels without names; the data has 2"):
        fit(head, ("neg", "pos"), "single_label", ("neg", "neu", "pos", "odd"))


@pytest.mark.parametrize(
    ("head", "labels", "task", "message"),
    [
        (Head(("neg", "pos"), None), ("neg", "sad"), "single_label", "no label sad; it has pos, which no row has"),
        (Head(("LABEL_0", "LABEL_1"), None), ("a", "b", "c"), "single_label", "2 labels without names; the data has 3"),
        (Head(("neg", "pos"), None), ("0", "1", "2"), "single_label", "no label 0, 1, 2; it has neg, pos"),
        (Head(("a", "b"), "multi_label"), ("a", "b"), "single_label", "for multi_label; the data is single_label"),
        (Head(("a",), "regression"), ("a", "b"), "single_label", "1 output for regression; the data is single_label"),
        (Head(("a", "b"), "regression"), ("x",), "regression", "2 outputs for regression"),
    ],
)
def test_labels_that_one_of_the_two_lacks_are_named(
    head: Head, labels: tuple[str, ...], task: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        fit(head, labels, task)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta-v2", "gpt2", "fnet"])
def test_m05_outputs_move_to_where_the_data_has_them(tmp_path: Path, model_type: str) -> None:
    folder = write_classifier(tmp_path / "toy", model_type, labels=("a", "b", "c"))
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    own = load_model(folder)
    moved = load_model(folder, labels=("c", "a", "b"), task="single_label")
    with torch.inference_mode():
        expected = own(input_ids=ids).logits[:, [2, 0, 1]]
        assert torch.allclose(moved(input_ids=ids).logits, expected, atol=1e-6)
    assert moved.config.id2label == {0: "c", 1: "a", 2: "b"}


def test_outputs_that_cannot_be_moved_are_refused(tmp_path: Path) -> None:
    model: Any = load_model(write_classifier(tmp_path / "toy"))
    model.classifier = torch.nn.Sequential(model.classifier, torch.nn.LayerNorm(2))
    with torch.no_grad():
        model.classifier[1].weight.copy_(torch.tensor([1.0, 3.0]))
    with pytest.raises(ModelError, match=r"cannot be put into the order of the data's labels\.\nTrain it"):
        guard.reorder(model, (1, 0), tmp_path / "toy")


def test_a_head_for_other_labels_is_new_and_the_encoder_is_not(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    own: Any = load_model(folder)
    other: Any = load_model(folder, labels=("cat", "dog"), task="single_label")
    assert not torch.equal(own.classifier.weight, other.classifier.weight)
    assert all(torch.equal(one, two) for one, two in zip(own.bert.parameters(), other.bert.parameters(), strict=True))
    with pytest.raises(ModelError, match=r"cannot be taken as it is\. The head has no label cat, dog; it has neg, pos"):
        load_model(folder, labels=("cat", "dog"), task="single_label", new_head=False)


def test_a_checkpoint_without_a_head_is_not_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert read_head(folder) is None
    with pytest.raises(ModelError, match="has no trained classification head"):
        load_model(folder, labels=("neg", "pos"), task="single_label", new_head=False)
    with pytest.raises(
        ModelError, match=r"no weights for 2 of the model's 41 tensors: classifier\.bias, classifier\.w"
    ):
        load_model(folder)
