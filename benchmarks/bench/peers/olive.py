"""Olive 0.13.0: export, fusion and dynamic int8, the passes of its BERT example without the search and the tuning.

What a user does: install ``olive-ai[cpu]`` and ``requests``, which it imports but does not require; write the workflow;
run it; load the graph in ONNX Runtime. What fails for an int8 classifier is the documented short way, ``olive optimize
--precision int8``: its default exporter asks for onnxruntime-genai, which knows generative models; with ``--exporter
dynamo_exporter`` it asks for datasets, to calibrate on wikitext-2 from the hub rather than on the user's texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export, fuse and quantize dynamically: ``olive run --config`` in Python."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # it would report each run to its maker
    import olive
    from transformers import AutoTokenizer

    passes = {
        "conversion": {"type": "OnnxConversion"},
        "transformers_optimization": {"type": "OrtTransformersOptimization"},
        "quantization": {"type": "OnnxDynamicQuantization"},
    }
    accelerator = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    olive.run(
        {
            "input_model": {"type": "HfModel", "model_path": str(checkpoint), "task": "text-classification"},
            "systems": {"local": {"type": "LocalSystem", "accelerators": [accelerator]}},
            "target": "local",
            "passes": passes,
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "output"),
        }
    )
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder / "output")


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """A session with as many threads as all contenders have, and the fast tokenizer of transformers."""
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    graph = folder / "output" / "model.onnx"
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "output")
    types = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    wanted = {each.name: types[each.type] for each in session.get_inputs()}

    def scores(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="np", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        (logits,) = session.run(None, {name: batch[name].astype(kind) for name, kind in wanted.items()})
        return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)

    return scores


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return [folder / "output" / name for name in ("model.onnx", "tokenizer.json", "tokenizer_config.json")]
