"""Optimum ONNX 0.1.0: export, then ORTOptimizer or ORTQuantizer, as its documentation shows them.

What a user does: install ``optimum-onnx[onnxruntime]``, which holds transformers below 4.58 (it reads checkpoints of
transformers 5 all the same); export; optimize or quantize; load the graph by its file's name. What fails with ONNX
Runtime 1.32.0 is to quantize what ORTOptimizer has fused (O2, O3): "Unable to find data type for weight_name".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export, then optimize and quantize as the options say."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True)
    done = folder / "exported"
    model.save_pretrained(done)
    if level := job.options.get("optimize"):
        optimizer = ORTOptimizer.from_pretrained(model)
        config = getattr(AutoOptimizationConfig, level)()
        optimizer.optimize(save_dir=folder / "optimized", optimization_config=config)
        done = folder / "optimized"
    if job.options.get("quantize"):
        (graph,) = done.glob("*.onnx")
        quantizer = ORTQuantizer.from_pretrained(done, file_name=graph.name)
        per_channel = job.options["quantize"] == "per-channel"
        config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=per_channel)
        quantizer.quantize(save_dir=folder / "quantized", quantization_config=config)
        done = folder / "quantized"
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(done)
    done.rename(folder / "final")


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """The model with as many threads as all contenders have, fed with numpy arrays, which it takes as well."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    model = ORTModelForSequenceClassification.from_pretrained(
        folder / "final", file_name=_graph(folder).name, session_options=options
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "final")

    def scores(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="np", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        return np.asarray(1 / (1 + np.exp(-model(**batch).logits)), dtype=np.float32)

    return scores


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    return [_graph(folder), *(folder / "final" / name for name in names)]


def _graph(folder: Path) -> Path:
    (graph,) = (folder / "final").glob("*.onnx")
    return graph
