"""NVIDIA PyTriton: a Triton that calls a Python function with batches of texts; PyTorch or ONNX Runtime in it.

As its documentation has it: ``@batch``, ``Triton.bind`` with a ``DynamicBatcher``, ``serve``. To see to:
numpy < 2 (with numpy 2 its backend hands over zeros, without an error); a Python whose libpython is a shared library,
found through ``LD_LIBRARY_PATH``; three addresses, else it listens on all interfaces.

Options: ``{"engine": "pytorch"}``, or ``{"engine": "onnxruntime-int8"}``: PyTorch's ONNX exporter and ONNX Runtime's
``quantize_dynamic`` with a scale for each channel. The exporter leaves shapes of values behind that the quantizer
refuses ("Inferred shape and existing shape differ"), so they are removed between the two.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job

    Logits = Callable[[list[str]], NDArray[np.float32]]

MODEL = "classifier"
MAX_BATCH = 32
ADDRESS = "127.0.0.1"


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """The checkpoint as it is for PyTorch; exported and quantized for ONNX Runtime."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    if job.options["engine"] == "pytorch":
        model.save_pretrained(folder)
    else:
        _quantized(
            model, dict(tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt")), folder
        )


def _quantized(model: Any, batch: dict[str, Any], folder: Path) -> None:
    """Export with any number of texts and tokens, then int8 weights, and activations at run time."""
    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic

    exported, dynamic = folder / "exported.onnx", torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model,
        (),
        str(exported),
        kwargs=batch,
        dynamo=True,
        external_data=False,
        input_names=list(batch),
        output_names=["logits"],
        dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in batch},
    )
    graph = onnx.load(exported)
    del graph.graph.value_info[:]
    onnx.save(graph, exported)
    quantize_dynamic(exported, folder / "model.onnx", per_channel=True)
    exported.unlink()


def serve(folder: Path, job: Job, port: int) -> None:
    """Serve gRPC on the port, and HTTP and metrics on the next two, until SIGTERM."""
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    logits = _pytorch(folder, job) if job.options["engine"] == "pytorch" else _onnxruntime(folder, job)

    @batch
    def classify(**inputs: NDArray[np.bytes_]) -> dict[str, NDArray[np.float32]]:
        texts = [text.decode() for text in inputs["TEXT"][:, 0]]
        return {"SCORES": (1 / (1 + np.exp(-logits(texts)))).astype(np.float32)}

    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))  # Triton's Python backend inherits it
    config = TritonConfig(
        grpc_address=ADDRESS, grpc_port=port, http_address=ADDRESS, http_port=port + 1,
        metrics_address=ADDRESS, metrics_port=port + 2,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that Triton and its files go as well
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=classify,
            inputs=[Tensor(name="TEXT", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="SCORES", dtype=np.float32, shape=(len(job.labels),))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
            strict=False,
        )
        triton.serve()


def _pytorch(folder: Path, job: Job) -> Logits:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    @torch.inference_mode()
    def logits(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="pt", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        result: NDArray[np.float32] = model(**batch).logits.numpy()
        return result

    return logits


def _onnxruntime(folder: Path, job: Job) -> Logits:
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = [each.name for each in session.get_inputs()]

    def logits(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="np", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        (result,) = session.run(["logits"], {name: batch[name].astype(np.int64) for name in wanted})
        return np.asarray(result)

    return logits


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return sorted(path for path in folder.iterdir() if path.is_file())
