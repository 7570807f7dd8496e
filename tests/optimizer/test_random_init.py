"""Random weights in a true architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bantam.errors import ModelError
from optimizer.load import resolve

pytestmark = pytest.mark.usefixtures("cache")


def quiet(_: str) -> None:
    """Nothing to say."""


def test_random_weights_are_marked_and_reproducible(
    architecture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    said: list[str] = []
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = resolve(str(architecture), random_init=True, log=said.append)
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are untouched"
    assert first.random_weights
    assert "RANDOM WEIGHTS" in said[0]
    assert "stand-in" in said[1]
    assert first.source.startswith("random weights in the architecture of")
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "elsewhere"))
    again = resolve(str(architecture), random_init=True, log=quiet)
    assert again.folder != first.folder
    assert again.digest == first.digest


@pytest.mark.usefixtures("no_hub")
def test_catalog_decoder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true road of tinyllama, in a smaller size: bf16, stand-in tokenizer, pad token, a classifier at the end."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from optimizer.load import random_init

    config = json.loads((random_init.CONFIGS / "tinyllama" / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 500}
    (tmp_path / "configs" / "tinyllama").mkdir(parents=True)
    (tmp_path / "configs" / "tinyllama" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(random_init, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(random_init, "BF16_ABOVE", 1000)
    checkpoint = resolve("tinyllama", random_init=True, log=quiet)
    architecture = "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"
    assert checkpoint.source == f"random weights in the architecture of {architecture}, stand-in tokenizer"
    assert checkpoint.training["learning_rate"] == 2e-5
    assert {w.dtype for w in load_file(checkpoint.folder / "model.safetensors").values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=2, dtype=torch.float32)
    short, long = "fine", "a much longer text, so that the short one is padded"
    alone = model(**tokenizer([short], return_tensors="pt")).logits
    padded = model(**tokenizer([short, long], padding=True, return_tensors="pt")).logits[:1]
    torch.testing.assert_close(alone, padded)
    assert tokenizer.decode(tokenizer(long)["input_ids"], skip_special_tokens=True) == long


@pytest.mark.usefixtures("no_hub")
def test_random_weights_of_an_unknown_architecture() -> None:
    with pytest.raises(ModelError, match=r"even random weights need the model's config\.json.*\nTake one of minilm"):
        resolve("nobody/nothing", random_init=True, log=quiet)


def test_random_weights_of_an_architecture_that_transformers_lacks(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "odd"}')
    with pytest.raises(ModelError, match=r"cannot be loaded as a classifier: .*does not recognize this architecture"):
        resolve(str(tmp_path / "odd"), random_init=True, log=quiet)


def test_vocabulary_too_small_for_a_stand_in(architecture: Path) -> None:
    config = json.loads((architecture / "config.json").read_text())
    (architecture / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ModelError, match=r"vocabulary of 100 is too small"):
        resolve(str(architecture), random_init=True, log=quiet)
