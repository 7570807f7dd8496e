"""What the figures of a run mean for the choice: who is a candidate, what is compressed, published, or out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import UnfaithfulError
from bantam.run import judge
from bantam.run.choose import Candidate
from bantam.run.state import Run
from optimizer.config import DistillConfig, ExportConfig, FinetuneConfig
from optimizer.evaluate import predict, tune_thresholds
from serving.repository import publish
from tests.run.made_up import artifact, make_run


def named(run: Run) -> dict[str, Candidate]:
    return {candidate.name: candidate for candidate in judge.candidates(run)}


def test_candidates_are_what_can_be_served(tmp_path: Path) -> None:
    found = named(make_run(tmp_path, dev=(0.0, 0.1)))
    assert list(found) == ["fp32", "int8"]
    assert [c.compressed for c in found.values()] == [False, True]
    assert [c.source for c in found.values()] == ["baseline", "fp32"]
    assert found["fp32"].drop == (0.0, 0.0, 0.0)
    drop = found["int8"].drop
    assert drop is not None
    assert 0 < drop.low < drop.points < drop.high


def test_only_the_baselines_own_model_in_its_own_numbers_is_not_compressed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    baseline, _, int8 = run.recipe.stages
    bf16 = Compute(activations=Numbers("bfloat", 16))
    onnx = ExportConfig(name="onnx", parent="baseline", format="onnx")
    ir = ExportConfig(name="fp32", parent="onnx", format="openvino")
    student = DistillConfig(name="student", parent="baseline")
    of_student = ExportConfig(name="fp32", parent="student", format="onnx")
    other = FinetuneConfig(name="other")
    of_other = ExportConfig(name="fp32", parent="other", format="onnx")
    for compute, stages, compressed in (
        (Compute(), (onnx, ir), False),
        (bf16, (onnx, ir), True),
        (Compute(), (student, of_student), True),
        (Compute(), (other, of_other), True),
    ):
        run.recipe = run.recipe.model_copy(update={"stages": (baseline, *stages, int8)})
        for stage in stages:
            run.artifacts[stage.name] = artifact(tmp_path, stage.name, "onnx", compute, (stage.name, stage.stage))
        assert named(run)["fp32"].compressed is compressed


def test_on_dev_no_row_is_decided_by_thresholds_that_were_tuned_on_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.3, 0.3), rows=60)
    # Scores of many values: halves then have thresholds of their own.
    noise = run.scored["int8"].dev * 0.2
    scored = replace(run.scored["int8"], dev=noise + (noise.cumsum(axis=0) % 0.7).astype("float32"))
    run.scored["int8"] = scored
    targets = run.data.splits["dev"].targets
    tuned_on_itself = predict(scored.dev, tune_thresholds(scored.dev, targets))
    assert (judge.decided(run, "int8", "dev") != tuned_on_itself).any()
    assert (judge.decided(run, "int8", "test") == predict(scored.on("test"), scored.thresholds)).all()


def test_the_same_model_gets_the_same_drop_from_another_metric_by_its_own_rule(tmp_path: Path) -> None:
    drops = {}
    for metric in ("macro-f1", "accuracy", "average-precision", "f1:b"):
        drops[metric] = judge.drop(make_run(tmp_path, dev=(0.0, 0.05), metric=metric), "int8", "dev")
    points = {metric: drop.points for metric, drop in drops.items() if drop}
    assert len({round(value, 6) for value in points.values()}) == 4
    assert all(value > 0 for value in points.values())


def test_what_the_server_answers_otherwise_is_out(tmp_path: Path) -> None:
    found = named(make_run(tmp_path, off=2e-3))
    assert found["fp32"].problem is None
    assert found["int8"].problem == "the server's scores differ from those in process by up to 2.0e-03"


def test_answers_that_are_no_numbers_are_out(tmp_path: Path) -> None:
    assert "nan" in (named(make_run(tmp_path, off=float("nan")))["int8"].problem or "")


def test_requests_that_failed_are_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.measured["int8"] = replace(run.measured["int8"], errors={"rate": {"UnavailableError": 3}})
    assert named(run)["int8"].problem == "3 of the requests to it failed"


def test_if_all_answer_otherwise_the_error_names_each(tmp_path: Path) -> None:
    run = make_run(tmp_path, off=0.5)
    run.answers["fp32", "dev"] = run.answers["fp32", "dev"] + 0.25
    with pytest.raises(UnfaithfulError, match=r"no variant answers as it was measured\. fp32: .* 2\.5e-01; int8: .* 5"):
        judge.candidates(run)


def test_what_is_published_is_known_by_its_files(tmp_path: Path, tiny_artifact: Artifact) -> None:
    run = make_run(tmp_path)
    run.scored["int8"] = replace(run.scored["int8"], artifact=tiny_artifact)
    assert not any(candidate.published for candidate in judge.candidates(run)), "nothing is"
    version = publish(tiny_artifact, tmp_path / "repo", "it", thresholds=None)
    assert [c.name for c in judge.candidates(run) if c.published] == ["int8"]
    (version.folder / "manifest.json").write_text("{")
    assert not any(candidate.published for candidate in judge.candidates(run)), "a damaged one is none"
