"""A peer as any other: the tiny classifier in ONNX Runtime. ``fault`` among its options says where it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Copy the checkpoint."""
    print("libraries print what they like")
    if job.options.get("fault") == "prepare":
        raise RuntimeError("This model is not supported.\nNo converter for TinyModel")
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    if job.options.get("fault") == "bench killed":
        os.kill(int(job.options["bench"]), signal.SIGKILL)
        time.sleep(60)


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """Scores of the tiny classifier."""
    import onnxruntime
    from tokenizers import Tokenizer

    print("and while they load")
    if job.options.get("fault") == "load":
        os.kill(os.getpid(), signal.SIGKILL)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()

    def scores(texts: list[str]) -> NDArray[np.float32]:
        found = tokenizer.encode_batch(texts)
        ids = np.array([each.ids for each in found], dtype=np.int64)
        mask = np.array([each.attention_mask for each in found], dtype=np.int64)
        (logits,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        result = np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
        return _spoiled(result, job.options.get("fault"))

    return scores


def _spoiled(scores: NDArray[np.float32], fault: str | None) -> NDArray[np.float32]:
    if fault == "shape":
        return scores[:, :-1]
    if fault == "values":
        return scores * np.nan
    if fault == "other weights":
        return np.asarray(scores * 0.5)
    if fault == "environment":
        return np.full_like(scores, int(os.environ["OMP_NUM_THREADS"]) / 10)
    return scores


def serve(folder: Path, job: Job, port: int) -> None:
    """``POST /`` with ``{"inputs": [...]}``, answered as transformers' pipeline does."""
    if job.options.get("fault") == "serve":
        raise OSError("address family not supported")
    scores = load(folder, job)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            named = [[{"label": k, "score": float(v)} for k, v in zip(job.labels, row, strict=True)]
                     for row in scores(texts)]  # fmt: skip
            answer = json.dumps(named).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # 16 clients connect at once; the default of 5 would refuse some

    Server(("127.0.0.1", port), Handler).serve_forever()


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return [folder / "model.onnx", folder / "tokenizer.json"]
