"""``python -m tests.optimizer.train_distributed FOLDER``: fine-tune and distil a toy, as often as it is started."""

from __future__ import annotations

import sys
from pathlib import Path

from bantam.run import builder as pipeline
from optimizer.catalog import Checkpoint
from optimizer.config import DistillConfig
from optimizer.data import load_dataset
from optimizer.recipe import Recipe
from tests.optimizer.moods import CONFIG

EPOCHS = 2.0
# The last layer's own output is compared, so that every kind of loss crosses processes; no dropout, whose draws differ.
STAGES = (
    CONFIG.model_copy(update={"epochs": EPOCHS, "dropout": 0.0}),
    DistillConfig(
        stage="distill",
        name="distilled",
        parent="baseline",
        layers=1,
        hidden=16,
        heads=1,
        losses={"soft": 1.0, "hidden": 0.5, "hard": 0.1},
        epochs=EPOCHS,
        batch_size=16,
        learning_rate=1e-3,
        dropout=0.0,
        precision="fp32",
    ),
)


def main(folder: Path) -> None:
    """Both stages, in ``folder/run``; data and checkpoint are in ``folder`` already."""
    checkpoint = Checkpoint("tiny", folder / "tiny", "test", "local", "Apache-2.0", "digest")
    data = load_dataset(str(folder / "moods.csv"))
    recipe = Recipe(name="ranks", description="toy", stages=STAGES)
    pipeline.run(recipe, data, {None: checkpoint}, folder / "run")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
