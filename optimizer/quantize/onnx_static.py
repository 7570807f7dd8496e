"""Static int8 for ONNX Runtime: weights int8, activations uint8 with scales that training texts have given.

The graph has ``MatMulIntegerToFloat`` (com.microsoft) with the bias in it, and one ``QuantizeLinear`` for all products
that read the same input. This is what ONNX Runtime makes of QuantizeLinear and DequantizeLinear around a product
itself, but then it leaves the bias out, which takes 1.1 times as long (MiniLM); ONNX Runtime's own QDQ quantizer also
has the residual connections read the rounded activations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.quantize.static import StaticQuantizeConfig
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from optimizer.quantize.numerics import Range


class OnnxStaticConfig(StaticQuantizeConfig):
    """int8 matrix products with calibrated scales, embeddings in int8."""

    method: Literal["onnx-static-int8"] = "onnx-static-int8"
    calibration: Literal["min-max", "moving-average", "percentile", "entropy", "mse"] = "min-max"
    """How the range of an activation is found; see optimizer/quantize/numerics.py."""
    exclude: tuple[str, ...] = ()
    """Layers that stay fp32, by the names of their modules; a block's stands for all in it, and ``*`` for anything."""


def write(parent: Artifact, config: OnnxStaticConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx``, calibrated on ``config.calibration_rows`` texts, one in memory at a time.

    Raises :class:`RecipeError` for layers to exclude that there are not, and :class:`StageError` if none is left.
    """
    import onnxruntime
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.onnx_session import activations
    from optimizer.quantize.embeddings import quantize_embeddings
    from optimizer.quantize.neighbours import WIDTH
    from optimizer.quantize.onnx_graph import excluded, layer_of, opened, products_of, take_in
    from optimizer.quantize.smooth import smooth

    model = opened(parent)
    products = products_of(model.graph)
    layers = dict.fromkeys(layer_of(node.input[1]) for node in products)
    left = excluded(config.exclude, layers)
    chosen = [node for node in products if layer_of(node.input[1]) not in left]
    if not chosen:
        raise StageError(
            f"Stage {config.name!r} has nothing to quantize: {parent.name!r} has {len(layers)} layers to "
            f"quantize, and {len(left)} are excluded. Exclude fewer, or use another quantization method."
        )
    texts = batches(config.calibration_rows)
    folder, threads, smoothed = parent.folder, context.threads, 0
    if config.smooth is not False:
        smoothed = smooth(model, chosen, config.smooth, texts, folder=folder, threads=threads)
    seen = activations(model, folder, [*dict.fromkeys(node.input[0] for node in chosen)], texts, threads=threads)
    ranges = _ranges(seen, config)
    tables = quantize_embeddings(model.graph, 8, folder=folder)
    _quantize(model, chosen, ranges, config, folder)
    take_in(model.graph, folder)
    large = (parent.folder / "model.onnx.data").exists()
    ONNXModel(model).save_model_to_file(context.folder / "model.onnx", large)
    compute = Compute(
        weights=Numbers("int", 8, "symmetric", config.weights),
        activations=Numbers("int", 8, config.activations, "tensor", dynamic=False),
        batch_invariant=parent.manifest.compute.batch_invariant,
        padded_to=WIDTH,
    )
    details = {
        "quantizer": f"onnxruntime {onnxruntime.__version__}",
        "calibration_texts": len(texts),
        "int8_products": len(chosen),
        "int8_embeddings": tables,
        "fp32_layers": sorted(left),
        "smoothed_inputs": smoothed,
    }
    return Quantized(compute, {key: value for key, value in details.items() if value})


METHOD = Method(OnnxStaticConfig, accepts=frozenset({"onnx"}), makes="onnx", write=write)


def _ranges(seen: Iterable[Mapping[str, NDArray[np.float32]]], config: OnnxStaticConfig) -> dict[str, Range]:
    """The range of each value, of which there is a sample in each of ``seen``."""
    from optimizer.quantize.numerics import ESTIMATORS, HistogramObserver

    observers: dict[str, HistogramObserver] = {}
    for values in seen:
        for name, value in values.items():
            observers.setdefault(name, HistogramObserver()).add(value)
    return {name: ESTIMATORS[config.calibration](observer, config.activations) for name, observer in observers.items()}


def _quantize(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    ranges: Mapping[str, Range],
    config: OnnxStaticConfig,
    folder: Path,
) -> None:
    """Replace the products, with the biases that are added to them, by such in int8."""
    from onnx import helper, numpy_helper

    from optimizer.quantize.numerics import parameters
    from optimizer.quantize.onnx_graph import bias_of

    graph = model.graph
    for name, (low, high) in ranges.items():
        scale, zero_point = parameters(low, high, config.activations)
        for part, value in (("scale", scale), ("zero", zero_point.astype(np.uint8))):
            graph.initializer.append(numpy_helper.from_array(value, f"{name}.{part}"))
    _quantize_weights(graph, {node.input[1] for node in nodes}, config.weights, folder)
    replaced: dict[str, list[onnx.NodeProto]] = {}
    rounded: set[str] = set()
    for node in nodes:
        value, weight, addition = node.input[0], node.input[1], bias_of(graph, node)
        # Without a zero point of the weights: one that is 0 takes time as well.
        inputs = [f"{value}.int8", f"{weight}.int8", f"{value}.scale", f"{weight}.scale", f"{value}.zero"]
        if addition:
            inputs += ["", addition.input[1]]
            replaced[addition.output[0]] = []
        output = addition.output[0] if addition else node.output[0]
        product = helper.make_node("MatMulIntegerToFloat", inputs, [output], node.name, domain="com.microsoft")
        replaced[node.output[0]] = [product]
        if value not in rounded:
            rounded.add(value)
            parts = [value, f"{value}.scale", f"{value}.zero"]
            replaced[node.output[0]].insert(
                0, helper.make_node("QuantizeLinear", parts, [f"{value}.int8"], f"{value}.int8")
            )
    after = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(after)


def _quantize_weights(graph: onnx.GraphProto, names: Collection[str], granularity: str, folder: Path) -> None:
    """Put these matrices ``[inputs, outputs]`` into int8 with a scale an output channel, or one."""
    from onnx import numpy_helper

    from optimizer.quantize.numerics import quantize, symmetric

    for weight in [each for each in graph.initializer if each.name in names]:
        values = numpy_helper.to_array(weight, str(folder))
        along = 0 if granularity == "channel" else None
        scale = symmetric(values.min(axis=along), values.max(axis=along))
        integers = quantize(values, scale, 0, -127, 127)
        graph.initializer.append(numpy_helper.from_array(integers, f"{weight.name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{weight.name}.scale"))
    left = [weight for weight in graph.initializer if weight.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(left)
