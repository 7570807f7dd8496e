"""CTranslate2: the encoder in int8, and the classification head by hand; in process, or behind FastAPI and uvicorn.

As its guide has it for BERT: CTranslate2 "only implements the BertModel class", encoder and pooling; "task-specific
layers should be run with PyTorch". Here the head, one matrix product, is run with numpy, which is lighter. Its tips
for a CPU: int8; more ``inter_threads`` (batches side by side) before ``intra_threads`` (threads of one batch), and no
more of both than there are cores. With several, a batch is cut into as many parts of like lengths.

Options: ``{"inter_threads": n, "intra_threads": n}``; 0 is as many as all contenders have.
The server is that of ``fastapi_pipeline.py``: an endpoint that is a plain function, which FastAPI runs in its threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np
from transformers import AutoTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job

    Probabilities = Callable[[list[str]], NDArray[np.float32]]

ENCODER, HEAD = "encoder", "head.npz"


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Convert and quantize the encoder; keep the head as it is."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    if model.config.model_type != "bert":
        raise ValueError(f"Got a {model.config.model_type}, expected a bert: of others the head is another.")
    converter = ctranslate2.converters.TransformersConverter(str(checkpoint))
    converter.convert(str(folder / ENCODER), quantization="int8")
    head = model.classifier
    np.savez(folder / HEAD, weight=head.weight.detach().numpy().T, bias=head.bias.detach().numpy())
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def load(folder: Path, job: Job) -> Probabilities:
    """Encoder, head, and the fast tokenizer of transformers."""
    inter, intra = (job.options[name] or job.threads for name in ("inter_threads", "intra_threads"))
    encoder = ctranslate2.Encoder(
        str(folder / ENCODER), device="cpu", compute_type="int8", inter_threads=inter, intra_threads=intra
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with np.load(folder / HEAD) as head:
        weight, bias = head["weight"], head["bias"]
    pool = ThreadPoolExecutor(inter)

    def pooled(ids: list[list[int]]) -> NDArray[np.float32]:
        return np.array(encoder.forward_batch(ids).pooler_output)

    def scores(texts: list[str]) -> NDArray[np.float32]:
        ids = tokenizer(texts, truncation=True, max_length=job.max_length)["input_ids"]
        if inter == 1 or len(ids) == 1:
            features = pooled(ids)
        else:
            order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
            parts = pool.map(pooled, ([ids[i] for i in part] for part in np.array_split(order, min(inter, len(ids)))))
            features = np.concatenate(list(parts))[np.argsort(order)]
        return np.asarray(1 / (1 + np.exp(-(features @ weight + bias))), dtype=np.float32)

    return scores


def serve(folder: Path, job: Job, port: int) -> None:
    """Serve on one port of the loopback until SIGTERM, which uvicorn takes."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Question(BaseModel):
        inputs: list[str]

    scores, app = load(folder, job), FastAPI()

    def predict(question: Question) -> list[list[dict[str, Any]]]:
        return [
            [{"label": label, "score": score} for label, score in zip(job.labels, row, strict=True)]
            for row in scores(question.inputs).tolist()
        ]

    # Names of annotations are looked up in the module, where this class is not.
    predict.__annotations__["question"] = Question
    app.post("/")(predict)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    encoder = sorted(path for path in (folder / ENCODER).iterdir() if path.is_file())
    return [*encoder, *(folder / name for name in (HEAD, "tokenizer.json", "tokenizer_config.json"))]
