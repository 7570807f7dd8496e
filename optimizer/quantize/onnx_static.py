"""Static int8 for ONNX Runtime: weights int8, activations uint8 with scales that training texts have given.

The graph has ``MatMulIntegerToFloat`` (com.microsoft) with the bias in it, and one ``QuantizeLinear`` for all products
that read the same input. This is what ONNX Runtime makes of QuantizeLinear and DequantizeLinear around a product
itself, but then it leaves the bias out, which takes 1.1 times as long (MiniLM); ONNX Runtime's own QDQ quantizer also
has the residual connections read the rounded activations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.quantize.static import Smooth, StaticQuantizeConfig
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

    from optimizer.logits import Batch
    from optimizer.quantize.numerics import Range


class OnnxStaticConfig(StaticQuantizeConfig):
    """int8 matrix products with calibrated scales, embeddings in int8."""

    method: Literal["onnx-static-int8"] = "onnx-static-int8"
    calibration: Literal["min-max", "moving-average", "percentile", "entropy", "mse"] = "min-max"
    """How the range of an activation is found; see optimizer/quantize/numerics.py."""
    smooth: Smooth = False
    """SmoothQuant's alpha, such as 0.5."""
    exclude: tuple[str, ...] = ()
    """Layers that stay fp32: names, or patterns such as ``*.output.dense``."""


def write(parent: Artifact, config: OnnxStaticConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx``, calibrated on ``config.calibration_rows`` texts, one in memory at a time.

    Raises :class:`StageError` if a pattern of ``config.exclude`` is of no layer, or no layer is left to quantize.
    """
    import onnxruntime
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.embeddings import quantize_embeddings
    from optimizer.quantize.neighbours import WIDTH
    from optimizer.quantize.onnx_graph import load, products
    from optimizer.quantize.smooth import smooth

    model = load(parent)
    ONNXModel(model).replace_gemm_with_matmul()
    layers = products(model.graph)
    left = excluded(config.exclude, [*layers], config.name)
    chosen = [node for name, node in layers.items() if name not in left]
    if not chosen:
        raise StageError(
            f"Stage {config.name!r} has nothing to quantize: {parent.name!r} has {len(layers)} layers to "
            f"quantize, and {len(left)} are excluded. Exclude fewer, or use another quantization method."
        )
    texts = batches(config.calibration_rows)
    smoothed = smooth(model, config.smooth, texts, threads=context.threads) if config.smooth is not False else 0
    ranges = _ranges(model, chosen, config, texts, context.threads)
    tables = quantize_embeddings(model.graph, 8)
    _quantize(model, chosen, ranges, config)
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


def excluded(patterns: Collection[str], layers: Collection[str], stage: str) -> set[str]:
    """The layers that the patterns name. Raises :class:`StageError` for a pattern that names none."""
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise StageError(
                f"Stage {stage!r}: exclude has {pattern!r}, which is no layer. Expected names or patterns of these: "
                f"{', '.join(layers)}."
            )
    return {layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns)}


def _ranges(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], config: OnnxStaticConfig, texts: list[Batch], threads: int
) -> dict[str, Range]:
    """The range of each input of the products."""
    from optimizer.quantize.numerics import ESTIMATORS, HistogramObserver
    from optimizer.quantize.onnx_graph import activations

    seen = {node.input[0]: HistogramObserver() for node in nodes}
    for values in activations(model, [*seen], texts, threads=threads):
        for name, value in values.items():
            seen[name].add(value)
    return {name: ESTIMATORS[config.calibration](histogram, config.activations) for name, histogram in seen.items()}


def _quantize(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], ranges: Mapping[str, Range], config: OnnxStaticConfig
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
    _quantize_weights(graph, {node.input[1] for node in nodes}, config.weights)
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


def _quantize_weights(graph: onnx.GraphProto, names: Collection[str], granularity: str) -> None:
    """Put these matrices ``[inputs, outputs]`` into int8 with a scale an output channel, or one."""
    from onnx import numpy_helper

    from optimizer.quantize.numerics import quantize, symmetric

    for weight in [each for each in graph.initializer if each.name in names]:
        values = numpy_helper.to_array(weight)
        along = 0 if granularity == "channel" else None
        scale = symmetric(values.min(axis=along), values.max(axis=along))
        integers = quantize(values, scale, 0, -127, 127)
        graph.initializer.append(numpy_helper.from_array(integers, f"{weight.name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{weight.name}.scale"))
    left = [weight for weight in graph.initializer if weight.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(left)
