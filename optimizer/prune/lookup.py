"""How long one transformer block takes on this machine, as a function of its size: a table, measured once.

A block as such, without a model: its matrix products, softmax, activation and norms, with random weights, in ONNX
Runtime on one text. Halving the multiply-adds of small matrices does not halve their time; a latency target needs this.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bantam.artifact import cache_key
from bantam.files import write_text
from optimizer.prune.search import Cost, Size, Space

HEADS, NEURONS = 6, 5
"""Points of the table in each direction, at most; between them it is linear."""
ROUNDS, WARM, TIMED = 7, 3, 10
OPSET = 20
"""The first with Gelu."""


def latency(space: Space, *, tokens: int, threads: int, folder: Path) -> Cost:
    """Milliseconds of one block on a text of ``tokens`` tokens, by a table that is measured or read from ``folder``."""
    heads, neurons = _spread(space.head_counts, HEADS), _spread(space.neuron_counts, NEURONS)
    sizes = [[space.size(h, n) for n in neurons] for h in heads]
    about = {
        "machine": _machine(),
        "threads": threads,
        "tokens": tokens,
        "head_dim": space.parts.head_dim,
        "gated": len(space.parts.layers[0].up) > 1,
        "sizes": [[asdict(size) for size in row] for row in sizes],
        "onnxruntime": onnxruntime.__version__,
    }
    path = folder / f"latency-{cache_key(**about)[:16]}.json"
    if not path.exists():
        graphs = [block(space, size, tokens).SerializeToString() for row in sizes for size in row]
        times = np.reshape(measure(graphs, threads), (len(heads), len(neurons))).tolist()
        write_text(path, json.dumps({**about, "milliseconds": times}, indent=1))
    table = np.array(json.loads(path.read_text(encoding="utf-8"))["milliseconds"])

    def cost(size: Size) -> float:
        by_heads = [float(np.interp(size.neurons, neurons, row)) for row in table]
        return float(np.interp(size.heads, heads, by_heads))

    return cost


def measure(graphs: Sequence[bytes], threads: int) -> list[float]:
    """Milliseconds for each graph: rounds over all of them, so that a slow minute hits all alike; median of medians."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Else one session's threads still spin, waiting for more work, while the next session is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    sessions = [onnxruntime.InferenceSession(g, options, providers=["CPUExecutionProvider"]) for g in graphs]
    text = np.random.default_rng(0).standard_normal(sessions[0].get_inputs()[0].shape)
    feeds = [{"x": np.resize(text, s.get_inputs()[0].shape).astype(np.float32)} for s in sessions]
    rounds: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for session, feed, medians in zip(sessions, feeds, rounds, strict=True):
            times = []
            for _ in range(WARM + TIMED):
                started = time.perf_counter()
                session.run(None, feed)
                times.append(1e3 * (time.perf_counter() - started))
            medians.append(statistics.median(times[WARM:]))
    return [statistics.median(medians) for medians in rounds]


def block(space: Space, size: Size, tokens: int) -> onnx.ModelProto:
    """A block of this size, ``x`` ``[tokens, hidden]`` to ``y``, its weights random and part of the graph."""
    dim, groups = space.parts.head_dim, size.key_value_heads
    width, shared = size.heads * dim, groups * dim
    graph = _Graph(np.random.default_rng(0))
    # Query heads that share keys and values lie one below the other: [groups, heads / groups * tokens, head_dim].
    query = graph.reshape(graph.product("x", size.hidden, width), (tokens, groups, -1, dim))
    query = graph.reshape(graph.turn(query, (1, 2, 0, 3)), (groups, -1, dim))
    key = graph.turn(graph.reshape(graph.product("x", size.hidden, shared), (tokens, groups, dim)), (1, 2, 0))
    value = graph.turn(graph.reshape(graph.product("x", size.hidden, shared), (tokens, groups, dim)), (1, 0, 2))
    mixed = graph.add("MatMul", graph.add("Softmax", graph.add("MatMul", query, key)), value)
    mixed = graph.turn(graph.reshape(mixed, (groups, -1, tokens, dim)), (2, 0, 1, 3))
    attended = graph.product(graph.reshape(mixed, (tokens, width)), width, size.hidden)
    hidden = graph.norm(graph.add("Add", "x", attended), size.hidden)
    neurons = graph.add("Gelu", graph.product(hidden, size.hidden, size.neurons))
    if len(space.parts.layers[0].up) > 1:
        neurons = graph.add("Mul", neurons, graph.product(hidden, size.hidden, size.neurons))
    down = graph.product(neurons, size.neurons, size.hidden)
    graph.nodes.append(helper.make_node("Identity", [graph.norm(graph.add("Add", hidden, down), size.hidden)], ["y"]))
    shape = [tokens, size.hidden]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    made = helper.make_graph(graph.nodes, "block", ends[:1], ends[1:], graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


class _Graph:
    """Nodes and weights of a graph in the making; each method adds to it and returns the name of its output."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def product(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.rng.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(inputs**0.5)
        return self.add("MatMul", x, self.constant(weight))

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self.add("Reshape", x, self.constant(np.array(shape, dtype=np.int64)))

    def turn(self, x: str, order: tuple[int, ...]) -> str:
        return self.add("Transpose", x, perm=order)

    def norm(self, x: str, width: int) -> str:
        return self.add("LayerNormalization", x, self.constant(np.ones(width, dtype=np.float32)))


def _spread(counts: list[int], points: int) -> list[int]:
    """At most so many of the counts, evenly, the first and the last among them."""
    return sorted({counts[round(i)] for i in np.linspace(0, len(counts) - 1, points)})


def _machine() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
