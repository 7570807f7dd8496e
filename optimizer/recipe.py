"""Recipes: which stages make which variants. Typed, frozen, read from TOML; unknown keys are refused.

What a stage may say is in :mod:`optimizer.config`, and for a quantization with its method.

A recipe is a list of named stages, each made from its parent, so that it can branch::

    [[stages]]
    stage = "finetune"          # which stage runs; its own keys follow
    name = "baseline"           # folder and row in the report

    [[stages]]
    stage = "export"
    name = "onnx-fp32"
    parent = "baseline"
    format = "onnx"

    [profiles.quick.baseline]   # overrides by profile and stage name
    rows = 16000

``[defaults.distill]`` and ``[defaults.onnx-int4]`` say what all stages of a kind or of a method have in common. Each
``[[matrix]]`` makes all of its ``methods`` of all of its ``models``: ``{name = "int8", parent = "onnx"}`` of the model
``small`` is the stage ``small-int8`` with the parent ``small-onnx`` (the model itself, if none is named). A profile
may have ``defaults``, ``stages`` and ``matrix`` of its own, which are added.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from bantam.errors import RecipeError
from optimizer.config import (
    AdoptConfig,
    AnyStage,
    CheckpointConfig,
    Config,
    DistillConfig,
    ExportConfig,
    FinetuneConfig,
    TrainingConfig,
)
from optimizer.kinds import check_fit, config_classes, is_servable, read_stage
from optimizer.metric import Metric, MetricField
from optimizer.recipe_tables import MatrixConfig
from optimizer.recipe_tables import MeasureConfig as MeasureConfig
from optimizer.recipe_tables import SearchConfig as SearchConfig
from optimizer.recipe_tables import ServingConfig as ServingConfig

if TYPE_CHECKING:
    from optimizer.load.kind import Kind

RECIPES = Path(__file__).with_name("recipes")
DEFAULTS: Mapping[Kind, str] = {"encoder": "int8", "decoder": "decoder"}
"""Kind of transformer -> the recipe that is taken if none is named."""
PROFILES = ("quick", "full")
TABLES = ("measure", "search", "serving")
"""Tables of a recipe beside its stages, which a profile may override as well."""
TAKEN = ("candidates", "card", "defaults", "matrix", "stages", *TABLES)
"""No stage can have these names, nor one that begins with ``scores-``: folders of a run, and tables of a recipe."""

PLANNED = 50
"""Texts that tell how fast random weights are. No more are scored: their answers say nothing."""


DISAGREEMENT = {"single_label": 1.0, "multi_label": 4.0}
"""Points of the texts that may be decided otherwise, by task: of several labels all have to be decided alike.

A model that has lost a point of macro-F1 to quantization decides 0.5 points of sms-spam's texts otherwise, and 4.5 to
6.7 of those of goemotions-ekman, whose rows have sets of seven labels (benchmarks/agreement_budget.py).
"""


class Recipe(Config):
    """A named way from a checkpoint to measured variants."""

    name: str
    description: str
    max_drop_points: float = Field(1.0, gt=0)
    """The budget: points of ``metric`` that the chosen variant may lose against the baseline."""
    max_disagreement_points: float | None = Field(None, gt=0)
    """The budget where ``metric`` is agreement: points of the texts that may be decided otherwise. If absent, as
    :data:`DISAGREEMENT` says."""
    max_slice_drop_points: float | None = Field(None, gt=0)
    """The budget for any one slice: a label, a text length, a value of the slice column; no such limit if absent."""
    metric: MetricField | None = None
    """If absent: macro-f1; spearman for regression; agreement for classifiers of data without labels."""
    stages: tuple[Annotated[SerializeAsAny[AnyStage], BeforeValidator(read_stage)], ...] = Field(min_length=1)
    measure: MeasureConfig = MeasureConfig()
    serving: ServingConfig = ServingConfig()
    search: SearchConfig | None = None
    """If absent, all that is measured is measured alike."""

    @model_validator(mode="after")
    def _each_stage_can_start(self) -> Recipe:
        seen: dict[str, AnyStage] = {}
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are named {stage.name!r}")
            if stage.name in TAKEN or stage.name.startswith("scores-"):
                raise ValueError(f"no stage can be named {stage.name!r}, which a run uses itself: choose another name")
            if isinstance(stage, AdoptConfig | FinetuneConfig) == bool(stage.parent):
                wanted = "none: it starts from a checkpoint" if stage.parent else "the name of a stage before it"
                raise ValueError(
                    f"stage {stage.name!r} ({stage.stage}) has parent = {stage.parent!r}, expected {wanted}"
                )
            for source in stage.sources:
                if source not in seen:
                    raise ValueError(f"stage {stage.name!r} builds on {source!r}, which no stage before it is named")
                check_fit(stage, seen[source])
            seen[stage.name] = stage
        if self.search is not None and not self.servable:
            raise ValueError(
                "search has nothing to choose from: expected measured stages that export or quantize to "
                "onnx or openvino; add some, or leave the table out"
            )
        return self

    @property
    def servable(self) -> tuple[str, ...]:
        """Names of the measured stages whose result can be served."""
        return tuple(stage.name for stage in self.stages if stage.measure and is_servable(stage))

    def points_of(self, metric: Metric, task: str) -> float:
        """The budget in points of this metric, for a task."""
        if metric.kind != "agreement":
            return self.max_drop_points
        return self.max_disagreement_points or DISAGREEMENT[task]

    @property
    def models(self) -> tuple[str, ...]:
        """Checkpoints that stages name beside the run's own."""
        named = (stage.model for stage in self.stages if isinstance(stage, CheckpointConfig))
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def export_of(self, parent: str) -> str | None:
        """The stage that exports the model of stage ``parent`` to ONNX as it is; None if there is none."""
        exports = (stage for stage in self.stages if isinstance(stage, ExportConfig) and stage.format == "onnx")
        return next((stage.name for stage in exports if (stage.parent, stage.precision) == (parent, "fp32")), None)

    def exporting(self, parent: str) -> Recipe:
        """This recipe with an unmeasured export of stage ``parent`` to ONNX at its end, if it has none."""
        if self.export_of(parent) is not None:
            return self
        taken = {stage.name for stage in self.stages}
        names = (f"{parent}-onnx-fp32{'-' * bool(more)}{more or ''}" for more in range(len(taken) + 1))
        name = next(name for name in names if name not in taken)
        export = ExportConfig(name=name, parent=parent, format="onnx", measure=False)
        return self.model_copy(update={"stages": (*self.stages, export)})

    def making(self, names: Collection[str]) -> Recipe:
        """This recipe with what these stages are made from and nothing else, all of them measured, without search."""
        needed = set(names)
        for stage in reversed(self.stages):
            needed |= {*stage.sources} if stage.name in needed else set()
        stages = tuple(
            stage.model_copy(update={"measure": stage.name in names}) for stage in self.stages if stage.name in needed
        )
        return self.model_copy(update={"stages": stages, "search": None})

    def adopting(self, names: Collection[str]) -> Recipe:
        """This recipe with the checkpoints of these fine-tuning stages as they are, instead of trained."""
        stages = tuple(
            AdoptConfig(name=stage.name, model=stage.model, measure=stage.measure, max_length=stage.max_length)
            if isinstance(stage, FinetuneConfig) and stage.name in names
            else stage
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})

    def planned(self) -> Recipe:
        """This recipe for random weights: nothing is fine-tuned, and :data:`PLANNED` texts are timed and scored.

        Students that are other models are left out with all that is made from them, and so is what is made to be
        published beside something that is known to be good: the exports that are neither measured nor made use of.
        """
        out: set[str] = set()
        for stage in self.stages:
            if (isinstance(stage, DistillConfig) and stage.model) or out & {*stage.sources}:
                out.add(stage.name)
        left = [stage for stage in self.stages if stage.name not in out]
        sources = {source for stage in left for source in stage.sources}
        stages = tuple(stage for stage in left if stage.measure or stage.name in sources)
        own = [stage.name for stage in stages if isinstance(stage, FinetuneConfig) and stage.model is None]
        texts = min(PLANNED, self.measure.texts)
        measure = self.measure.model_copy(update=dict.fromkeys(("texts", "dev_rows", "test_rows"), texts))
        return self.model_copy(update={"stages": stages, "measure": measure}).adopting(own)

    def suited_to(self, training: Mapping[str, Any]) -> Recipe:
        """This recipe with a model's own training defaults where the recipe itself says nothing."""
        stages = tuple(
            stage.model_copy(
                update={
                    key: value
                    for key, value in training.items()
                    if key in type(stage).model_fields and key not in stage.model_fields_set
                }
            )
            if isinstance(stage, TrainingConfig) and stage.model is None
            else stage
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})


def known_recipes() -> list[str]:
    """Names of the recipes that ship with Bantam."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str, profile: str = "quick") -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path, with a profile's overrides applied.

    Raises :class:`RecipeError` for an unknown name or profile, a file that is not TOML, or a key or value that the
    stage does not know; the message lists what is.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise RecipeError(
            f"Unknown recipe {name!r}. Known: {', '.join(known_recipes())}; or the path of a .toml file."
        ) from exc
    except (OSError, ValueError) as exc:
        raise RecipeError(f"{path} cannot be read as TOML: {exc}.") from exc
    raw.setdefault("name", path.stem)
    if profile not in PROFILES:
        raise RecipeError(f"Unknown profile {profile!r}. Known: {', '.join(PROFILES)}.")
    try:
        _resolve(raw, raw.pop("profiles", {}).get(profile, {}), f"profile {profile!r} of {path.name}")
        return Recipe.model_validate(raw)
    except ValidationError as exc:
        problems = "\n".join(f"  {_place(error)}{error['msg'].removeprefix('Value error, ')}" for error in exc.errors())
        raise RecipeError(f"{path} is not a recipe that Bantam knows:\n{problems}") from exc


def _place(error: Mapping[str, Any]) -> str:
    """Where it is; what is wrong with a stage says so itself."""
    place = ".".join(str(part) for part in error["loc"])
    return "" if error["type"] == "value_error" or not place else f"{place}: "


def _resolve(raw: dict[str, Any], overrides: dict[str, Any], where: str) -> None:
    """Write all stages of ``raw`` out, defaults and a profile's overrides applied, in place."""
    defaults: dict[str, dict[str, Any]] = {}
    stages: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for table in (raw, overrides):
        for kind, values in table.pop("defaults", {}).items():
            defaults.setdefault(kind, {}).update(values)
        stages += _tables(table, "stages")
        made += [stage for one in _tables(table, "matrix") for stage in MatrixConfig.model_validate(one).stages]
    kinds = [name for stage, methods in config_classes().items() for name in (stage, *filter(None, methods))]
    if unknown := [kind for kind in defaults if kind not in kinds]:
        raise RecipeError(f"[defaults.{unknown[0]}] is of no stage or method. Known: {', '.join(kinds)}.")
    stages = [
        {**defaults.get(str(stage.get("stage")), {}), **defaults.get(str(stage.get("method")), {}), **stage}
        for stage in (*stages, *made)
    ]
    by_name = {stage.get("name"): stage for stage in stages}
    for name, values in overrides.items():
        if name in TABLES:
            raw.setdefault(name, {}).update(values)
        elif name in by_name:
            by_name[name].update(values)
        else:
            known = ", ".join(map(str, [*by_name, *TABLES]))
            raise RecipeError(f"The {where} sets {name!r}, which is no stage of it. Known: {known}.")
    if stages:
        raw["stages"] = stages


def _tables(table: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = table.pop(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RecipeError(f"{name!r} is no list of tables. Expected each of them to begin with [[{name}]].")
    return found
