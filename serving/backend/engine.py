"""Texts in, probabilities out: tokenizer, micro-batches, and a program that runs the graph.

Self-contained (numpy, tokenizers, and the one runtime): it is copied beside each served model, and the same files
measure a model in process, so that served and in-process answers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from tokenizers import Encoding

from .cores import TextThreads, usable_cores
from .counts import Counts, Work, is_probe
from .cuda_program import CudaProgram
from .manifest import ModelManifest, read_manifest
from .onnx_program import OnnxProgram
from .openvino_program import OpenVinoProgram
from .program import MAX_PADDED_TOKENS, Feeds, Placement, Program
from .providers import most_texts
from .reader import Reader, Text

PROGRAMS: Mapping[str, Mapping[str, Callable[[Path, ModelManifest, Placement], Program]]] = MappingProxyType(
    {"onnx": {"cpu": OnnxProgram, "cuda": CudaProgram}, "openvino": {"cpu": OpenVinoProgram}}
)
"""A manifest's layout -> device -> what loads and runs it."""
MICRO_BATCH: Mapping[str, int] = MappingProxyType({"cpu": 8, "cuda": 64})
"""Device -> most texts in one run: a core is busy with 8 short ones; a GPU is expected to need more."""
ROUNDS = 3
"""The least runs that each core takes of a list of texts, if it has so many: runs differ in length, and the last one is
waited for. All cores in one run would wait for each other at every operator."""
WARM_TOKENS: Mapping[str, int] = MappingProxyType({"cpu": 128, "cuda": 512})
"""Where shapes are rounded, because a new one costs time, single texts up to this length are run at the start, and full
micro-batches up to half of it; what is longer pays at its first text."""


class Engine:
    """A text classifier in this process.

    ``folder`` holds ``manifest.json``, ``tokenizer.json`` and the model's files, as an export or quantize stage wrote
    them. ``threads``: CPU threads, by default the cores that this process may use. ``micro_batch``: most texts in one
    run of the model, by default :data:`MICRO_BATCH`. ``text_threads``: the fields of a :class:`TextThreads`, which is
    taken where there are as many threads as where it was measured. Raises ``ValueError`` if the manifest's layout has
    no program, or the model does not run on ``device``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        threads: int | None = None,
        micro_batch: int | None = None,
        text_threads: Mapping[str, int] | None = None,
    ) -> None:
        manifest = read_manifest(folder)
        self.labels, self.task = manifest.labels, manifest.task
        self._inputs, self._pad, self._max_length = manifest.inputs, manifest.pad_token_id, manifest.max_length
        self._read = Reader(folder, manifest)
        self._scores = SCORES[manifest.task]
        # Where a text's logits depend on its neighbours, texts run one by one: one text, one answer. With ONNX Runtime,
        # singles in parallel over the cores reach the throughput of batches.
        most = (micro_batch or MICRO_BATCH[device]) if manifest.batch_invariant else 1
        if device == "cuda":
            most = most_texts(most, manifest)
        threads = threads or usable_cores()
        measured = TextThreads(**text_threads) if text_threads else None
        of_here = measured if measured and measured.cores == threads else None
        self.placement = Placement(device, threads, most, of_here)
        self._program = _load(folder, manifest, self.placement)
        self.providers = self._program.providers
        """What of the runtime runs the model: on a GPU, TensorRT may or may not be among it."""
        self._pool = ThreadPoolExecutor(self._program.parallel, thread_name_prefix="micro-batch")
        self.counts: Counts | None = None
        """Where what it does is counted; then one thread at a time may ask it."""
        self._warm()

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """float32 ``[len(texts), labels]``: sigmoid per label (``multi_label``), softmax over labels, or the output as
        it is (``regression``).

        Tuples of two for a model of pairs. What is longer than the model's ``max_length`` tokens is cut. Raises
        ``ValueError`` for texts in place of pairs, or the other way round. Safe to call from several threads.
        """
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        encodings = self._read(texts)
        lengths = [len(encoding) for encoding in encodings]
        batches = micro_batches(
            lengths,
            balanced(len(texts), self.placement.micro_batch, self._program.parallel),
            self._program.bucket,
            powers_of_two=self._program.powers_of_two,
            most_tokens=MAX_PADDED_TOKENS[self.placement.device],
        )
        feeds = (self._feeds([encodings[i] for i in batch]) for batch in batches)
        # A single text stays in the caller's thread: handing it over would cost it 0.05 to 0.1 ms.
        run = partial(self._program, runs=len(batches))
        results = map(run, feeds) if len(batches) == 1 else self._pool.map(run, feeds)
        for batch, result in zip(batches, results, strict=True):
            logits[batch] = result
        if self.counts is not None:
            # The watch's own texts are nobody's work.
            theirs = [number for number, text in enumerate(texts) if not is_probe(text)]
            cut = sum(lengths[i] >= self._max_length and bool(encodings[i].overflowing) for i in theirs)
            runs = batches if len(theirs) == len(texts) else [set(theirs).intersection(batch) for batch in batches]
            work = Work(sum(lengths[i] for i in theirs), cut, [len(batch) for batch in runs if batch])
            self.counts.add(len(theirs), work)
        return self._scores(logits)

    def _feeds(self, encodings: Sequence[Encoding]) -> Feeds:
        """The model's inputs, int64 ``[texts, tokens]``, padded to the longest text, or to the program's bucket."""
        # An empty text has no token at all where the tokenizer adds none; a model cannot run on nothing.
        tokens = [encoding.ids or [self._pad] for encoding in encodings]
        longest = max(len(ids) for ids in tokens)
        width = min(_round_up(longest, self._program.bucket), max(self._max_length, longest))
        rows: dict[str, tuple[list[list[int]], int]] = {
            "input_ids": (tokens, self._pad),
            "attention_mask": ([[1] * len(ids) for ids in tokens], 0),
            "token_type_ids": ([encoding.type_ids for encoding in encodings], 0),
        }
        return {name: _padded(*rows[name], width) for name in self._inputs}

    def _warm(self) -> None:
        """Run once what would make the first request slow."""
        bucket = self._program.bucket if self._program.warmed else 1
        for shape in warm_shapes(self.placement, bucket, self._max_length):
            feeds = {name: np.ones(shape, dtype=np.int64) for name in self._inputs}
            feeds["input_ids"].fill(self._pad)
            self._program(feeds)
        self.probabilities([("warm", "up")] * 2 if self._read.pair else ["warm", "up"])


def warm_shapes(placement: Placement, bucket: int, max_length: int) -> list[tuple[int, int]]:
    """Texts and tokens of the runs that warm a program up; none where lengths are not rounded."""
    if bucket == 1:
        return []
    longest = WARM_TOKENS[placement.device]
    full = 1 << (placement.micro_batch.bit_length() - 1)
    return [
        (rows, tokens)
        for rows, most in ((1, longest), (full, longest // 2))
        for tokens in range(bucket, min(most, max_length) + 1, bucket)
    ]


def balanced(texts: int, size: int, parallel: int) -> int:
    """Most texts in a run, at most ``size``, so that ``parallel`` runs at a time have as much to do to the end.

    Each takes at least :data:`ROUNDS` runs if there are so many texts: they differ in length, and who has the longest
    ones should not be waited for. Eight texts of MiniLM as one run on both cores of a busy machine took 1.5 times as
    long as this way in fp32, and twice as long in static int8; on a quiet one as long (13.4 ms and 13.7 in fp32).
    """
    return size if parallel == 1 else max(1, min(size, -(-texts // (ROUNDS * parallel))))


def micro_batches(
    lengths: Sequence[int],
    size: int,
    bucket: int = 1,
    *,
    powers_of_two: bool = False,
    most_tokens: int = MAX_PADDED_TOKENS["cpu"],
) -> list[list[int]]:
    """Cut texts of these ``lengths`` (tokens) into runs of the model: lists of indices, longest texts first.

    Neighbours in length share a run, so that little is padded; a run has at most ``size`` texts and ``most_tokens``
    tokens (a single text may have more), padded to multiples of ``bucket``. With ``powers_of_two``, a run has so many
    texts, so that few shapes occur.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = []
    start = 0
    while start < len(order):
        tokens = _round_up(max(1, lengths[order[start]]), bucket)
        rows = min(size, max(1, most_tokens // tokens), len(order) - start)
        if powers_of_two:
            rows = 1 << (rows.bit_length() - 1)
        batches.append(order[start : start + rows])
        start += rows
    return batches


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function of float32, any shape; below -88, where its exponential would overflow, that of -88."""
    probabilities: np.ndarray = 1 / (1 + np.exp(np.minimum(-logits, 88)))
    return probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float32; never overflows."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"multi_label": sigmoid, "single_label": softmax, "regression": lambda logits: logits}
)
"""Task -> what makes scores of logits, both ``[texts, labels]``."""


def _padded(rows: Sequence[list[int]], fill: int, width: int) -> np.ndarray:
    """int64 ``[rows, width]``. Lists are joined before numpy sees them: a call of numpy for each row costs more."""
    return np.array([row + [fill] * (width - len(row)) for row in rows], dtype=np.int64)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _load(folder: Path, manifest: ModelManifest, placement: Placement) -> Program:
    if manifest.layout not in PROGRAMS:
        raise ValueError(
            f"{folder}: a model in layout {manifest.layout!r} cannot be served. Export it to: {', '.join(PROGRAMS)}."
        )
    if placement.device not in manifest.devices:
        raise ValueError(
            f"{folder}: this model was made for {', '.join(manifest.devices)}, got device {placement.device!r}. "
            "Run it on one of those, or export it for this one."
        )
    return PROGRAMS[manifest.layout][placement.device](folder, manifest, placement)
