"""transformers' pipeline behind FastAPI and uvicorn: what most tutorials do.

One worker, and an endpoint that is a plain function, which FastAPI runs in its pool of threads: requests that come
together are computed side by side. As the documentation has it: a pipeline with ``top_k=None`` (all labels) and
``function_to_apply="sigmoid"``; ``pip install fastapi "uvicorn[standard]"``, which brings uvloop and httptools.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job


class Question(BaseModel):
    """What is posted."""

    inputs: list[str]


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Nothing is converted: the checkpoint is what is served."""
    AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def serve(folder: Path, job: Job, port: int) -> None:
    """Serve on one port of the loopback until SIGTERM, which uvicorn takes."""
    torch.set_num_threads(job.threads)
    classify = pipeline("text-classification", model=str(folder), top_k=None, function_to_apply="sigmoid", device="cpu")
    app = FastAPI()

    @app.post("/")
    def predict(question: Question) -> list[list[dict[str, Any]]]:
        answer: list[list[dict[str, Any]]] = classify(question.inputs, truncation=True, max_length=job.max_length)
        return answer

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")]
