"""The worked example of docs/decoders.md: a decoder that tells people's texts from machines', and its times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bantam.report.file import read_report
from bantam.run.prepare import run_name
from bantam.run.request import OptimizeRequest
from optimizer.data import load_dataset
from tests.integration.conftest import ROOT, Toy


def inference_times(run: Path, data: str, *arguments: str) -> list[list[str]]:
    """The cells of the table that the command prints."""
    command = [sys.executable, "-m", "benchmarks.inference_times", str(run), "--data", data, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


@pytest.mark.triton
def test_times_of_variants_stand_side_by_side(toy: Toy) -> None:
    data = str(toy.folder / "moods.csv")
    heads, *rows = inference_times(toy.run_folder, data, "--variants", "baseline,onnx-int8", "--texts", "20")
    assert heads == ["variant", "MB", "mean ms", "std", "min", "25%", "50%", "75%", "max"]
    assert [row[0] for row in rows] == ["baseline", "onnx-int8"]
    for row in rows:
        mean, _, *quantiles = map(float, row[2:])
        assert quantiles == sorted(quantiles)
        assert 0 < quantiles[0] <= mean <= quantiles[-1]


@pytest.mark.hub
@pytest.mark.triton
def test_bloomz_learns_to_tell_people_from_machines(tmp_path: Path) -> None:
    data = load_dataset("human-vs-machine")
    assert (data.task, len(data.labels)) == ("single_label", 2)
    model, name = "bigscience/bloomz-560m", "human-vs-machine"
    command = (sys.executable, "-m", "bantam", "optimize", model, "--data", name, "--max-drop", "3")
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=4 * 3600)
    run = tmp_path / "build" / run_name(OptimizeRequest(model=model, data=name))
    report = read_report(run)
    quality = report.variant("baseline").quality
    assert quality is not None
    assert quality.macro_f1 is not None
    assert quality.macro_f1 > 0.8
    assert len(inference_times(run, name, "--variants", f"baseline,{report.chosen}")) == 3
