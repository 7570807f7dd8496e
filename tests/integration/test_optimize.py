"""The main job at toy size: a model's name in, a measured and published endpoint out; then what users do around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.report.file import read_report
from optimizer.data import load_dataset
from optimizer.evaluate import quality, tune_thresholds
from serving.backend.engine import Engine
from serving.repository import published
from serving.server import Server
from serving.tritonserver import serving_python
from tests.integration import kills
from tests.integration.conftest import Toy
from tests.plugins import tiny

pytestmark = pytest.mark.triton


def thresholds_of(toy: Toy, name: str) -> tuple[float, ...]:
    """Those that are tuned on all of dev."""
    dev = load_dataset(str(toy.folder / "moods.csv")).splits["dev"]
    return tune_thresholds(np.load(toy.run_folder / f"scores-{name}-dev" / "scores.npy"), dev.targets)


def test_the_report_has_every_variant_measured_in_process_and_served(toy: Toy) -> None:
    report = read_report(toy.run_folder)
    assert [v.name for v in report.variants] == ["baseline", "onnx-int8", "openvino-int8"]
    for variant in report.variants:
        assert variant.in_process is not None
        assert variant.in_process.samples == 20
        assert (variant.served is None) == (variant.name == "baseline")
        assert variant.quality is not None
        assert variant.peak_rss_mb is not None
        if variant.served is not None:
            assert variant.served.errors == 0
            assert variant.served.max_score_difference is not None
            assert variant.served.max_score_difference < 1e-3
            assert variant.served.macro_f1 == pytest.approx(variant.quality.macro_f1, abs=5e-4)
            assert variant.served.samples == 20
    chosen = report.variant(report.chosen)
    assert chosen.served is not None
    assert [v.quality and v.quality.split for v in report.variants] == [
        "test" if v.name in ("baseline", report.chosen) else "dev" for v in report.variants
    ]
    assert all(v.on_dev and v.on_dev.split == "dev" for v in report.variants)
    assert report.budget.metric == "macro-f1"
    assert report.published is not None
    assert (toy.run_folder / "report.html").read_text().startswith("<!doctype html>")


def test_json_output_is_the_report(toy: Toy) -> None:
    assert json.loads((toy.folder / "first.json").read_text()) == json.loads(
        (toy.run_folder / "report.json").read_text()
    )


def test_nothing_phones_home(toy: Toy) -> None:
    seen = json.loads((toy.folder / "connections.json").read_text())
    assert seen["looks"] > 10
    assert any(name.startswith("tritonserver") for name in seen["here"])
    assert seen["elsewhere"] == []


def test_the_figures_of_quality_are_those_of_the_published_files(toy: Toy) -> None:
    report = read_report(toy.run_folder)
    state = published(toy.folder / "model_repo", "tiny")
    assert state is not None
    test = load_dataset(str(toy.folder / "moods.csv")).splits["test"]
    scores = Engine(state.folder).probabilities(test.texts)
    thresholds = thresholds_of(toy, report.chosen)
    found = report.variant(report.chosen).quality
    assert found is not None
    assert quality(scores, test.targets, thresholds)["macro_f1"] == pytest.approx(found.macro_f1)


def test_the_baseline_is_published_beside_the_chosen_model(toy: Toy) -> None:
    state = published(toy.folder / "model_repo", "tiny-baseline")
    assert state is not None
    texts = load_dataset(str(toy.folder / "moods.csv")).splits["test"].texts
    scores = Engine(state.folder).probabilities(texts)
    assert np.abs(scores - np.load(toy.run_folder / "scores-baseline-test" / "scores.npy")).max() < 1e-4
    with Server(toy.folder / "model_repo") as server, Classifier(server.grpc_address, "tiny-baseline") as classifier:
        assert server.models == ("tiny", "tiny-baseline"), "the hint of bantam serve names the first"
        assert classifier.describe().thresholds == pytest.approx(thresholds_of(toy, "baseline"))


def test_the_resolved_recipe_makes_the_same_stages(toy: Toy) -> None:
    from optimizer.recipe import load_recipe

    again, first = load_recipe(str(toy.run_folder / "recipe.toml")), load_recipe(str(toy.folder / "toy.toml"))
    assert [stage.model_dump() for stage in again.stages] == [stage.model_dump() for stage in first.stages]


def test_a_second_run_keeps_every_stage_and_the_published_version(toy: Toy) -> None:
    before = kills.published(toy.folder)
    done = toy.bantam(*toy.arguments)
    assert done.returncode == 0, done.stderr
    # Four stages, dev of three variants, test of the baseline and the chosen one: but noise may choose the other int8.
    assert done.stderr.count(" kept") >= 8
    assert not {line.split()[0] for line in done.stderr.splitlines() if " made in " in line} - {
        "scores-onnx-int8-test",
        "scores-openvino-int8-test",
    }
    assert "is published already as" in done.stderr
    assert kills.changed(before, kills.published(toy.folder)) == []
    assert "report.html" in done.stdout


def test_another_calibration_makes_only_that_variant_again(toy: Toy) -> None:
    other = toy.with_recipe("other.toml", tiny.RECALIBRATED)
    done = toy.bantam(*other.arguments, "--repository", "other")
    assert done.returncode == 0, done.stderr
    made = [line.split()[0] for line in done.stderr.splitlines() if " made in " in line]
    assert set(made) <= {"openvino-int8", "scores-openvino-int8-dev", "scores-openvino-int8-test"}
    assert "openvino-int8" in made


def test_the_client_gets_the_labels_of_the_texts(toy: Toy) -> None:
    with Server(toy.folder / "model_repo") as server, Classifier(server.grpc_address, model="tiny") as classifier:
        (happy, scared) = classifier(["we love this wonderful day", "they was really terrified and scared"])
    assert happy.labels == ["joy"]
    assert scared.labels == ["fear"]
    assert set(happy.scores) == {"anger", "fear", "joy"}


def test_a_published_model_is_measured_again_with_the_serving_environment_alone(toy: Toy) -> None:
    python = serving_python()
    command = [str(python), "-m", "bantam", "measure", "tiny", "--json"]
    done = subprocess.run(command, cwd=toy.folder, env=toy.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found, report = json.loads(done.stdout), read_report(toy.run_folder)
    assert found["max_score_difference"] < 1e-3
    assert (found["rows"], found["decisions_changed"], found["kept"]) == (300, 0, True)
    quality = report.variant(report.chosen).quality
    assert quality is not None
    assert found["value"] == pytest.approx(found["published_value"])
    assert found["value"] == pytest.approx(quality.macro_f1, abs=1e-6)
    assert found["in_process_ms"][1] <= found["in_process_ms"][0] <= found["in_process_ms"][2]
    assert found["made_on"] == found["machine"]
    version = published(toy.folder / "model_repo", "tiny")
    assert version is not None
    (version.folder / "evidence.json").rename(toy.folder / "evidence.json")
    Artifact.load(version.folder, verify=True)
    (toy.folder / "evidence.json").rename(version.folder / "evidence.json")


def test_what_was_published_without_evidence_cannot_be_measured_again(toy: Toy) -> None:
    done = toy.bantam("measure", "tiny-baseline")
    assert done.returncode == 2
    assert "publish the model again" in done.stderr
    done = toy.bantam("measure", "nothing")
    assert "expected one of: tiny, tiny-baseline" in done.stderr


def test_bantam_serve_and_load_test(toy: Toy) -> None:
    command = [
        sys.executable,
        "-m",
        "bantam",
        "serve",
        "tiny",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--watch-port",
        "0",
        "--json",
    ]
    # As a script starts it in the background: without SIGINT.
    in_background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    with subprocess.Popen(
        in_background,
        cwd=toy.folder,
        env=toy.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())
        done = toy.bantam(
            "load-test", "tiny", "--address", address["grpc"], "--data", "moods.csv", "--seconds", "1", "--json"
        )
        process.terminate()
    assert process.returncode in (0, 130)
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["tests"]:
        assert result["errors"] == {}
        assert result["requests"] > 10
    assert (toy.folder / "build/load-test/load-test.html").is_file()


def test_bantam_report_prints_the_newest_run(toy: Toy) -> None:
    done = toy.bantam("report", str(toy.run_folder))
    assert done.returncode == 0
    assert "onnx-int8" in done.stdout
    again = toy.bantam("report", str(toy.run_folder), "--json")
    assert json.loads(again.stdout)["model"] == "./tiny"


def test_the_card_of_a_run_has_its_figures_and_names_no_folder(toy: Toy) -> None:
    done = toy.bantam("card", str(toy.run_folder), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    text = (toy.folder / found["path"]).read_text(encoding="utf-8")
    report = read_report(toy.run_folder)
    chosen = report.variant(report.chosen).quality
    assert chosen is not None
    (result,) = found["metadata"]["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [chosen.macro_f1, chosen.micro_f1, chosen.accuracy]
    assert result["dataset"]["name"] == "moods.csv"
    assert not {"base_model", "datasets", "language"} & found["metadata"].keys(), "of a user's own files no one knows"
    assert "It gives each text any number of 3 labels: anger, fear, joy." in text
    assert str(toy.folder) not in text
    assert "./tiny" not in text


def test_a_run_can_be_compared_with_itself(toy: Toy) -> None:
    done = toy.bantam("compare", str(toy.run_folder), str(toy.run_folder), "--json")
    found = json.loads(done.stdout)
    # A busy machine is no defect of the comparison.
    assert {doubt["figures"] for doubt in found["not_comparable"]} <= {"times"}, done.stderr
    assert found["differences"] == []


def test_random_weights_are_marked_everywhere_and_have_no_quality(tmp_path: Path, toy: Toy) -> None:
    toy = toy.with_recipe("one.toml", tiny.ONE_VARIANT)
    done = toy.bantam(*toy.arguments, "--random-init", "--repository", str(tmp_path / "repo"))
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr
    assert "random" in done.stdout.lower()
    report = read_report(toy.run_folder.with_name(f"{toy.run_folder.name}-random"))
    assert report.random_weights is True
    assert report.budget.met is None
    assert all(variant.quality is None for variant in report.variants)
    assert published(tmp_path / "repo", "tiny-random") is not None


@pytest.mark.slow
def test_killed_and_run_again_it_ends_in_the_same_files(tmp_path: Path, toy: Toy) -> None:
    """Those that come of the toy's own stages, which nobody has interrupted."""
    toy = toy.with_recipe("one.toml", tiny.ONE_VARIANT)
    done = toy.bantam(*toy.arguments, "--repository", str(tmp_path / "whole" / "model_repo"))
    assert done.returncode == 0, done.stderr
    expected, folder = kills.published(tmp_path / "whole"), tmp_path / "killed"
    assert len(expected) > 5
    shm_before = {path.name for path in kills.SHM.iterdir()}
    for moment in kills.MOMENTS:
        kills.kill_at(moment, toy, folder)
    assert kills.run(toy, folder).wait() == 0, (folder / "stderr.txt").read_text()
    assert kills.left_over(folder, shm_before) == ()
    assert kills.published(folder) == expected


def test_scores_on_disk_are_those_of_the_engine(toy: Toy) -> None:
    dev = load_dataset(str(toy.folder / "moods.csv")).splits["dev"]
    stored = np.load(toy.run_folder / "scores-onnx-int8-dev" / "scores.npy")
    assert np.array_equal(stored, Engine(toy.run_folder / "onnx-int8").probabilities(dev.texts))


def test_a_toy_folder_is_whole(toy: Toy) -> None:
    assert kills.left_over(toy.folder, {path.name for path in kills.SHM.iterdir()}) == ()
