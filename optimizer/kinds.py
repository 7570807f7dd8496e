"""Every kind of stage and method: which config a recipe's table becomes, what a stage starts from and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bantam.artifact import LAYOUTS
from optimizer.config import (
    PRUNING,
    AdoptConfig,
    AnyStage,
    DistillConfig,
    ExportConfig,
    FinetuneConfig,
    QuantizeConfig,
    StageConfig,
)
from optimizer.quantize import METHODS


def config_classes() -> dict[str, dict[str, type[StageConfig]]]:
    """Stage -> method -> the class that says what its table may hold; stages of one kind have the method ``""``."""
    return {
        "adopt": {"": AdoptConfig},
        "finetune": {"": FinetuneConfig},
        "distill": {"": DistillConfig},
        "prune": {**PRUNING},
        "export": {"": ExportConfig},
        "quantize": {name: method.config for name, method in METHODS.items()},
    }


def read_stage(table: Any) -> Any:
    """A stage's table as the config that its ``stage`` and ``method`` ask for; a config stays as it is.

    Raises ``ValueError`` with a line for each problem, which names the keys or values that are known.
    """
    if not isinstance(table, Mapping):
        return table
    stage, method = str(table.get("stage")), str(table.get("method", ""))
    classes = config_classes()
    about = f"stage {table.get('name')!r}"
    if stage not in classes:
        raise ValueError(f"{about}: stage = {stage!r}, expected one of {', '.join(classes)}")
    known = classes[stage]
    if method not in known:
        if "" not in known:
            raise ValueError(f"{about}: method = {method!r}, expected one of {', '.join(known)}")
        method = ""
    kind, what = known[method], f"{stage} {method}".strip()
    try:
        return kind.model_validate(table)
    except ValidationError as exc:
        raise ValueError("\n  ".join(f"{about}: {_problem(error, kind, what)}" for error in exc.errors())) from exc


def _problem(error: Mapping[str, Any], kind: type[StageConfig], what: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden" and key not in kind.model_fields and len(error["loc"]) == 1:
        return f"{what} has no key {key!r}. Known: {', '.join(kind.model_fields)}"
    return f"{key or what}: {error['msg'].removeprefix('Value error, ')}"


def check_fit(stage: AnyStage, source: AnyStage) -> None:
    """Raise ``ValueError`` if what ``source`` makes is nothing that ``stage`` can start from."""
    if isinstance(stage, QuantizeConfig):
        accepts = METHODS[stage.method].accepts
    elif isinstance(stage, ExportConfig):
        accepts = frozenset(name for name, layout in LAYOUTS.items() if stage.format in layout.exports_to)
    else:
        accepts = frozenset(name for name, layout in LAYOUTS.items() if layout.trainable)
    made, final = "hf", False
    if isinstance(source, QuantizeConfig):
        made, final = METHODS[source.method].makes, METHODS[source.method].final
    elif isinstance(source, ExportConfig):
        made, final = source.format, source.precision != "fp32"
    if final or made not in accepts:
        formats = " or ".join(sorted(LAYOUTS[name].format for name in accepts))
        raise ValueError(
            f"stage {stage.name!r} ({stage.stage}) starts from {source.name!r}, whose format is {LAYOUTS[made].format}"
            f"{' in fewer bits than fp32' if final else ''}; expected {formats} in fp32"
        )


def is_servable(stage: AnyStage) -> bool:
    """Whether what a stage makes can be served."""
    made = METHODS[stage.method].makes if isinstance(stage, QuantizeConfig) else "hf"
    return LAYOUTS[stage.format if isinstance(stage, ExportConfig) else made].servable
