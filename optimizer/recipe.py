"""Recipes: which stages make which variants. Typed, frozen, read from TOML; unknown keys are refused.

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
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from optimizer.errors import RecipeError

RECIPES = Path(__file__).with_name("recipes")
PROFILES = ("quick", "full")


class Config(BaseModel):
    """Frozen; refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StageConfig(Config):
    """What all stages share."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    parent: str | None = None
    measure: bool = True
    """False: a step on the way, not a row in the report."""


class FinetuneConfig(StageConfig):
    """Train a classification head and the encoder on the train split."""

    stage: Literal["finetune"]
    rows: int | None = Field(None, ge=1)
    """A random part of the train split, this many rows; all if absent."""
    epochs: float = Field(2.0, gt=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_length: int = Field(512, ge=8)
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the encoder; the checkpoint's own if absent. 0 suits one pass over the data, and is faster on a CPU."""
    freeze_embeddings: bool = True
    """Leave the word embeddings as they are: half of MiniLM's parameters, and half of a step's time on a CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast where the CPU or GPU computes it natively."""
    evaluations_per_epoch: int = Field(2, ge=1)
    patience: int = Field(2, ge=1)
    """Stop after this many evaluations on dev without a better macro-F1."""
    dev_rows: int | None = Field(None, ge=1)
    """Rows of dev used while training; all if absent."""
    seed: int = 0


class ExportConfig(StageConfig):
    """PyTorch to ONNX, or ONNX to OpenVINO IR: the same computation in another format, checked for parity."""

    stage: Literal["export"]
    format: Literal["onnx", "openvino"]
    precision: Literal["fp32", "bf16"] = "fp32"
    """OpenVINO only: what the CPU computes in. bf16 is a variant of its own, about 1e-3 away from fp32."""


class QuantizeConfig(StageConfig):
    """Weights, or weights and activations, in fewer bits."""

    stage: Literal["quantize"]
    method: Literal["onnx-dynamic-int8", "openvino-static-int8"]
    calibration_rows: int = Field(300, ge=1)
    """Static methods: how many training texts, at their real lengths."""
    seed: int = 0


AnyStage = Annotated[FinetuneConfig | ExportConfig | QuantizeConfig, Field(discriminator="stage")]


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
            if stage.parent is not None and stage.parent not in seen:
                raise ValueError(f"stage {stage.name!r} has parent {stage.parent!r}, which no stage before it is named")
            seen.add(stage.name)
        return self

    def suited_to(self, training: Mapping[str, Any]) -> Recipe:
        """This recipe with a model's own training defaults where the recipe itself says nothing."""
        stages = tuple(
            stage.model_copy(update={k: v for k, v in training.items() if k not in stage.model_fields_set})
            if isinstance(stage, FinetuneConfig)
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
