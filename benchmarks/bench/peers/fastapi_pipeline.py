"""transformers' pipeline behind FastAPI and uvicorn: what most tutorials do.

One worker, and an endpoint that is a plain function, which FastAPI runs in its pool of threads: requests that come
together are computed side by side. As the documentation has it: a pipeline with ``top_k=None`` (all labels) and
``function_to_apply="sigmoid"``; ``pip install fastapi "uvicorn[standard]"``, which brings uvloop and httptools.

Options: ``{"engine": "pytorch"}`` with transformers 5.23, or ``"optimum-int8"``: the same pipeline around Optimum's
ONNX Runtime model, exported and quantized as its documentation shows. That needs optimum-onnx 0.1.0 and with it
transformers below 4.58: another environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer, pipeline

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job

QUANTIZED = "model_quantized.onnx"
"""As Optimum names it."""


class Question(BaseModel):
    """What is posted."""

    inputs: list[str]


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Nothing is converted for PyTorch; for Optimum, export and quantize: int8, activations at run time."""
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    if job.options["engine"] == "pytorch":
        from transformers import AutoModelForSequenceClassification

        AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(folder)
        return
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=config)
    (folder / "model.onnx").unlink()


def serve(folder: Path, job: Job, port: int) -> None:
    """Serve on one port of the loopback until SIGTERM, which uvicorn takes."""
    classify: Any = pipeline(
        "text-classification",
        model=_model(folder, job),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        top_k=None,
        function_to_apply="sigmoid",
        device="cpu",
    )
    app = FastAPI()

    @app.post("/")
    def predict(question: Question) -> list[list[dict[str, Any]]]:
        answer: list[list[dict[str, Any]]] = classify(question.inputs, truncation=True, max_length=job.max_length)
        return answer

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _model(folder: Path, job: Job) -> Any:
    """The model, with as many threads as all contenders have."""
    if job.options["engine"] == "pytorch":
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(job.threads)
        return AutoModelForSequenceClassification.from_pretrained(folder)
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    return ORTModelForSequenceClassification.from_pretrained(folder, file_name=QUANTIZED, session_options=options)


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return sorted(path for path in folder.iterdir() if path.is_file())
