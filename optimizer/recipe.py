"""Recipes: which stages make which variants. Typed, frozen, read from TOML; unknown keys are refused.

What a stage may say is in :mod:`optimizer.config`.

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
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from bantam.errors import RecipeError
from optimizer.config import AnyStage, Config, ExportConfig, TrainingConfig

RECIPES = Path(__file__).with_name("recipes")
PROFILES = ("quick", "full")
TAKEN = ("candidates", "card", "measure", "serving")
"""No stage can have these names, nor one that begins with ``scores-``: folders of a run, and tables of a recipe."""


class MeasureConfig(Config):
    """How variants are measured; the same for all of them."""

    texts: int = Field(200, ge=10)
    """Texts of the test split in one round, drawn with a fixed seed."""
    rounds: int = Field(5, ge=1)
    """Rounds, interleaved over the variants: A B C A B C ..."""
    rate_seconds: float = Field(5.0, gt=0)
    """Length of the fixed-rate load test of each variant."""
    slo_ms: float = Field(50.0, gt=0)
    """The 99th percentile that ``max_rps_within_slo`` keeps."""
    memory_mb: float | None = Field(None, gt=0)
    """Most memory (10^6 bytes) for the variants that are measured together; a share of what is there if absent."""


class ServingConfig(Config):
    """How the chosen variant is served."""

    max_batch_size: int = Field(64, ge=1)
    """Most texts in one request, and most that Triton merges into one batch."""
    micro_batch: int = Field(8, ge=1)
    """Most texts in one run of the model; texts are sorted by length first, padded to the longest of these."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; all cores if absent."""


class Recipe(Config):
    """A named way from a checkpoint to measured variants."""

    name: str
    description: str
    max_drop_points: float = Field(1.0, gt=0)
    """The budget: macro-F1 points that the chosen variant may lose against the baseline."""
    stages: tuple[AnyStage, ...] = Field(min_length=1)
    measure: MeasureConfig = MeasureConfig()
    serving: ServingConfig = ServingConfig()

    @model_validator(mode="after")
    def _parents_come_first(self) -> Recipe:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are named {stage.name!r}")
            if stage.name in TAKEN or stage.name.startswith("scores-"):
                raise ValueError(f"no stage can be named {stage.name!r}, which a run uses itself: choose another name")
            for source in stage.sources:
                if source not in seen:
                    raise ValueError(f"stage {stage.name!r} builds on {source!r}, which no stage before it is named")
            seen.add(stage.name)
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Checkpoints that stages name beside the run's own."""
        named = (stage.model for stage in self.stages if isinstance(stage, TrainingConfig))
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def export_of(self, parent: str) -> str | None:
        """The stage that exports the model of stage ``parent`` to ONNX as it is; None if there is none."""
        exports = (stage for stage in self.stages if isinstance(stage, ExportConfig) and stage.format == "onnx")
        return next((stage.name for stage in exports if stage.parent == parent), None)

    def suited_to(self, training: Mapping[str, Any]) -> Recipe:
        """This recipe with a model's own training defaults where the recipe itself says nothing."""
        stages = tuple(
            stage.model_copy(update={k: v for k, v in training.items() if k not in stage.model_fields_set})
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
    _apply(raw, raw.pop("profiles", {}).get(profile, {}), f"profile {profile!r} of {path.name}")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as exc:
        problems = "\n".join(
            f"  {'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in exc.errors()
        )
        raise RecipeError(f"{path} is not a recipe that Bantam knows:\n{problems}") from exc


def _apply(raw: dict[str, Any], overrides: dict[str, Any], where: str) -> None:
    """Lay a profile's overrides over the stages of the same name, and over the tables measure and serving."""
    stages = {stage.get("name"): stage for stage in raw.get("stages", [])}
    for name, values in overrides.items():
        if name in ("measure", "serving"):
            raw.setdefault(name, {}).update(values)
        elif name in stages:
            stages[name].update(values)
        else:
            known = ", ".join(map(str, [*stages, "measure", "serving"]))
            raise RecipeError(f"The {where} sets {name!r}, which is no stage of it. Known: {known}.")
