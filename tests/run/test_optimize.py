"""What a run publishes beside the variant that it chose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from bantam.artifact import Artifact
from bantam.run.optimize import Run, _publish_baseline
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored
from optimizer.recipe import load_recipe
from serving.repository import models, publish, published

RECIPE = """
description = "a test"
[[stages]]
stage = "finetune"
name = "baseline"
[[stages]]
stage = "distill"
name = "student"
parent = "baseline"
layers = 1
[[stages]]
stage = "export"
name = "exported"
parent = "{parent}"
format = "onnx"
"""


def test_the_baseline_s_export_is_published_and_that_of_an_earlier_run_withdrawn(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    thresholds = (0.1, 0.2, 0.3)
    said: list[str] = []
    for parent in ("baseline", "baseline", "student"):
        (tmp_path / "mine.toml").write_text(RECIPE.format(parent=parent), encoding="utf-8")
        run = SimpleNamespace(
            request=OptimizeRequest(name="it", repository=tmp_path / "repo"),
            recipe=load_recipe(str(tmp_path / "mine.toml")),
            artifacts={"exported": tiny_artifact},
            scored={"baseline": Scored(tiny_artifact, np.empty((0, 3), np.float32), thresholds)},
        )
        _publish_baseline(cast(Run, run), said.append)
        publish(tiny_artifact, tmp_path / "repo", "it", thresholds=thresholds)
        there = published(tmp_path / "repo", "it-baseline")
        assert (there is not None) == (parent == "baseline")
    assert models(tmp_path / "repo") == ["it"]
    assert [line.split(" ")[1:4] for line in said] == [
        ["published", "as", str(tmp_path / "repo/it-baseline/1")],
        ["is", "published", "already"],
        ["withdrawn:", "it", "is"],
    ]
