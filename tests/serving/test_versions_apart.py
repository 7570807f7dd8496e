"""Versions and models in one process: each runs the backend that lies in its own folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bantam.artifact import Artifact, seal
from bantam.client.classifier import Classifier
from serving import tritonserver
from serving.backend.engine import Engine
from serving.inline import triton_python_backend_utils
from serving.repository import publish
from serving.server import Server

needs_triton = pytest.mark.skipif(
    not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
)
TEXTS = ["love", "hate", "love love hate", "fear"]


@pytest.fixture
def root(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """One model under two names; the backend of ``opposite`` is another: it answers 1 - p, and counts 7 cores."""
    for name in ("usual", "opposite"):
        publish(tiny_artifact, tmp_path, name, thresholds=None)
    rewrite(tmp_path / "opposite/1/backend/engine.py", "np.minimum(-logits, 88)", "np.minimum(logits, 88)")
    rewrite(tmp_path / "opposite/1/backend/cores.py", "return cores", "return 7")
    seal(tmp_path / "opposite/1", Artifact.described(tmp_path / "opposite/1").manifest)
    return tmp_path


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace text that must be in the file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_two_engines_in_one_process_use_modules_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_python_backend_utils)
    model = importlib.import_module("serving.backend.model")
    loaded: list[ModuleType] = [model.load_engine(root / name / "1") for name in ("usual", "opposite", "usual")]
    usual, opposite, again = (
        module.Engine(folder)
        for module, folder in zip(loaded, (root / "usual/1", root / "opposite/1", root / "usual/1"), strict=True)
    )
    expected = usual.probabilities(TEXTS)
    np.testing.assert_allclose(opposite.probabilities(TEXTS), 1 - expected, atol=1e-6)
    np.testing.assert_array_equal(again.probabilities(TEXTS), expected)
    assert opposite.placement.threads == 7
    assert usual.placement.threads == Engine(root / "usual/1").placement.threads
    files = [Path(module.__file__ or "").parent for module in loaded]
    assert files == [root / name / "1" / "backend" for name in ("usual", "opposite", "usual")]


@needs_triton
@pytest.mark.triton
@pytest.mark.parametrize("isolated", [False, True])
def test_two_served_models_use_backends_of_their_own(root: Path, isolated: bool) -> None:
    expected = Engine(root / "usual/1").probabilities(TEXTS)
    with (
        Server(root, isolated=isolated) as server,
        Classifier(server.grpc_address, "usual") as usual,
        Classifier(server.grpc_address, "opposite") as opposite,
    ):
        assert server.backend.isolated is isolated
        np.testing.assert_allclose(usual.probabilities(TEXTS), expected, atol=1e-6)
        np.testing.assert_allclose(opposite.probabilities(TEXTS), 1 - expected, atol=1e-6)
