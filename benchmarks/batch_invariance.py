"""Do scores depend on the other texts of a list, and what do lists gain: variants beside today's int8, in turns.

``python -m benchmarks.batch_invariance build/RUN/onnx-int8 build/RUN/onnx-static-int8`` compares each with the first
one, which runs text by text: the largest difference of a logit to the same text alone in a padded batch of 64, whatever
the engine does about it, and of a score in a list of 64; p50 of one text on one thread, and texts a second of lists on
one core and on all. ``--served``: also of ``bantam serve`` with 16 clients. ``--rows build/RUN/onnx-fp32`` adds int8
with a scale a row in standard operators, ``--ctranslate2 build/RUN/baseline`` CTranslate2's, if it is installed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from bantam.artifact import TOKENIZER_FILES, Artifact, Compute, Numbers, deployable_files, seal
from bantam.run.latency import draw_texts
from benchmarks.serving_process import PORTS, WATCH_PORT, bantam_serve
from benchmarks.threads import CLIENTS, clients_of, rate, rounds
from benchmarks.watch_latency import MODEL
from optimizer import logits
from optimizer.data import load_dataset
from optimizer.quantize.embeddings import quantize_embeddings, symmetric_rows
from optimizer.quantize.neighbours import WIDTH
from optimizer.quantize.onnx_graph import is_large, load
from serving.backend.cores import usable_cores
from serving.backend.engine import Engine, sigmoid
from serving.backend.manifest import read_manifest
from serving.backend.reader import Reader
from serving.repository import publish

Score = Callable[[Sequence[str]], NDArray[np.float32]]
LISTS = (8, 16, 64)
TOGETHER = 64


def row_scales(parent: Artifact, folder: Path) -> Path:
    """``parent``, in layout onnx, with int8 products whose activations have a scale a token, in standard operators.

    Activations are x / s + 128 in uint8, s = max |x| / 127 of the row (LLM.int8(), Dettmers et al. 2022, eq. 3): int8
    times int8 has no fast kernel in ONNX Runtime on x86-64. One QuantizeLinear has all rows' scales.
    """
    model = load(parent)
    graph = model.graph
    quantize_embeddings(graph, 8)
    weights = {each.name: each for each in graph.initializer if is_large(each)}
    constants = {"one": np.float32(1), "step": np.float32(1 / 127), "least": np.float32(1e-30), "middle": np.uint8(128),
                 "last": np.array([-1], np.int64)}  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        value, weight, output = node.input[0], weights[node.input[1]], node.output[0]
        matrix = numpy_helper.to_array(weight)
        if value not in rounded:
            rounded.add(value)
            graph.initializer.append(
                numpy_helper.from_array(np.array([-1, len(matrix)], np.int64), f"{value}.rows_shape")
            )
            nodes.extend(_rounded_rows(value))
        integers, scales = symmetric_rows(np.ascontiguousarray(matrix.T))
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(integers.T), f"{weight.name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales[:, 0], f"{weight.name}.scale"))
        inputs = [f"{value}.int8", f"{weight.name}.int8", "one", f"{weight.name}.scale", "middle"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [f"{output}.sums"], domain="com.microsoft"))
        nodes.append(helper.make_node("Mul", [f"{output}.sums", f"{value}.scale"], [output]))
    del graph.node[:]
    graph.node.extend(nodes)
    folder.mkdir()
    for name in TOKENIZER_FILES:
        shutil.copyfile(parent.folder / name, folder / name)
    onnx.save(model, folder / "model.onnx")
    activations = Numbers("int", 8, "symmetric", "row", dynamic=True)
    compute = Compute(Numbers("int", 8, "symmetric", "channel"), activations, padded_to=WIDTH)
    seal(folder, replace(parent.manifest, compute=compute, files={}, deployable=deployable_files(folder, "onnx")))
    return folder


def _rounded_rows(value: str) -> list[onnx.NodeProto]:
    """Nodes that make ``{value}.int8`` and ``{value}.scale`` of a tensor ``[..., width]``."""

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{value}.{output}"], **attributes)

    own = {name: f"{value}.{name}" for name in ("abs", "max", "raw", "scale", "rows", "scales", "count", "zeros")}
    return [
        node("Abs", [value], "abs"),
        node("ReduceMax", [own["abs"], "last"], "max", keepdims=1),
        node("Mul", [own["max"], "step"], "raw"),
        node("Max", [own["raw"], "least"], "scale"),
        node("Reshape", [value, f"{value}.rows_shape"], "rows"),
        node("Reshape", [own["scale"], "last"], "scales"),
        node("Shape", [own["scales"]], "count"),
        node("Expand", ["middle", own["count"]], "zeros"),
        node("QuantizeLinear", [own["rows"], own["scales"], own["zeros"]], "rows_int8", axis=0),
        node("Shape", [value], "shape"),
        node("Reshape", [f"{value}.rows_int8", f"{value}.shape"], "int8"),
    ]


class CTranslate2:
    """Its encoder in int8, with scales a token, and the head in numpy; a worker of one thread for each core."""

    def __init__(self, baseline: Path, folder: Path, threads: int) -> None:
        import ctranslate2
        from safetensors.numpy import load_file

        # torch, which converts, would keep threads of its own beside what is timed.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            apart.submit(_convert, baseline, folder).result()
        self._encoder = ctranslate2.Encoder(
            str(folder / "int8"), compute_type="int8", inter_threads=threads, intra_threads=1
        )
        self._read = Reader(baseline, read_manifest(baseline))
        weights = load_file(baseline / "model.safetensors")
        self._weight, self._bias = weights["classifier.weight"].T, weights["classifier.bias"]
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores ``[texts, labels]``; sorted by length, in at most 16 texts a run and as many runs as workers."""
        tokens = [encoding.ids for encoding in self._read(texts)]
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        size = min(16, -(-len(order) // self._threads))
        runs = [order[start : start + size] for start in range(0, len(order), size)]
        found = np.empty((len(texts), len(self._bias)), np.float32)
        results = self._pool.map(
            lambda run: np.array(self._encoder.forward_batch([tokens[i] for i in run]).pooler_output), runs
        )
        for run, pooled in zip(runs, results, strict=True):
            found[run] = pooled @ self._weight + self._bias
        return sigmoid(found)


def _convert(baseline: Path, folder: Path) -> None:
    """Its encoder alone: CTranslate2 knows no classifier."""
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoModel

    AutoModel.from_pretrained(baseline).save_pretrained(folder / "encoder")
    for name in TOKENIZER_FILES:
        shutil.copyfile(baseline / name, folder / "encoder" / name)
    TransformersConverter(str(folder / "encoder")).convert(str(folder / "int8"), quantization="int8")


def in_a_batch(folder: Path, texts: Sequence[str]) -> float:
    """Largest difference of a logit between texts in one batch, padded to the longest, and each alone as it is."""
    artifact = Artifact.load(folder)
    model, signature = logits.of(artifact, threads=1), artifact.manifest.signature
    alone = logits.encode(folder, signature, list(texts))
    width = max(batch["input_ids"].shape[1] for batch in alone)
    together = {
        name: np.concatenate(
            [np.pad(each[name], ((0, 0), (0, width - each[name].shape[1])), constant_values=fill) for each in alone]
        )
        for name, fill in {**dict.fromkeys(signature.inputs, 0), "input_ids": signature.pad_token_id}.items()
    }
    return float(np.abs(model(together) - np.concatenate([model(batch) for batch in alone])).max())


def seconds(score: Score, lists: Sequence[Sequence[str]]) -> float:
    """Of all of these lists, one after the other."""
    start = time.perf_counter()
    for texts in lists:
        score(texts)
    return time.perf_counter() - start


def measured(scorers: dict[str, dict[int, Score]], texts: Sequence[str], count: int) -> dict[str, list[str]]:
    """Cells of the table: p50 of one text on one thread, then for lists on one core and on all, texts a second."""
    cells: dict[str, list[str]] = {name: [] for name in scorers}
    for cores in sorted({1, usable_cores()}):
        for size in (1, *LISTS) if cores == 1 else LISTS:
            lists = [texts[start : start + size] for start in range(0, len(texts) - size + 1, size)]
            found = rounds({name: partial(seconds, each[cores], lists) for name, each in scorers.items()}, count)
            first = next(iter(found.values()))
            for name, times in found.items():
                each = np.median(times) / (size * len(lists))
                figure = f"{1e3 * each:.2f} ms" if size == 1 else f"{1 / each:,.0f}/s"
                cells[name].append(f"{figure} ({np.median(first / times):.2f})")
    return cells


def served(folders: dict[str, Path], texts: Sequence[str], count: int, into: Path) -> dict[str, str]:
    """Texts a second with 16 clients of ``bantam serve``, and of the first one's."""
    asked: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for number, (name, folder) in enumerate(folders.items()):
            root = into / f"repository-{number}"
            root.mkdir()
            publish(Artifact.load(folder), root, MODEL, thresholds=None)
            running = stack.enter_context(bantam_serve(root, (), ports=[*PORTS, *WATCH_PORT]))
            clients = stack.enter_context(clients_of(running, texts))
            running.send(signal.SIGSTOP)
            asked[name] = partial(rate, running, clients, 2.0)
        found = rounds(asked, count)
    first = next(iter(found.values()))
    return {name: f"{np.median(each):,.0f}/s ({np.median(each / first):.2f})" for name, each in found.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path, nargs="+")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--ctranslate2", type=Path)
    parser.add_argument("--served", action="store_true")
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    texts = [*draw_texts(load_dataset(asked.data).splits["test"].single, max(asked.texts, TOGETHER))]
    with tempfile.TemporaryDirectory() as temporary:
        into = Path(temporary)
        folders = {each.name: each.resolve() for each in asked.variants}
        if asked.rows:
            folders["scale a row"] = row_scales(Artifact.load(asked.rows.resolve()), into / "rows")
        every = sorted({1, usable_cores()})
        scorers: dict[str, dict[int, Score]] = {
            name: {cores: Engine(folder, threads=cores).probabilities for cores in every}
            for name, folder in folders.items()
        }
        if asked.ctranslate2:
            scorers["CTranslate2"] = {
                cores: CTranslate2(asked.ctranslate2.resolve(), into / str(cores), cores) for cores in every
            }
        alike = {name: f"{in_a_batch(folder, texts[:TOGETHER]):.0e}" for name, folder in folders.items()}
        cells = measured(scorers, texts[: asked.texts], asked.rounds)
        rates = served(folders, texts, asked.rounds, into) if asked.served else {}
        lists = [
            f"lists of {size}, {'1 core' if cores == 1 else f'{cores} cores'}" for cores in every for size in LISTS
        ]
        table = Table("", "in a batch", "in a list", "one text", *lists, f"served, {CLIENTS} clients")
        for name, each in scorers.items():
            score = each[every[-1]]
            apart = np.abs(score(texts[:TOGETHER]) - np.concatenate([score([text]) for text in texts[:TOGETHER]])).max()
            table.add_row(name, alike.get(name, ""), f"{apart:.0e}", *cells[name], rates.get(name, ""))
    Console(width=220).print(table)


if __name__ == "__main__":
    main()
