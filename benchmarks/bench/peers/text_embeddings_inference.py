"""Hugging Face's text-embeddings-inference: its router's ``/predict``, where a user has the binary.

It comes as container images and as source (``cargo install --path router``), in no package index: so a
``text-embeddings-router`` on the PATH takes part, and where there is none the row says so. Some builds compute with
candle on the checkpoint's weights, some with ONNX Runtime on ``onnx/model.onnx``: both are put there, in fp32, for its
documentation knows no int8. Options as its documentation has them, each its default but for the addresses; scores are
asked for raw, as ``/predict`` would put a softmax over several labels a text.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job

ROUTER = "text-embeddings-router"
GRAPH = Path("onnx/model.onnx")


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Save the checkpoint, and its export beside it. Raises FileNotFoundError where there is no router."""
    if shutil.which(ROUTER) is None:
        raise FileNotFoundError(f"{ROUTER} is not on the PATH; it is in no package index: build it, or copy it there")
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    (folder / GRAPH).parent.mkdir()
    (folder / GRAPH.name).rename(folder / GRAPH)
    AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def serve(folder: Path, job: Job, port: int) -> None:
    """The router in this process's place, on one port of the loopback, until SIGTERM."""
    arguments = ["--model-id", str(folder.resolve()), "--hostname", "127.0.0.1", "--port", str(port)]
    os.environ["PROMETHEUS_PORT"] = str(port + 1)  # an option that older releases do not know
    os.execvp(ROUTER, [ROUTER, *arguments])  # noqa: S606 no shell is wanted


def sizes(folder: Path) -> list[Path]:
    """What production needs: one of the two sets of weights, counted as the checkpoint's."""
    return [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")]
