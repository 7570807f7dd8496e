"""What this machine reaches in a matrix product and in a copy, and the least time that a variant could take with that.

``python -m benchmarks.bench.limits`` prints the rates. fp32 and bf16 products are those of PyTorch (oneDNN), int8 ones
ONNX Runtime's MatMulInteger, uint8 by int8 as its dynamic quantization runs them; the copy is PyTorch's, of arrays far
larger than any cache. All with as many threads as the contenders have, the best of several tries: these are limits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import work
from benchmarks.bench.prepared import Prepared

SQUARE = 2048
"""Rows and columns of the large product."""
COPY_BYTES = 512 * 2**20
TRY_S = 0.5
"""Seconds of tries for each rate; at least three."""
OWN_TOKENS, OWN_SHAPES = 16, ((384, 384), (384, 1536), (1536, 384))
"""A short text in MiniLM's matrices: what a product of the model itself could reach at best."""
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def measure(threads: int) -> dict[str, Any]:
    """Multiply-adds a second by precision, in a large square product and at the model's own shapes; bytes a second.

    ``{"gmacs": {"fp32": {"square": ..., "own": ...}, ...}, "copy_gb_s": ..., "last_cache_mb": ...}``, in 10^9.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        own = [(OWN_TOKENS, *shape) for shape in OWN_SHAPES]
        products: dict[str, Callable[[int, int, int], Callable[[], object]]] = {
            "fp32": lambda m, k, n: _torch_product(m, k, n, torch.float32),
            "bf16": lambda m, k, n: _torch_product(m, k, n, torch.bfloat16),
            "int8": lambda m, k, n: _int8_product(m, k, n, threads),
        }
        rates = {
            name: {
                "square": round(SQUARE**3 / best_s(make(SQUARE, SQUARE, SQUARE)) / 1e9, 1),
                "own": round(sum(m * k * n for m, k, n in own) / sum(best_s(make(*shape)) for shape in own) / 1e9, 1),
            }
            for name, make in products.items()
        }
        source = torch.ones(COPY_BYTES // 4)
        target = torch.empty_like(source)
        # A copy reads and writes: both go over the memory's wires.
        copy = 2 * COPY_BYTES / best_s(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(before)
    return {"gmacs": rates, "copy_gb_s": round(copy / 1e9, 1), "last_cache_mb": last_cache_mb(), "threads": threads}


def best_s(run: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs, after one that is not counted."""
    run()
    best, tries, end = float("inf"), 0, time.perf_counter() + TRY_S
    while tries < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, tries = min(best, time.perf_counter() - start), tries + 1
    return best


def _torch_product(m: int, k: int, n: int, dtype: Any) -> Callable[[], object]:
    import torch

    left, weight = torch.ones((m, k), dtype=dtype), torch.nn.Linear(k, n, bias=False, dtype=dtype)

    def run() -> object:
        with torch.inference_mode():
            return weight(left)

    return run


def _int8_product(m: int, k: int, n: int, threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((k, n), dtype=np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "weight"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [m, k])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [m, n])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = {"left": np.ones((m, k), dtype=np.uint8)}
    return lambda: session.run(None, left)


def last_cache_mb() -> float | None:
    """The largest cache of the first core in 10^6 bytes, shared with others or not; None if the system does not say."""
    sizes = [path.read_text(encoding="ascii").strip() for path in CACHES.glob("index*/size")]
    return max((int(size[:-1]) * 1024 / 1e6 for size in sizes if size.endswith("K")), default=None)


def of(prepared: Prepared, tokens: int, rates: dict[str, Any], p50_ms: float) -> dict[str, Any]:
    """The limits of a contender for a text of ``tokens`` tokens, in ms, and how many times the limit its p50 is.

    ``macs_ms``: all multiply-adds at the better of the two rates of the contender's precision. ``bytes_ms``: all
    weights once through the memory, which they must not if they stay in a cache: then only the former is a limit.
    """
    found = work.count(prepared.folder, prepared.deployable, tokens)
    return limit(found, prepared.contender.precision, rates, p50_ms)


def limit(found: work.Work, precision: str, rates: dict[str, Any], p50_ms: float) -> dict[str, Any]:
    """See :func:`of`."""
    macs_ms = found.macs / max(rates["gmacs"][precision].values()) / 1e6
    bytes_ms = found.weight_bytes / rates["copy_gb_s"] / 1e6
    cached = rates["last_cache_mb"] is not None and found.weight_bytes / 1e6 <= rates["last_cache_mb"]
    least = macs_ms if cached else max(macs_ms, bytes_ms)
    return {
        "macs": found.macs,
        "weight_bytes": found.weight_bytes,
        "macs_ms": round(macs_ms, 4),
        "bytes_ms": round(bytes_ms, 4),
        "cached": cached,
        "limit_ms": round(least, 4),
        "times": round(p50_ms / least, 2),
    }


def main() -> None:
    """Print the rates of this machine."""
    from serving.backend.cores import usable_cores

    parser = argparse.ArgumentParser(description="What this machine reaches in a matrix product and in a copy.")
    parser.add_argument("--threads", type=int, default=usable_cores())
    print(json.dumps(measure(parser.parse_args().threads), indent=1))


if __name__ == "__main__":
    main()
