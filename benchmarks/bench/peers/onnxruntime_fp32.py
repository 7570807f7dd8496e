"""PyTorch's own ONNX exporter and ONNX Runtime with its default options: no fusion nor any other trick by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export with any number of texts and tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    batch = dict(tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt"))
    dynamic = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model,
        (),
        str(folder / "model.onnx"),
        kwargs=batch,
        dynamo=True,
        external_data=False,
        input_names=list(batch),
        output_names=["logits"],
        dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in batch},
    )
    tokenizer.save_pretrained(folder)


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """A session with as many threads as all contenders have, and the fast tokenizer of transformers."""
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = [each.name for each in session.get_inputs()]

    def scores(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="np", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        (logits,) = session.run(["logits"], {name: batch[name].astype(np.int64) for name in wanted})
        return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)

    return scores


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return [folder / name for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json")]
