"""Input channels of a matrix product whose weights are worth 16 bits beside weights of 4 bits.

SpQR (Dettmers et al. 2023) keeps the weights whose rounding costs most at 16 bits, one by one, which takes a sparse
product; ONNX Runtime has none for a part of MatMulNBits. Kept here are whole input channels, as in OWQ (Lee et al.
2024), because these are a small dense product of standard operators. With X ``[tokens, K]``, W ``[K, N]``, Q rounding
to blocks of 4 bits and O the outlier channels::

    Y = X Q(W with W_k = 0 for k in O) + X_O W_O
    O = the round(share K) channels k with the largest  E[x_k^2] sum_n (W_kn - Q(W)_kn)^2

The expectation is over the tokens of calibration texts: by the weights alone, without it, such channels gain nothing
over smaller blocks (MiniLM).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer.logits import Batch
from optimizer.onnx_session import results


def energies(
    model: onnx.ModelProto, values: Iterable[str], batches: Iterable[Batch], *, folder: Path, threads: int
) -> dict[str, NDArray[np.float64]]:
    """Sum of squares of each channel, ``[channels]``, over all tokens of the batches, for these values of the graph.

    The sums are computed in the graph, so that no activation is kept. ``folder``: where the file beside the graph is,
    if there is one.
    """
    more = onnx.GraphProto(initializer=[numpy_helper.from_array(np.array([0], np.int64), "energy.axes")])
    names = {f"{value}.energy": value for value in values}
    for name, value in names.items():
        more.node.append(helper.make_node("Flatten", [value], [f"{name}.tokens"], axis=-1))
        more.node.append(helper.make_node("ReduceSumSquare", [f"{name}.tokens", "energy.axes"], [name], keepdims=0))
        more.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
    sums: dict[str, NDArray[np.float64]] = {}
    for found in results(model, folder, more, batches, threads=threads):
        for name, sum_ in found.items():
            sums[names[name]] = sums.get(names[name], 0) + sum_.astype(np.float64)
    return sums


def outlier_channels(
    weight: NDArray[np.float32], energy: NDArray[np.float64], share: float, block_size: int
) -> NDArray[np.int64]:
    """Indices, ascending, of the outlier channels of ``weight`` ``[K, N]``, at least one; ``energy`` is ``[K]``."""
    costs = energy * np.square(rounded(weight, block_size) - weight).sum(axis=1)
    count = max(1, round(share * len(weight)))
    return np.sort(np.argsort(-costs, kind="stable")[:count]).astype(np.int64)


def rounded(
    weight: NDArray[np.float32], block_size: int, bits: int = 4, *, scales: type[np.floating[Any]] = np.float32
) -> NDArray[np.float32]:
    """``weight`` ``[K, N]`` in ``2^bits`` steps from the lowest to the highest, or 0, of each block along K.

    As MatMulNBits restores it; ``scales``: the numbers in which its steps are kept.
    """
    rows, columns = weight.shape
    blocks = np.pad(weight, ((0, -rows % block_size), (0, 0))).reshape(-1, block_size, columns)
    low, high = np.minimum(blocks.min(axis=1, keepdims=True), 0), np.maximum(blocks.max(axis=1, keepdims=True), 0)
    last = 2**bits - 1
    step = np.maximum((high - low) / last, np.finfo(np.float32).tiny)
    zero = np.rint(-low / step)
    steps = np.clip(np.rint(blocks / step) + zero, 0, last)
    return np.asarray((steps - zero) * step.astype(scales).astype(np.float32), np.float32).reshape(-1, columns)[:rows]


def outlier_weights(name: str, weight: NDArray[np.float32], channels: NDArray[np.int64]) -> list[onnx.TensorProto]:
    """What :func:`with_outliers` takes: the channels, and their weights, float16 ``[channels, N]``."""
    return [
        numpy_helper.from_array(channels, f"{name}.channels"),
        numpy_helper.from_array(weight[channels].astype(np.float16), f"{name}.outliers"),
    ]


def with_outliers(product: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
    """``product`` of all channels plus the product of the outlier channels of the weight ``name``."""
    source, output = product.input[0], product.output[0]
    most, taken, weights, few = (f"{output}.{part}" for part in ("most", "taken", "weights", "few"))
    product.output[0] = most
    return [
        product,
        helper.make_node("Gather", [source, f"{name}.channels"], [taken], name=taken, axis=-1),
        helper.make_node("Cast", [f"{name}.outliers"], [weights], name=weights, to=TensorProto.FLOAT),
        helper.make_node("MatMul", [taken, weights], [few], name=few),
        helper.make_node("Add", [most, few], [output], name=f"{output}.sum"),
    ]
