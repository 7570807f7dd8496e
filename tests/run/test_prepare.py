"""What is refused before any work is done, and what a run's folder and a published name mean."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact
from bantam.errors import RecipeError, RepositoryError
from bantam.run import prepare as module
from bantam.run.prepare import prepare, published_name, run_name
from bantam.run.request import OptimizeRequest
from optimizer.catalog import Checkpoint
from optimizer.metric import Metric
from optimizer.recipe_tables import SearchConfig
from serving.repository import publish
from tests.plugins import tiny
from tests.run.made_up import RECIPE

STAGES = RECIPE.partition("[[stages]]")
HEAD, FINETUNE = STAGES[0].format(metric="macro-f1"), '[[stages]]\nstage = "finetune"\nname = "{name}"\n'
Prepare = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepares a request in a folder of its own, with a file of moods and models that are found without a hub."""
    tiny.write_data(tmp_path / "moods.csv", rows=300)
    (tmp_path / "mine.toml").write_text(RECIPE.format(metric="macro-f1"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # no classifier

    def found(model: str, *, random_init: bool = False, accepted: object = (), log: object = None) -> Checkpoint:
        folder = Path(model).is_dir()
        hub_id = None if folder or random_init else model
        source = str(Path(model).resolve()) if folder else f"hub: {model}"
        return Checkpoint(model, tmp_path, source, "1", "none", "0" * 64, hub_id, random_init)

    monkeypatch.setattr(module, "resolve", found)
    base = OptimizeRequest(
        model="org/clf",
        data=str(tmp_path / "moods.csv"),
        recipe=str(tmp_path / "mine.toml"),
        build=tmp_path / "build",
        repository=tmp_path / "repo",
    )
    return lambda log=lambda line: None, **asked: prepare(replace(base, **asked), log)


def recipe_of(folder: Path, text: str) -> str:
    (folder / "other.toml").write_text(text)
    return str(folder / "other.toml")


@pytest.mark.parametrize("option", ["max_slice_drop", "max_p99_ms", "max_size_mb"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_budget_that_is_no_number_above_0_is_refused(ask: Prepare, option: str, value: float) -> None:
    said = f"--{option.replace('_', '-')}"
    with pytest.raises(RecipeError, match=rf"^Got {said} {value:g}; expected a number above 0"):
        ask(**{option: value})


def test_budgets_of_the_request_are_those_of_the_choice(ask: Prepare) -> None:
    run = ask(max_drop=0.5, max_slice_drop=3.0, max_p99_ms=0.001, max_size_mb=9.0, objective="size")
    budget = run.budget
    assert (budget.points, budget.slice_points, budget.p99_ms, budget.size_mb) == (0.5, 3.0, 0.001, 9.0)
    assert (budget.aim, budget.tries) == ("size", 1)
    run.recipe = run.recipe.model_copy(update={"search": SearchConfig()})
    assert run.budget.tries == len(run.recipe.servable) == 2


def test_a_recipe_without_a_baseline_is_refused(ask: Prepare, tmp_path: Path) -> None:
    text = RECIPE.format(metric="macro-f1").replace('"baseline"', '"first"')
    with pytest.raises(RecipeError, match="measures no stage named 'baseline'; expected one"):
        ask(recipe=recipe_of(tmp_path, text))
    unmeasured = text.replace('"first"', '"baseline"').replace(
        'name = "baseline"', 'name = "baseline"\nmeasure = false'
    )
    with pytest.raises(RecipeError, match="measures no stage named 'baseline'"):
        ask(recipe=recipe_of(tmp_path, unmeasured))


def test_a_licence_that_no_model_asks_for_is_refused(ask: Prepare) -> None:
    assert ask(accept_licence="gemma").checkpoint.name == "org/clf"
    with pytest.raises(RecipeError, match=r"Got --accept-licence mit; expected one .*: gemma \(which gemma3-270m asks"):
        ask(accept_licence="Gemma, MIT")


def test_a_recipe_with_nothing_servable_is_refused(ask: Prepare, tmp_path: Path) -> None:
    only = HEAD + FINETUNE.format(name="baseline")
    with pytest.raises(RecipeError, match="makes nothing that can be served; expected a measured stage that exports"):
        ask(recipe=recipe_of(tmp_path, only))
    export = '[[stages]]\nstage = "export"\nname = "fp32"\nparent = "baseline"\nformat = "onnx"\nmeasure = false\n'
    with pytest.raises(RecipeError, match="makes nothing that can be served"):
        ask(recipe=recipe_of(tmp_path, only + export))


def test_a_recipe_that_does_not_export_the_baseline_gets_a_safe_choice(ask: Prepare, tmp_path: Path) -> None:
    student = '[[stages]]\nstage = "distill"\nname = "student"\nparent = "baseline"\nlayers = 1\n'
    export = '[[stages]]\nstage = "export"\nname = "small"\nparent = "student"\nformat = "onnx"\n'
    recipe = recipe_of(tmp_path, HEAD + FINETUNE.format(name="baseline") + student + export)
    run = ask(recipe=recipe)
    added = run.recipe.stages[-1]
    assert run.safe == added.name
    assert (added.stage, added.parent, added.format, added.measure) == ("export", "baseline", "onnx", False)
    planned = ask(recipe=recipe, random_init=True)
    assert planned.safe is None, "of random weights nobody knows what is safe"
    assert len(planned.recipe.stages) == 3


@pytest.mark.parametrize(("model_type", "recipe"), [("bert", "int8"), ("llama", "decoder")])
def test_the_recipe_follows_from_the_architecture_unless_it_is_named(
    ask: Prepare, tmp_path: Path, model_type: str, recipe: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    said: list[str] = []
    run = ask(recipe=None, model="bert", log=said.append)
    assert (run.recipe.name, run.request.recipe) == (recipe, recipe)
    assert run.folder.name.endswith(f"-{recipe}-quick")
    kind = {"int8": "encoder", "decoder": "decoder"}[recipe]
    assert f"recipe {recipe}: bert has the architecture of a text {kind}" in said
    assert ask(recipe="small").recipe.name == "small"
    with pytest.raises(RecipeError, match="Got metric 'AUC'"):
        ask(recipe=None, metric="AUC")


def test_random_weights_are_not_trained_unless_asked_for(ask: Prepare) -> None:
    planned = ask(recipe="decoder", random_init=True)
    stages = [stage.stage for stage in planned.recipe.stages]
    assert stages == ["adopt", "quantize", "prune", "export", "quantize", "quantize"]
    assert {*planned.checkpoints} == {None}
    trained = ask(recipe="decoder", random_init=True, finetune="always")
    assert trained.recipe.stages[0].stage == "finetune"


@pytest.mark.parametrize("name", ["Sentiment_V2", "-x", "a b", "", "a/b"])
def test_a_name_that_cannot_be_published_is_refused(ask: Prepare, tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match=r"to publish under; expected lower-case letters.*--name"):
        ask(name=name)
    assert not (tmp_path / "build").exists()


def test_the_metric_is_the_recipes_or_the_users(ask: Prepare, tmp_path: Path) -> None:
    assert ask().recipe.metric == Metric()
    own = recipe_of(tmp_path, RECIPE.format(metric="recall@precision=0.9"))
    assert ask(recipe=own).recipe.metric == Metric("recall@precision", precision=0.9)
    assert ask(recipe=own, metric="f1:joy").recipe.metric == Metric("f1", label="joy")


def test_a_metric_that_is_none_is_refused_and_so_is_one_of_a_label_that_is_not_there(
    ask: Prepare, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"Got metric 'AUC', expected one of: macro-f1, micro-f1, .*f1:LABEL"):
        ask(metric="AUC")
    with pytest.raises(RecipeError, match="got metric 'auc', expected one of: macro-f1, micro-f1"):
        ask(recipe=recipe_of(tmp_path, RECIPE.format(metric="auc")))
    with pytest.raises(RecipeError, match=r"no label 'Joy'\. Expected f1: and one of: anger, fear, joy\."):
        ask(metric="f1:Joy")


def test_a_name_that_would_mean_another_model_is_refused_unless_it_is_given(
    ask: Prepare, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    first = ask()
    publish(tiny_artifact, tmp_path / "repo", first.name, thresholds=None, identity=first.identity)
    assert ask().name == "clf", "the same again is no other model"
    tiny.write_data(tmp_path / "moods.csv", rows=400)
    assert ask().name == "clf", "nor is it with more rows"
    with pytest.raises(RepositoryError, match=r"repo/clf is org/clf on moods.*; this run would make it other/clf"):
        ask(model="other/clf")
    tiny.write_data(tmp_path / "more.csv", rows=300)
    with pytest.raises(RepositoryError, match="name clf yourself if it is to be replaced"):
        ask(data=str(tmp_path / "more.csv"))
    assert ask(model="other/clf", name="clf").identity.model == "other/clf"


def test_a_name_is_not_taken_from_another_models_baseline(
    ask: Prepare, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    other = ask(model="org/clf-baseline")
    publish(tiny_artifact, tmp_path / "repo", other.name, thresholds=None, identity=other.identity)
    with pytest.raises(RepositoryError, match="repo/clf-baseline is org/clf-baseline on moods"):
        ask()


def test_what_was_published_before_names_had_a_meaning_is_replaced(
    ask: Prepare, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    publish(tiny_artifact, tmp_path / "repo", "clf", thresholds=None)
    assert ask().name == "clf"


def test_other_labels_than_those_that_are_served_are_refused_before_any_work(
    ask: Prepare, tmp_path: Path, make_artifact: Callable[..., Artifact]
) -> None:
    publish(make_artifact(labels=("joy", "rage")), tmp_path / "repo", "mine", thresholds=None)
    with pytest.raises(
        RepositoryError,
        match=r"mine would be .* than version 1, which is served: new labels: .*: 'rage'\..*--allow-new",
    ):
        ask(name="mine")
    assert ask(name="mine", allow_new_labels=True).name == "mine"
    assert ask(name="other").name == "other"
    (tmp_path / "repo" / "mine" / "1" / "manifest.json").write_text("{}")
    assert ask(name="mine").name == "mine", "nobody is served by what is damaged"


def test_two_files_and_two_organisations_models_have_folders_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "clf").mkdir(parents=True)
        (tmp_path / folder / "x.csv").touch()
    names = {
        run_name(OptimizeRequest(model=model, data=data))
        for model in ("org/clf", "other/clf", "clf", str(tmp_path / "a/clf"), str(tmp_path / "b/clf"))
        for data in (str(tmp_path / "a/x.csv"), str(tmp_path / "b/x.csv"), "org/x", "x")
    }
    assert len(names) == 20
    assert all(name.startswith("clf-") for name in names)


def test_one_file_has_one_folder_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").touch()
    monkeypatch.chdir(tmp_path)
    names = {run_name(OptimizeRequest(data=data)) for data in ("x.csv", "./x.csv", str(tmp_path / "x.csv"))}
    assert len(names) == 1


def test_what_ships_with_bantam_has_plain_names() -> None:
    assert run_name(OptimizeRequest()) == "minilm-goemotions-ekman-int8-quick"
    assert run_name(OptimizeRequest(model="bert", data="sms-spam", recipe="small", profile="full")) == (
        "bert-sms-spam-small-full"
    )
    assert run_name(OptimizeRequest(random_init=True)) == "minilm-goemotions-ekman-int8-quick-random"


def test_published_names_are_never_hashed() -> None:
    assert published_name(OptimizeRequest(model="org/My_Clf.v2")) == "my-clf.v2"
    assert published_name(OptimizeRequest(model="models/Some_Model.gguf")) == "some-model"
    assert published_name(OptimizeRequest(model="models/Some_Model.GGUF")) == "some-model"
    assert run_name(OptimizeRequest(model="models/L.GGUF")).startswith("l-")
    assert published_name(OptimizeRequest(model="org/clf", random_init=True)) == "clf-random"
    assert published_name(OptimizeRequest(model="org/clf", name="support")) == "support"


def test_the_time_of_a_run_counts_what_is_downloaded_for_it(ask: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[float] = []
    found: Callable[..., Checkpoint] = vars(module)["resolve"]

    def slow(*asked: Any, **more: Any) -> Checkpoint:
        reached.append(time.monotonic())
        return found(*asked, **more)

    monkeypatch.setattr(module, "resolve", slow)
    assert ask().started < reached[0]
