"""Fixtures at toy size: a hub that cannot be reached, a cache of its own, tiny checkpoints."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset

TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is at a port where nobody listens, and its cache is empty."""
    from huggingface_hub import constants

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bantam's cache, empty."""
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with weights and tokenizer, written by random initialisation from its config alone."""
    from optimizer.load import resolve

    base = tmp_path_factory.mktemp("tiny")
    (base / "tiny").mkdir()
    (base / "tiny" / "config.json").write_text(json.dumps(TINY_BERT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANTAM_CACHE", str(base / "cache"))
        return resolve(str(base / "tiny"), random_init=True, log=lambda _: None).folder


@pytest.fixture
def tiny(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_source, tmp_path / "tiny"))


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    """A folder with a config.json and nothing else."""
    folder = tmp_path / "arch"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_BERT))
    return folder


@pytest.fixture(scope="session")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A data set that a tiny model learns in seconds."""
    from tests.optimizer.moods import load_moods

    return load_moods(tmp_path_factory.mktemp("moods"))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny BERT of two layers."""
    from tests.optimizer.moods import load_tiny

    return load_tiny(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="session")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory, moods: Dataset, untrained: Checkpoint) -> Artifact:
    """The tiny BERT, trained on moods."""
    from optimizer import finetune
    from tests.optimizer.moods import CONFIG, context_in

    return finetune.run(None, CONFIG, context_in(tmp_path_factory.mktemp("fine-tuned"), moods, untrained))
