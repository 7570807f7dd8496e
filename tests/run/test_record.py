"""What a report says of zeros in weights: only what was measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bantam.artifact import Artifact, Manifest, Signature
from bantam.report.schema import InProcess, Variant
from bantam.run.record import behind, sparsity_notes, steps
from optimizer.config import ExportConfig, FinetuneConfig, PruneConfig

SIGNATURE = Signature("single_label", ("no", "yes"), ("input_ids",), 64)
SPARSE = {"sparsity": {"pattern": "magnitude", "ratio": 0.25, "modules": []}}


def artifact(name: str, parents: tuple[str, ...], **details: Any) -> Artifact:
    """One that was made from ``parents`` in turn."""
    lineage = tuple({"key": step} for step in (*parents, name))
    manifest = Manifest("prune", name, "onnx", SIGNATURE, lineage=lineage, details=details)
    return Artifact(Path(name), manifest)


def run_of(*artifacts: Artifact) -> Any:
    """As much of a run as the notes look at."""
    by_name = {one.name: one for one in artifacts}
    scored = {name: SimpleNamespace(artifact=one) for name, one in by_name.items()}
    return SimpleNamespace(artifacts=by_name, scored=scored)


def record(name: str, p50: float, parameters: int = 100) -> Variant:
    """A measured variant."""
    timed = InProcess(p50_ms=p50, p95_ms=p50, p99_ms=p50, texts_per_s=1.0)
    return Variant(
        name=name, stages=(), format="onnx", precision="fp32", size_mb=1.0, parameters=parameters, in_process=timed
    )


RUN = run_of(
    artifact("dense", (), parameters=100),
    artifact("zeros", ("dense",), parameters=100, **SPARSE),
    artifact("exported", ("dense", "zeros")),
)


def test_values_come_from_the_whole_lineage() -> None:
    assert behind(RUN, "exported", "details", "parameters") == [100, 100]
    assert behind(RUN, "dense", "details", "sparsity") == []


def test_zeros_that_gain_nothing_are_said_to_gain_nothing() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0), record("exported", 1.98)])
    assert note.startswith("exported: 75% of its blocks' weights are zero; it is NOT faster than dense")
    assert "(1.98 against 2.00 ms)" in note


def test_zeros_that_gain_are_said_to_gain() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0), record("exported", 1.0)])
    assert "it is faster than dense" in note


def test_without_a_dense_twin_nothing_is_claimed() -> None:
    (note,) = sparsity_notes(RUN, [record("dense", 2.0, parameters=50), record("exported", 1.0)])
    assert note.endswith("no dense twin was measured.")
    assert sparsity_notes(RUN, [record("dense", 2.0)]) == []


def test_a_run_reports_its_own_names_of_what_it_made() -> None:
    stages = (
        FinetuneConfig(stage="finetune", name="dense"),
        PruneConfig(stage="prune", name="zeros", parent="dense", method="magnitude"),
        ExportConfig(stage="export", name="exported", parent="zeros", format="onnx"),
    )
    run: Any = SimpleNamespace(**vars(RUN), recipe=SimpleNamespace(stages=stages))
    found = steps(run, "exported")
    assert [(step.name, step.stage, step.key) for step in found] == [
        ("dense", "finetune", "dense"), ("zeros", "prune", "zeros"), ("exported", "export", "exported")
    ]  # fmt: skip
    assert found[-1].config["parent"] == "zeros"
