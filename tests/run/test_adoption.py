"""FINETUNE: which checkpoints are taken as they are, which are trained, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bantam.errors import ModelError
from bantam.run.adoption import Finetune, as_they_are
from bantam.run.prepare import prepare
from bantam.run.request import OptimizeRequest
from optimizer.catalog import Checkpoint
from optimizer.config import AdoptConfig, FinetuneConfig
from optimizer.data import Dataset
from optimizer.recipe import Recipe
from tests.optimizer.toy_classifiers import change_json, checkpoint, dataset, write_classifier

RECIPE = Recipe(name="it", description="a test", stages=(FinetuneConfig(name="baseline", max_length=99),))
TEACHER = FinetuneConfig(name="teacher", model="other", measure=False)
BOTH = RECIPE.model_copy(update={"stages": (*RECIPE.stages, TEACHER)})


@pytest.fixture
def toy(tmp_path: Path) -> Checkpoint:
    """Knows pos, neg: not in the order in which data sets number them."""
    return checkpoint(write_classifier(tmp_path / "toy", labels=("pos", "neg")))


def asked(
    recipe: Recipe, data: Dataset, finetune: Finetune = "auto", **checkpoints: Checkpoint
) -> tuple[Recipe, Dataset, list[str]]:
    said: list[str] = []
    found = {(None if name == "own" else name): checkpoint for name, checkpoint in checkpoints.items()}
    return *as_they_are(recipe, data, found, finetune, said.append), said


def test_a_classifier_of_the_datas_labels_is_taken_and_the_data_follows_its_order(toy: Checkpoint) -> None:
    recipe, data, said = asked(RECIPE, dataset("single_label", ("neg", "pos")), own=toy)
    assert recipe.stages == (AdoptConfig(name="baseline", max_length=99),)
    assert data.labels == ("pos", "neg")
    assert data.splits["train"].targets.tolist() == [1, 0, 1, 0, 1]
    assert said == ["baseline: toy is a classifier already and is not trained. pos, neg (by name)"]


def test_labels_without_names_are_matched_by_index_and_the_mapping_is_said(toy: Checkpoint) -> None:
    change_json(toy.folder / "config.json", id2label=None, label2id=None)
    recipe, data, said = asked(RECIPE, dataset("single_label", ("negative", "positive")), own=toy)
    assert isinstance(recipe.stages[0], AdoptConfig)
    assert data.labels == ("negative", "positive")
    assert said[0].endswith("LABEL_0 = negative, LABEL_1 = positive (by index: the checkpoint has no names)")


def test_numbers_of_the_data_are_called_as_the_head_calls_them(toy: Checkpoint) -> None:
    """Who asks the served model gets the labels that the classifier always gave."""
    data = dataset("single_label", ("0", "1"))
    recipe, read, said = asked(RECIPE, data, own=toy)
    assert isinstance(recipe.stages[0], AdoptConfig)
    assert (read.labels, read.digest != data.digest) == (("pos", "neg"), True)
    assert read.splits["train"].targets.tolist() == data.splits["train"].targets.tolist()
    assert said[0].endswith("pos = 0, neg = 1 (by index: the data's labels are numbers)")


def test_a_head_of_other_labels_is_trained_anew_and_both_are_named(toy: Checkpoint) -> None:
    data = dataset("single_label", ("cat", "dog"))
    recipe, same, said = asked(RECIPE, data, own=toy)
    assert (recipe, same) == (RECIPE, data)
    assert said == [
        "baseline: toy is trained with a new head. The head has no label cat, dog; it has pos, neg, which no row has."
    ]
    with pytest.raises(
        ModelError, match=r"toy cannot be taken as it is\. The head has no label cat, dog; .*\nExpected a"
    ):
        asked(RECIPE, data, "never", own=toy)


def test_labels_that_no_row_has_are_kept_and_named(tmp_path: Path) -> None:
    own = checkpoint(write_classifier(tmp_path / "toy", labels=("pos", "neu", "neg")))
    recipe, data, said = asked(RECIPE, dataset("single_label", ("neg", "pos")), own=own)
    assert isinstance(recipe.stages[0], AdoptConfig)
    assert data.labels == ("pos", "neu", "neg")
    assert said[0].endswith("pos, neu, neg (by name); no row has neu")


def test_always_trains_on_from_the_head_that_is_there(toy: Checkpoint) -> None:
    data = dataset("single_label", ("neg", "pos"))
    recipe, same, said = asked(RECIPE, data, "always", own=toy)
    assert (recipe, same) == (RECIPE, data)
    assert said == ["baseline: toy is trained on from the head that it has. pos, neg (by name)"]
    more = dataset("single_label", ("neg",))
    assert "trained with a new head. Its head has 2 labels, and 1 are" in asked(RECIPE, more, "always", own=toy)[2][0]


def test_a_teachers_head_is_put_into_the_order_of_the_runs_own(toy: Checkpoint, tmp_path: Path) -> None:
    other = checkpoint(write_classifier(tmp_path / "other", labels=("neg", "pos")))
    recipe, data, _ = asked(BOTH, dataset("single_label", ("neg", "pos")), own=toy, other=other)
    assert recipe.stages[1] == AdoptConfig(name="teacher", model="other", measure=False)
    assert data.labels == ("pos", "neg")
    more = checkpoint(write_classifier(tmp_path / "more", labels=("neg", "neu", "pos")))
    recipe, _, said = asked(BOTH, dataset("single_label", ("neg", "pos")), own=toy, other=more)
    assert recipe.stages[1] == TEACHER
    assert "toy is trained with a new head. Its head has 3 labels, and 2 are wanted." in said[1]


def test_data_without_labels_takes_task_and_labels_of_the_classifier(toy: Checkpoint, tmp_path: Path) -> None:
    recipe, data, said = asked(RECIPE, dataset("unlabelled", ()), own=toy)
    assert isinstance(recipe.stages[0], AdoptConfig)
    assert (data.task, data.labels, data.labelled) == ("single_label", ("pos", "neg"), False)
    assert said[0].endswith("pos, neg (single_label; the data has no labels)")
    multi = checkpoint(write_classifier(tmp_path / "multi", labels=("joy", "fear"), task="multi_label"))
    assert asked(RECIPE, dataset("unlabelled", ()), own=multi)[1].task == "multi_label"


@pytest.mark.parametrize("finetune", ["auto", "never"])
def test_data_without_labels_needs_a_trained_head(toy: Checkpoint, finetune: Finetune) -> None:
    change_json(toy.folder / "config.json", architectures=["BertModel"])
    with pytest.raises(ModelError, match=r"It has no trained classification head\. The data has no labels, so nothing"):
        asked(RECIPE, dataset("unlabelled", ()), finetune, own=toy)


def test_data_without_labels_is_nothing_to_train_on(toy: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"toys has no labels to train on\. Give some, or leave FINETUNE=always out"):
        asked(RECIPE, dataset("unlabelled", ()), "always", own=toy)
    other = checkpoint(write_classifier(tmp_path / "other", labels=("cat", "dog")))
    with pytest.raises(ModelError, match=r"no label pos, neg; .* The data has no labels, so nothing can be trained"):
        asked(BOTH, dataset("unlabelled", ()), own=toy, other=other)


def test_random_weights_are_no_classifier(toy: Checkpoint) -> None:
    recipe, _, said = asked(RECIPE, dataset("single_label", ("neg", "pos")), own=replace(toy, random_weights=True))
    assert recipe == RECIPE
    assert said == ["baseline: toy is trained with a new head. It has no trained classification head."]


@pytest.mark.parametrize(("labels", "task"), [(("stars",), "regression"), (("a", "b", "c"), "multi_label")])
def test_tasks_are_matched_too(tmp_path: Path, labels: tuple[str, ...], task: str) -> None:
    own = checkpoint(write_classifier(tmp_path / "toy", labels=labels, task=task))
    assert isinstance(asked(RECIPE, dataset(task, labels), own=own)[0].stages[0], AdoptConfig)
    recipe, _, said = asked(RECIPE, dataset("single_label", ("a", "b", "c")), own=own)
    assert isinstance(recipe.stages[0], FinetuneConfig)
    assert f"for {task}; the data is single_label" in said[0]


def test_without_data_the_texts_of_a_bundled_set_serve_a_classifier_of_other_labels(
    toy: Checkpoint, tmp_path: Path
) -> None:
    said: list[str] = []
    run = prepare(OptimizeRequest(model=str(toy.folder), repository=tmp_path / "repo"), said.append)
    assert (run.data.labelled, run.data.labels, str(run.metric)) == (False, ("pos", "neg"), "agreement")
    assert run.request.data == "goemotions-ekman"
    assert any(
        "No data was given: texts of goemotions-ekman (Apache-2.0) serve for calibration" in line for line in said
    )


def test_who_asks_for_training_without_data_has_the_labels_of_the_default(toy: Checkpoint, tmp_path: Path) -> None:
    request = OptimizeRequest(model=str(toy.folder), finetune="always", repository=tmp_path / "repo")
    assert prepare(request, lambda line: None).data.labelled


def test_data_that_was_asked_for_is_read_as_it_is_though_it_is_the_default(toy: Checkpoint, tmp_path: Path) -> None:
    request = OptimizeRequest(model=str(toy.folder), data="goemotions-ekman", repository=tmp_path / "repo")
    run = prepare(request, lambda line: None)
    assert (run.data.labelled, len(run.data.labels)) == (True, 7)
    texts = prepare(replace(request, data=None), lambda line: None)
    assert texts.folder != run.folder
    assert texts.identity != run.identity, "one name must not mean both"
    assert isinstance(run.recipe.stages[0], FinetuneConfig)
