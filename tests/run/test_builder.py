"""Runs: what is there is kept, what another run has made is taken from it, what stages share goes in the end."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bantam.artifact import Artifact
from bantam.errors import UserError
from bantam.licence import Licence
from bantam.memory import peak_rss_mb
from bantam.run import builder as pipeline
from bantam.run import closure
from bantam.run.score import score
from optimizer import finetune
from optimizer.catalog import LICENCES, Checkpoint
from optimizer.config import DistillConfig, LayersConfig
from optimizer.data import Dataset
from optimizer.recipe import Recipe, ServingConfig
from tests.optimizer.moods import CONFIG, context_in

RECIPE = Recipe(
    name="toy",
    description="toy",
    stages=(
        CONFIG.model_copy(update={"epochs": 0.1}),
        LayersConfig(name="cut", parent="baseline", layers=(1,)),
        DistillConfig(stage="distill", name="recovered", parent="cut", teachers=("baseline",), epochs=0.1),
    ),
)


def run(folder: Path, moods: Dataset, untrained: Checkpoint, recipe: Recipe = RECIPE) -> tuple[Any, list[str]]:
    """The artifacts, and what was said of each stage."""
    said: list[str] = []
    with pipeline.locked(folder):
        artifacts = pipeline.run(recipe, moods, {None: untrained}, folder, log=said.append).artifacts
    names = {stage.name for stage in recipe.stages}
    return artifacts, [line for line in said if line.split(maxsplit=1)[0] in names]


def outcomes(said: list[str]) -> list[str]:
    """What became of each stage: kept, taken or made."""
    return [line.split()[1] for line in said]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, moods: Dataset, untrained: Checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("build") / "first"
    artifacts, said = run(folder, moods, untrained)
    assert outcomes(said) == ["made"] * 3
    assert artifacts["recovered"].manifest.details["teachers"] == [artifacts["baseline"].digest]
    assert [artifact.name for artifact in artifacts.values()] == ["baseline", "cut", "recovered"]
    return folder


def test_what_is_there_is_kept_measured_or_not(first: Path, moods: Dataset, untrained: Checkpoint) -> None:
    stages = (*RECIPE.stages[:1], RECIPE.stages[1].model_copy(update={"measure": False}), *RECIPE.stages[2:])
    _, said = run(first, moods, untrained, RECIPE.model_copy(update={"stages": stages}))
    assert outcomes(said) == ["kept"] * 3
    assert not (first / pipeline.WORK).exists()


def test_the_manifest_of_a_stage_says_what_memory_it_took(first: Path) -> None:
    names = ("baseline", "cut", "recovered")
    peaks = [Artifact.load(first / name).manifest.metrics["peak_rss_mb"] for name in names]
    # torch alone takes 100; the system counts to some pages.
    assert 100 < min(peaks) <= max(peaks) < peak_rss_mb() + 10


def test_a_renamed_stage_is_taken_from_the_store_and_so_is_all_that_follows(
    first: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    names = {"baseline": "original", "cut": "shorter", "recovered": "student"}
    stages = tuple(
        stage.model_copy(
            update={"name": names[stage.name], "parent": stage.parent and names[stage.parent]}
            | ({"teachers": ("original",)} if isinstance(stage, DistillConfig) else {})
        )
        for stage in RECIPE.stages
    )
    artifacts, said = run(first.with_name("renamed"), moods, untrained, RECIPE.model_copy(update={"stages": stages}))
    assert outcomes(said) == ["taken"] * 3
    assert [artifact.name for artifact in artifacts.values()] == list(names.values())
    assert artifacts["student"].digest == Artifact.load(first / "recovered").digest


def test_licences_are_those_of_the_name_that_the_run_uses(first: Path, moods: Dataset, untrained: Checkpoint) -> None:
    known, _ = run(first, moods, untrained)
    own = Licence(untrained.licence, untrained.name)
    assert [known[name].manifest.licences for name in ("baseline", "recovered")] == [(own,)] * 2
    other = replace(untrained, name="org/gemma", licence="gemma")
    artifacts, said = run(first.with_name("licensed"), moods, other)
    assert outcomes(said) == ["taken"] * 3
    expected = (replace(LICENCES["gemma"], model="org/gemma"),)
    assert {artifact.manifest.licences for artifact in artifacts.values()} == {expected}
    assert Artifact.load(first / "baseline").manifest.licences == (own, *expected), "for who starts from the folder"


def test_licences_of_teachers_go_along_and_what_bantam_made_brings_its_own(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    checkpoints = {
        None: replace(untrained, name="student", licence="mit"),
        "teacher": replace(
            untrained,
            name="teacher",
            inherited=(Licence("gemma", "gemma3-270m", outputs=True),),
            quantization="Q4_K_M",
        ),
    }
    stages = (
        CONFIG.model_copy(update={"model": "teacher", "rows": 32, "epochs": 0.1, "measure": False}),
        DistillConfig(stage="distill", name="student", parent="baseline", teachers=("baseline",), model="student",
                      rows=32, epochs=0.1),
    )  # fmt: skip
    builder = pipeline.Builder(
        tmp_path / "run", moods, {**checkpoints, "student": checkpoints[None]}, log=lambda _: None
    )
    with pipeline.locked(tmp_path / "run"):
        student = [builder.build(stage) for stage in stages][-1]
    assert Artifact.load(student.folder).manifest.quantization == student.manifest.quantization == "Q4_K_M"
    assert [licence.line for licence in Artifact.load(student.folder).manifest.licences] == [
        "student: mit",
        "gemma3-270m: gemma; counts for what is distilled from its outputs",
    ]


def test_a_training_goes_on_from_where_a_kill_ended_it(first: Path, moods: Dataset, untrained: Checkpoint) -> None:
    """What was left under its key is found by the stage, also under another name, and is gone when it is done."""
    changed = RECIPE.stages[0].model_copy(update={"name": "another", "seed": 7})
    recipe = RECIPE.model_copy(update={"stages": (changed,)})
    left: list[Path] = []

    def killed(parent: Any, config: Any, context: Any) -> None:
        (context.scratch / "checkpoint-1").mkdir()
        left.append(context.scratch)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run(first.with_name("killed"), moods, untrained, recipe)
    assert (left[0] / "checkpoint-1").is_dir()
    found: list[bool] = []
    original = finetune.run

    def resumed(parent: Any, config: Any, context: Any) -> Artifact:
        found.append((context.scratch / "checkpoint-1").is_dir())
        (context.scratch / "checkpoint-1").rmdir()
        return original(parent, config, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "run", resumed)
        renamed = recipe.model_copy(update={"stages": (changed.model_copy(update={"name": "renamed"}),)})
        _, said = run(first.with_name("killed"), moods, untrained, renamed)
    assert (found, outcomes(said)) == ([True], ["made"])
    assert not (first.with_name("killed") / pipeline.WORK).exists()


def test_another_run_takes_the_same_stages_and_makes_the_others(
    first: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    changed = RECIPE.stages[2].model_copy(update={"temperature": 2.0})
    recipe = RECIPE.model_copy(update={"stages": (*RECIPE.stages[:2], changed)})
    artifacts, said = run(first.with_name("second"), moods, untrained, recipe)
    assert outcomes(said) == ["taken", "taken", "made"]
    assert artifacts["cut"].digest == Artifact.load(first / "cut", verify=True).digest
    assert artifacts["recovered"].manifest.key != Artifact.load(first / "recovered").manifest.key


def test_scores_are_kept_until_the_engine_changes(
    tmp_path: Path, tiny_artifact: Artifact, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in closure.OURS:
        shutil.copytree(closure.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    said: list[str] = []
    context = replace(context_in(tmp_path / "build", moods, untrained), log=said.append)

    def scored() -> str:
        score(tiny_artifact, moods, context, ServingConfig())
        return said[-1].split()[1]

    monkeypatch.setattr(closure, "ROOT", tmp_path)
    assert [scored(), scored()] == ["made", "kept"]
    engine = tmp_path / "serving/backend/engine.py"
    engine.write_text(engine.read_text(encoding="utf-8") + "\nCHANGED = True\n", encoding="utf-8")
    assert scored() == "made"


def test_scores_follow_from_how_texts_are_run_and_not_from_how_they_are_sent(
    tmp_path: Path, tiny_artifact: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    said: list[str] = []
    context = replace(context_in(tmp_path / "build", moods, untrained), log=said.append)
    for serving in (ServingConfig(), ServingConfig(max_batch_size=1), ServingConfig(micro_batch=1)):
        score(tiny_artifact, moods, context, serving)
    assert outcomes(said) == ["made", "kept", "made"]


class Model:
    """In a cycle, as a model and what trains it are."""

    def __init__(self) -> None:
        self.itself = self


def test_a_student_for_which_time_is_too_short_is_a_row_that_failed_and_lets_go_of_its_memory(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Model]] = []

    def build(self: pipeline.Builder, stage: Any) -> None:
        if stage.name == "recovered":
            model = Model()
            models.append(weakref.ref(model))
            raise UserError("MAX_HOURS leaves 0 s")
        self.artifacts[stage.name] = SimpleNamespace(servable=True)  # type: ignore[assignment]

    monkeypatch.setattr(pipeline.Builder, "build", build)
    built = pipeline.run(RECIPE, moods, {None: untrained}, tmp_path / "run", log=lambda _: None)
    assert list(built.artifacts) == ["baseline", "cut"]
    assert str(built.failed["recovered"]) == "MAX_HOURS leaves 0 s"
    assert models[0]() is None
