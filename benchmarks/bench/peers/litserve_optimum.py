"""LitServe around Optimum's ONNX Runtime model in int8, with requests that come together computed in one batch.

As its documentation has it: a ``LitAPI`` with ``setup``, ``predict``, ``max_batch_size`` and ``batch_timeout``, and
``LitServer(...).run``. It takes two processes: uvicorn with the endpoint, and a worker with the model, made by
``spawn``: the class must be found under the name of a module on the path.

``batch_timeout`` is 1 ms, and not the 10 to 100 ms of its examples: the worker waits for that long also where one
client is all there is, and under load requests gather while a batch is computed. 0, its default, takes what is there,
but the worker of version 0.2.19 then asks in a loop without a pause and keeps a core busy.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litserve

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job

MAX_BATCH, BATCH_TIMEOUT_S = 32, 0.001
QUANTIZED = "model_quantized.onnx"
"""As Optimum names it."""


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export and quantize as Optimum's documentation shows it: int8, activations at run time."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=config)
    (folder / "model.onnx").unlink()


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Each request is a list of texts; what ``predict`` gets is the requests of a batch."""

    def __init__(self, folder: Path, threads: int, max_length: int, labels: list[str]) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/")
        self._folder, self._threads, self._max_length, self._labels = folder, threads, max_length, labels

    def setup(self, device: str) -> None:
        """The model with as many threads as all contenders have, in the worker."""
        import onnxruntime
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import AutoTokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        self._model = ORTModelForSequenceClassification.from_pretrained(
            self._folder, file_name=QUANTIZED, session_options=options
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(self._folder)
        self._tokenize = functools.partial(
            tokenizer, return_tensors="np", padding=True, truncation=True, max_length=self._max_length,
        )  # fmt: skip

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        """The texts of a request."""
        texts: list[str] = request["inputs"]
        return texts

    def predict(self, x: list[list[str]]) -> list[list[list[float]]]:
        """Probabilities of the texts of all requests, a list for each."""
        import numpy as np

        logits = self._model(**self._tokenize([text for texts in x for text in texts])).logits
        rows = iter((1 / (1 + np.exp(-logits))).tolist())
        return [[next(rows) for _ in texts] for texts in x]

    def encode_response(self, output: list[list[float]]) -> list[list[dict[str, Any]]]:
        """As transformers' pipeline answers."""
        return [
            [{"label": label, "score": score} for label, score in zip(self._labels, row, strict=True)] for row in output
        ]


# LitServe makes the endpoint's types from these, where there are any; its examples have none.
Classifier.decode_request.__annotations__.clear()
Classifier.encode_response.__annotations__.clear()


def serve(folder: Path, job: Job, port: int) -> None:
    """Serve on one port of the loopback until SIGTERM."""
    here = Path(__file__)
    sys.path.append(str(here.parent))
    sys.modules[here.stem] = sys.modules[__name__]
    Classifier.__module__ = here.stem
    api = Classifier(folder.resolve(), job.threads, job.max_length, job.labels)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return sorted(path for path in folder.iterdir() if path.is_file())
