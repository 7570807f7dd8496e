"""Which code stands behind a stage: what changes a result changes the key, and nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bantam.run import closure
from bantam.run.builder import STAGES
from bantam.run.score import computed_by

ENGINE = "serving.backend.engine"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our sources, to edit."""
    for package in closure.OURS:
        shutil.copytree(closure.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(closure, "ROOT", tmp_path)
    return tmp_path


def add(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_changed_engine_makes_scores_anew_and_no_model(copy: Path) -> None:
    before = {name: closure.code(module) for name, module in STAGES.items()}
    scores, reference = computed_by("onnx"), computed_by("hf")
    add(copy / "serving/backend/engine.py", "CHANGED = True")
    assert computed_by("onnx")["code"] != scores["code"]
    assert computed_by("hf") == reference
    assert {name: closure.code(module) for name, module in STAGES.items()} == before


def test_what_the_engine_imports_counts_and_comments_do_not(copy: Path) -> None:
    before = closure.code(ENGINE)
    add(copy / "serving/backend/engine.py", "# a comment")
    add(copy / "serving/repository.py", "CHANGED = True")
    assert closure.code(ENGINE) == before
    add(copy / "serving/backend/cores.py", "CHANGED = True")
    assert closure.code(ENGINE) != before


@pytest.mark.parametrize("stage", ["finetune", "distill", "prune"])
def test_a_changed_message_trains_nothing_again_and_a_raised_revision_does(copy: Path, stage: str) -> None:
    before = closure.code(STAGES[stage])
    source = copy.joinpath(*STAGES[stage].split("."))
    source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
    add(copy / "bantam/errors.py", "CHANGED = True")
    add(source, "MESSAGE = 'Expected something else.'")
    assert closure.code(STAGES[stage]) == before
    edit(source, "\nREVISION = ", "\nREVISION = 1")
    assert closure.code(STAGES[stage]) != before


@pytest.mark.parametrize("stage", ["export", "quantize"])
def test_changed_code_exports_and_quantizes_anew(copy: Path, stage: str) -> None:
    before = closure.code(STAGES[stage])
    edit(copy / "bantam/client/__init__.py", '"""', '"""Changed. ')
    edit(copy / "bantam/__init__.py", '__version__ = "', '__version__ = "1')
    assert closure.code(STAGES[stage]) == before, "neither the client nor the version is part of it"
    add(copy / "optimizer/logits.py", "CHANGED = True")
    assert closure.code(STAGES[stage]) != before


def test_the_libraries_are_those_that_a_stage_computes_with() -> None:
    assert {"torch", "transformers", "tokenizers", "accelerate"} <= closure.libraries(STAGES["finetune"]).keys()
    assert closure.libraries(ENGINE).keys() == {"numpy", "onnxruntime", "openvino", "tokenizers"}
    assert {"onnx", "onnxruntime", "nncf"} <= closure.libraries(STAGES["quantize"]).keys()
