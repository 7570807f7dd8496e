"""Texts in, probabilities out: tokenizer, micro-batches, ONNX Runtime or OpenVINO.

Self-contained (numpy, tokenizers, and the one runtime): it is copied beside each served model, and the same file
measures a model in process, so that served and in-process scores can be compared.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from .cores import usable_cores

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], np.ndarray]

MAX_PADDED_TOKENS = 4096
"""Bound on rows x tokens of one run: 8 texts of 512 tokens. Attention's memory grows with rows x tokens^2."""
BUCKET = 8
"""OpenVINO prepares its kernels anew for each new shape (10 to 15 ms), so lengths are rounded up to multiples of 8."""
WARM_TOKENS = 128
"""OpenVINO runs single texts up to this length at the start, and full micro-batches up to half of it; what is longer
pays the preparation at its first text."""


class Engine:
    """A text classifier in this process.

    ``folder`` holds ``manifest.json``, ``tokenizer.json`` and the model's files, as an export or quantize stage wrote
    them. ``threads``: CPU threads, by default the cores that this process may use. ``micro_batch``: most texts in one
    run of the model. Raises ``ValueError`` if the manifest's layout is neither ``onnx`` nor ``openvino``.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, micro_batch: int = 8) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        signature = manifest["signature"]
        self.labels: tuple[str, ...] = tuple(signature["labels"])
        self.task: str = signature["task"]
        self.threads = threads or usable_cores()
        self._inputs: tuple[str, ...] = tuple(signature["inputs"])
        self._pad: int = signature["pad_token_id"]
        self._max_length: int = signature["max_length"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._max_length)
        openvino = manifest["layout"] == "openvino"
        self._bucket = BUCKET if openvino else 1
        # Where a text's logits depend on its neighbours, texts run one by one: one text, one score. With ONNX Runtime,
        # singles in parallel over the cores reach the throughput of batches.
        self._micro_batch = micro_batch if manifest["compute"]["batch_invariant"] else 1
        self._run = _open(folder, manifest, self.threads)
        # One thread of ours per core keeps ONNX Runtime busy; OpenVINO in latency mode has one stream, and queues.
        self._pool = ThreadPoolExecutor(1 if openvino else self.threads, thread_name_prefix="micro-batch")
        self._warm()

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities, float32 ``[len(texts), labels]``: sigmoid per label (``multi_label``) or softmax over labels.

        A text longer than the model's ``max_length`` tokens is cut. Safe to call from several threads.
        """
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        batches = micro_batches([len(encoding) for encoding in encodings], self._micro_batch, self._bucket)
        feeds = (self._feeds([encodings[i] for i in batch]) for batch in batches)
        # A single text stays in the caller's thread: handing it over would cost it 0.05 to 0.1 ms.
        results = map(self._run, feeds) if len(batches) == 1 else self._pool.map(self._run, feeds)
        for batch, result in zip(batches, results, strict=True):
            logits[batch] = result
        return sigmoid(logits) if self.task == "multi_label" else softmax(logits)

    def _feeds(self, encodings: Sequence[Encoding]) -> Feeds:
        """The model's inputs, int64 ``[texts, tokens]``, padded to the longest text (OpenVINO: to its bucket)."""
        # An empty text has no token at all where the tokenizer adds none; a model cannot run on nothing.
        tokens = [encoding.ids or [self._pad] for encoding in encodings]
        longest = max(len(ids) for ids in tokens)
        width = min(_round_up(longest, self._bucket), max(self._max_length, longest))
        rows: dict[str, tuple[list[list[int]], int]] = {
            "input_ids": (tokens, self._pad),
            "attention_mask": ([[1] * len(ids) for ids in tokens], 0),
            "token_type_ids": ([encoding.type_ids for encoding in encodings], 0),
        }
        return {name: _padded(*rows[name], width) for name in self._inputs}

    def _warm(self) -> None:
        """Run once what would make the first request slow."""
        if self._bucket > 1:
            full = 1 << (self._micro_batch.bit_length() - 1)
            for rows, longest in ((1, WARM_TOKENS), (full, WARM_TOKENS // 2)):
                for tokens in range(self._bucket, min(longest, self._max_length) + 1, self._bucket):
                    feeds = {name: np.ones((rows, tokens), dtype=np.int64) for name in self._inputs}
                    feeds["input_ids"].fill(self._pad)
                    self._run(feeds)
        self.scores(["warm", "up"])


def micro_batches(lengths: Sequence[int], size: int, bucket: int = 1) -> list[list[int]]:
    """Cut texts of these ``lengths`` (tokens) into runs of the model: lists of indices, longest texts first.

    Neighbours in length share a run, so that little is padded; a run has at most ``size`` texts and
    ``MAX_PADDED_TOKENS`` padded tokens (a single text may have more). With a ``bucket`` above 1, runs have a power of
    two of texts, so that few shapes occur.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = []
    start = 0
    while start < len(order):
        tokens = _round_up(max(1, lengths[order[start]]), bucket)
        rows = min(size, max(1, MAX_PADDED_TOKENS // tokens), len(order) - start)
        if bucket > 1:
            rows = 1 << (rows.bit_length() - 1)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function of float32, any shape; below -88, where its exponential would overflow, that of -88."""
    scores: np.ndarray = 1 / (1 + np.exp(np.minimum(-logits, 88)))
    return scores


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float32; never overflows."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    scores: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def _padded(rows: Sequence[list[int]], fill: int, width: int) -> np.ndarray:
    """int64 ``[rows, width]``. Lists are joined before numpy sees them: a call of numpy for each row costs more."""
    return np.array([row + [fill] * (width - len(row)) for row in rows], dtype=np.int64)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _open(folder: Path, manifest: dict[str, Any], threads: int) -> Run:
    """Load the model; returns the function from its inputs to its logits, float32 ``[texts, labels]``."""
    programs = {"onnx": _open_onnx, "openvino": _open_openvino}
    if manifest["layout"] not in programs:
        known = ", ".join(programs)
        raise ValueError(f"{folder}: a model in layout {manifest['layout']!r} cannot be served. Export it to: {known}.")
    return programs[manifest["layout"]](folder, manifest, threads)


def _open_onnx(folder: Path, manifest: dict[str, Any], threads: int) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that never spin pay a wake-up at each operator (MiniLM int8: 3.0 ms against 2.0); threads that spin for
    # long, or after a run, take the cores from Triton, the client and our other micro-batches (p99 11 ms against 6).
    # 50 us would be too short for the pauses between operators when caches are cold, as they are in a server: then one
    # client waits 0.05 ms longer, on a slow machine 0.1.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> np.ndarray:
        logits: np.ndarray = session.run(["logits"], feeds)[0]
        return logits

    return run


def _open_openvino(folder: Path, manifest: dict[str, Any], threads: int) -> Run:
    import openvino as ov

    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if manifest["compute"]["activations"]["kind"] == "bfloat" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned, two servers on one machine would share one core.
        "ENABLE_CPU_PINNING": False,
    }
    model = ov.Core().compile_model(str(folder / "model.xml"), "CPU", config)
    output = model.output("logits")

    # A request serves one thread at a time; a new one for each text would cost 0.1 ms.
    own = threading.local()

    def run(feeds: Feeds) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        results = own.request.infer(feeds, share_inputs=True, share_outputs=True)
        return np.array(results[output], dtype=np.float32)

    return run
