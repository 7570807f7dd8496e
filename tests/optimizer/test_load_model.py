"""Reading checkpoints: one place does it, and what a checkpoint brings in code never runs."""

from __future__ import annotations

import ast
import builtins
import json
from pathlib import Path

import pytest
import torch

from bantam.artifact import Artifact
from bantam.errors import ModelError
from optimizer.load import resolve
from optimizer.load.model import load_model
from optimizer.load.tokenizer import load_tokenizer
from tests.optimizer.tiny_models import LABELS, write_tiny_classifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bert(tmp_path: Path) -> Artifact:
    return write_tiny_classifier(tmp_path / "bert", "bert")


def reads_checkpoint(path: Path) -> bool:
    """Whether the file calls ``from_pretrained`` of a model or tokenizer; a configuration holds no weights or code."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return any(
        call.attr == "from_pretrained" and ast.unparse(call.value) != "AutoConfig"
        for call in calls
        if isinstance(call, ast.Attribute)
    )


def test_one_place_reads_models_and_one_tokenizers() -> None:
    sources = [path for package in ("bantam", "optimizer", "serving") for path in (ROOT / package).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if reads_checkpoint(path)}
    # GGUF files and adapters become folders, which the first two read.
    others = {"optimizer/load/gguf.py", "optimizer/load/adapter.py"}
    assert found == {"optimizer/load/model.py", "optimizer/load/tokenizer.py"} | others


def test_the_head_is_that_of_the_folder_or_fits_the_labels(bert: Artifact) -> None:
    model = load_model(bert.folder, attention="eager")
    assert not model.training
    assert model.config.num_labels == len(LABELS)
    assert model.config._attn_implementation == "eager"
    trained = load_model(bert.folder, labels=("no", "yes"), task="single_label", dtype=torch.bfloat16)
    assert trained.config.id2label == {0: "no", 1: "yes"}
    assert trained.config.problem_type == "single_label_classification"
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.bfloat16}


@pytest.fixture
def bringing_code(bert: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A checkpoint with code of its own, which leaves a file ``ran``; and the questions that somebody was asked."""
    (bert.folder / "own.py").write_text(
        f"from pathlib import Path\nfrom transformers import *\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "class Model(BertForSequenceClassification): pass\n"
    )
    config = bert.folder / "config.json"
    own = {"auto_map": {"AutoModelForSequenceClassification": "own.Model"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    asked: list[str] = []

    def ask(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr(builtins, "input", ask)
    return bert.folder, asked


def test_a_model_type_that_is_known_needs_no_code_of_its_own(
    bringing_code: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, asked = bringing_code
    assert type(load_model(folder)).__module__.startswith("transformers.models.bert")
    assert type(load_tokenizer(folder)).__module__.startswith("transformers.")
    assert (asked, (tmp_path / "ran").exists()) == ([], False)


def test_a_classifier_that_is_code_of_its_own_is_refused_and_nobody_is_asked(
    bringing_code: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, asked = bringing_code
    config = folder / "config.json"
    # transformers knows this type, but no text classifier of it.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "vit"}))
    with pytest.raises(ModelError, match=r"classifier of type 'vit' is code that comes with it, which Bantam never"):
        load_model(folder)
    with pytest.raises(ModelError, match=r"classifier of type 'vit' is code that comes with it, which Bantam never"):
        resolve(str(folder))
    assert (asked, (tmp_path / "ran").exists()) == ([], False)


def test_weights_that_may_run_code_are_not_read(bert: Artifact) -> None:
    (bert.folder / "model.safetensors").unlink()
    torch.save({}, bert.folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"bert has no weights in safetensors\. Expected model\.safetensors"):
        load_model(bert.folder)
