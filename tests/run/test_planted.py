"""A fault that is planted in a real int8 graph: one layer's scales are off by 8 times. It shows on a slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bantam.artifact import Artifact
from bantam.run import judge
from bantam.run.choose import choose
from bantam.run.score import Scored
from bantam.run.state import Run
from optimizer import export, quantize
from optimizer.catalog import Checkpoint
from optimizer.config import ExportConfig
from optimizer.data import Dataset
from optimizer.evaluate import tune_thresholds
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from serving.backend.engine import Engine
from tests.optimizer.moods import context_in
from tests.run.made_up import make_run, timing

pytestmark = pytest.mark.usefixtures("few_resamples")
AVERAGE, SLICE = 10.0, 5.0
"""Points that may be lost on the whole, where most of these faults are within, and on a slice."""


def planted(int8: Artifact, folder: Path) -> Iterator[Artifact]:
    """The variant with the scales of one of its weights after another multiplied by 8."""
    graph = onnx.load(int8.folder / "model.onnx")
    scales = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("_scale")]
    assert len(scales) > 4, "of the products of two layers"
    for number, scale in enumerate(scales):
        before = numpy_helper.to_array(scale)
        scale.CopyFrom(numpy_helper.from_array(before * np.float32(8), scale.name))
        made = folder / f"planted-{number}"
        made.mkdir()
        for file in int8.folder.iterdir():
            (made / file.name).symlink_to(file)
        (made / "model.onnx").unlink()
        onnx.save(graph, made / "model.onnx")
        scale.CopyFrom(numpy_helper.from_array(before, scale.name))
        yield replace(int8, folder=made)


def judged(run: Run, variant: Artifact) -> Run:
    """The run with this variant as int8, scored on dev."""
    dev = run.data.splits["dev"]
    scores = Engine(variant.folder, threads=1).probabilities(list(dev.texts))
    run.scored["int8"] = Scored(variant, scores, tune_thresholds(scores, dev.targets))
    for known in (run.drops, run.slice_drops, run.part_drops):
        known.clear()
    run.decisions.pop(("int8", "dev"), None)
    run.answers = {}
    return run


def test_a_layer_whose_scales_are_off_is_refused_on_a_slice_where_the_average_hides_it(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    baseline = replace(fine_tuned, name="baseline")
    to_onnx = ExportConfig(name="fp32", parent="baseline", format="onnx")
    fp32 = export.run(baseline, to_onnx, context_in(tmp_path / "fp32", moods, untrained, {"baseline": baseline}))
    to_int8 = DynamicInt8Config(name="int8", parent="fp32")
    int8 = quantize.run(fp32, to_int8, context_in(tmp_path / "int8", moods, untrained, {"fp32": fp32}))
    run = make_run(tmp_path, rows=20)
    run.data, run.artifacts = moods, {"baseline": baseline, "fp32": fp32, "int8": int8}
    run.recipe = run.recipe.model_copy(update={"max_drop_points": AVERAGE, "max_slice_drop_points": SLICE})
    dev = moods.splits["dev"]
    scores = Engine(fp32.folder, threads=1).probabilities(list(dev.texts))
    for name in ("baseline", "fp32"):
        run.scored[name] = Scored(run.artifacts[name], scores, tune_thresholds(scores, dev.targets))
    run.decisions.clear()

    def chosen() -> tuple[str, str]:
        found = choose(judge.candidates(run), timing("baseline"), run.budget, "fp32")
        return found.chosen, found.dropped.get("int8", "")

    judged(run, int8)
    assert chosen() == ("int8", ""), "as it was made"
    for variant in planted(int8, tmp_path):
        drop = judge.drop(judged(run, variant), "int8", "dev")
        assert drop is not None
        slices = judge.slice_drops(run, "int8", "dev")
        broken = [name for name, found in slices.items() if run.budget.broken(found)]
        if broken and run.budget.holds(drop):
            name, reason = chosen()
            assert name == "fp32"
            assert any(slice_ in reason for slice_ in broken)
            return
    pytest.fail("no fault was one that the average hides")
