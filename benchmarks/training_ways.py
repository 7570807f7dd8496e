"""What each way to train takes: the fine-tuning stages of a recipe on the same rows, each in a process of its own.

``python -m benchmarks.training_ways MODEL --data DATA [--recipe decoder-study] [--stages lora,qlora]``: quality on dev,
how the loss falls, and time and memory as they were foreseen after the first steps and as they were. A stage that says
``minutes`` is left out: how many rows that is differs. Nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bantam.machine import describe_machine
from optimizer import finetune
from optimizer.config import FinetuneConfig
from optimizer.data import load_dataset
from optimizer.load import resolve
from optimizer.recipe import load_recipe
from optimizer.stage import RunContext


def main() -> None:
    """Read the options, train, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_ways", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="decoder-study")
    parser.add_argument("--stages", default="", help="of the recipe, separated by commas; all if absent")
    asked = parser.parse_args()
    wanted = [name for name in asked.stages.split(",") if name]
    stages = [stage for stage in load_recipe(asked.recipe).stages if isinstance(stage, FinetuneConfig)]
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        if stage.name in wanted or (not wanted and stage.minutes is None):
            with get_context("spawn").Pool(1) as alone:  # what the one before has left in memory is not its own
                found[stage.name] = alone.apply(trained, (stage, asked.model, asked.data))
    print(f"{describe_machine().cpu}\n", *table(found), sep="\n")


def trained(config: FinetuneConfig, model: str, data: str) -> dict[str, Any]:
    """Train, and return what the manifest says of it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("out", "scratch"):
            Path(folder, name).mkdir()
        context = RunContext(
            folder=Path(folder, "out"),
            scratch=Path(folder, "scratch"),
            key="benchmark",
            data=load_dataset(data),
            checkpoint=resolve(model),
            shared=Path(folder, "shared"),
        )
        return dict(finetune.run(None, config, context).manifest.metrics)


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown."""
    heads = ("training", "rows", "macro-F1 on dev", "loss, first and last", "s, foreseen and taken", "GB, likewise")
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for name, metrics in found.items():
        took, losses = metrics["forecast"], [entry["loss"] for entry in metrics["log"] if "loss" in entry]
        yield (
            f"| {name} | {metrics['rows']:,} | {metrics['dev']['macro_f1']:.3f} | {losses[0]:.2f}, {losses[-1]:.2f} | "
            f"{took['seconds']:.0f}, {took['took_s']:.0f} | "
            f"{took['memory_mb'] / 1000:.2f}, {took['took_mb'] / 1000:.2f} |"
        )


if __name__ == "__main__":
    main()
