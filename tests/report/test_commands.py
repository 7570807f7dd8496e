"""The commands that read reports: ``bantam report``, ``card`` and ``compare``, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.plugins.reports import EXAMPLE

ROOT = Path(__file__).resolve().parents[2]


def bantam(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bantam", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two runs, the second one newer."""
    for n, name in enumerate(("one", "other")):
        run = tmp_path / "build" / name
        run.mkdir(parents=True)
        raw = json.loads(EXAMPLE.read_text(encoding="utf-8"))
        (run / "report.json").write_text(json.dumps(raw | {"profile": ("quick", "full")[n]}), encoding="utf-8")
        os.utime(run / "report.json", (n, n))
    return tmp_path


def test_the_newest_runs_card_is_written_into_its_folder(folder: Path) -> None:
    done = bantam(folder, "card")
    assert (done.returncode, done.stdout.split()) == (0, ["build/other/card/README.md"]), done.stderr
    assert "hf upload" in done.stderr
    written = (folder / "build/other/card/README.md").read_text(encoding="utf-8")
    again = bantam(folder, "card", "build/one", "--json")
    found = json.loads(again.stdout)
    assert found["path"] == "build/one/card/README.md"
    loaded = ModelCard((folder / found["path"]).read_text(encoding="utf-8"))
    assert found["metadata"] == loaded.data.to_dict()  # type: ignore[no-untyped-call]
    assert loaded.data.to_dict() == ModelCard(written).data.to_dict()  # type: ignore[no-untyped-call]


def test_two_runs_are_compared(folder: Path) -> None:
    done = bantam(folder, "compare", "build/one", "build/other/report.json")
    assert done.returncode == 0, done.stderr
    assert "B  build/other/report.json" in done.stdout
    found = json.loads(bantam(folder, "compare", "build/one", "build/other", "--json").stdout)
    assert found["differences"] == [{"group": "Run", "what": "profile", "a": "quick", "b": "full"}]


def test_a_report_of_another_schema_is_refused(folder: Path) -> None:
    (folder / "build/one/report.json").write_text('{"schema": 7}', encoding="utf-8")
    for command in (
        ("compare", "build/one", "build/other"),
        ("compare", "build/other", "build/one"),
        ("card", "build/one"),
    ):
        done = bantam(folder, *command)
        assert done.returncode == 1
        assert "build/one/report.json: schema 7, expected 1." in done.stderr
        assert done.stdout == ""
    missing = bantam(folder, "compare", "build/gone", "build/other")
    assert missing.returncode == 2
    assert "build/gone" in missing.stderr


def test_all_variants_are_shown_if_asked_for(folder: Path) -> None:
    raw = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    slow = {"name": "slow", "format": "onnx", "precision": "fp32", "size_mb": 1.0}
    raw["variants"] += [slow | {"name": f"slow-{n}"} for n in range(20)]
    (folder / "build/other/report.json").write_text(json.dumps(raw), encoding="utf-8")
    few, whole = (bantam(folder, "report", "build/other", *option).stdout for option in ((), ("--all",)))
    assert "bantam report build/other --all" in few
    assert "slow-19" not in few
    assert "slow-19" in whole


def test_a_plain_install_is_told_what_it_lacks(folder: Path) -> None:
    (folder / "matplotlib.py").write_text("raise ModuleNotFoundError(\"No module named 'matplotlib'\")\n")
    done = bantam(folder, "report")
    assert done.returncode == 2
    assert "No module named 'matplotlib'" in done.stderr
    assert "pip install '.[optimize,demo]'" in done.stderr
    assert "defect" not in done.stderr
