"""What the trained rows of the study are worth, without exports and servers: for a machine that only trains (a GPU).

``python -m benchmarks.study_quality --device cuda --rows loss-soft,loss-hidden`` makes these stages of recipe ``study``
and what they are made from, scores them on dev in PyTorch, and prints a JSON line for each. Several may run side by
side over one ``--build``: what they share, such as the baseline, one of them makes. A killed one goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bantam.artifact import Artifact
from bantam.report.schema import BASELINE
from bantam.run import builder
from bantam.run.builder import Builder
from optimizer.config import AnyStage, ExportConfig, QuantizeConfig
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import bootstrap_drop, cross_fitted, one_hot
from optimizer.load import resolve
from optimizer.metric import Measure, Metric
from optimizer.recipe import Recipe, load_recipe
from optimizer.reference import Reference


def main() -> None:
    """Make, score, print."""
    arguments = parse()
    recipe, data = load_recipe("study", arguments.profile), load_dataset(arguments.data)
    checkpoint = resolve(arguments.model, log=note)
    recipe = recipe.suited_to(checkpoint.training)
    trained = [stage.name for stage in recipe.stages if not isinstance(stage, ExportConfig | QuantizeConfig)]
    rows = arguments.rows.split(",") if arguments.rows else trained
    if unknown := set(rows) - set(trained):
        sys.exit(f"No trained stages of recipe study: {', '.join(sorted(unknown))}. Known: {', '.join(trained)}.")
    folder = arguments.build / f"study-quality-{'-'.join(rows)[:80]}"
    with builder.locked(folder):
        made = Builder(folder, data, {None: checkpoint}, arguments.device, note)
        known: dict[str, Measure] = {}
        for stage in needed(recipe, rows):
            started = time.monotonic()
            artifact = made.build(stage)
            if stage.name in (BASELINE, *rows):
                known[stage.name] = measured(artifact, data)
                found = row(stage.name, artifact, known, data) | {"seconds": round(time.monotonic() - started, 1)}
                print(json.dumps(found), flush=True)


def needed(recipe: Recipe, rows: Iterable[str]) -> list[AnyStage]:
    """The stages of these names and all that they are made from, in the recipe's order; the baseline in any case."""
    by_name = {stage.name: stage for stage in recipe.stages}
    wanted, open_ = set(), [BASELINE, *rows]
    while open_:
        name = open_.pop()
        wanted.add(name)
        open_ += by_name[name].sources
    return [stage for stage in recipe.stages if stage.name in wanted]


def measured(artifact: Artifact, data: Dataset) -> Measure:
    """Macro-F1 on dev by row weights; each half of dev is decided by thresholds of the other one."""
    scores = Reference.load(artifact.folder).probabilities(data.splits["dev"].texts)
    targets = data.splits["dev"].targets
    return Metric().on(scores, cross_fitted(scores, targets), one_hot(targets, len(data.labels)), data.labels)


def row(name: str, artifact: Artifact, known: dict[str, Measure], data: Dataset) -> dict[str, Any]:
    """Name, parameters, and the drop against the baseline in points with its 95% interval."""
    rows = len(data.splits["dev"].texts)
    drop = bootstrap_drop(known[BASELINE], known[name], rows)
    return {
        "name": name,
        "macro_f1": round(float(known[name](np.ones((1, rows), dtype=np.float32))[0]), 4),
        "drop_points": round(drop.points, 2),
        "low": round(drop.low, 2),
        "high": round(drop.high, 2),
        "parameters": artifact.manifest.details["parameters"],
    }


def note(line: str) -> None:
    """Progress, to standard error."""
    print(line, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Quality of the trained rows of the study.")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--profile", default="full")
    parser.add_argument("--rows", default="", help="names of stages, separated by commas; all that train if left out")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--build", type=Path, default=Path("build"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
