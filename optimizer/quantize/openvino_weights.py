"""Weights in int8, int4 or NF4 for OpenVINO, by NNCF: rounded to nearest, or with what it learns from texts.

Nothing is calibrated for activations. By default OpenVINO rounds them too, to int8 in groups of each token, as it
multiplies them; ``products = "fp32"`` says in the IR that it must not.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.config import CalibratedQuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import openvino

FEWEST = 4096
"""Numbers of a weight that is compressed: what is smaller has nothing to gain."""
GROUP = {"int8": 32, "fp32": 0}
"""How many activations share a scale, for OpenVINO; 0: they are not rounded."""
DATA_AWARE = ("awq", "scale_estimation", "gptq")
"""Keys of what is found from training texts."""
SMALLEST_GROUP = 32
"""Where the group size does not divide a layer's inputs, half of it is tried and so on, down to this; else int8."""


class WeightsConfig(CalibratedQuantizeConfig):
    """Matrix products and embeddings with weights in 8 or 4 bits; small weights, such as a classifier's, stay fp32."""

    method: Literal["openvino-weights"] = "openvino-weights"
    calibration_rows: int = Field(128, ge=1)
    """With ``awq``, ``scale_estimation`` or ``gptq``: how many training texts, at their real lengths."""
    weights: Literal["int8", "int4", "nf4"] = "int8"
    """int8 has a scale an output channel, int4 and nf4 one a group of inputs."""
    scheme: Literal["symmetric", "asymmetric"] | None = None
    """Of int8 and int4: with or without an offset; asymmetric if absent. nf4 is symmetric."""
    group_size: Literal[32, 64, 128] | None = None
    """With int4 and nf4: how many weights share a scale; 64 if absent."""
    ratio: float = Field(1.0, gt=0, le=1)
    """With int4 and nf4: the share of the weights that get 4 bits; those that lose most by it get int8."""
    products: Literal["int8", "fp32"] = "int8"
    """What matrix products are computed in; int8 rounds the activations too, in groups of each token."""
    embedding_bits: Literal[8, 4] = 8
    """With int4 and nf4: bits of the embeddings, and of a last matrix product that is not small."""
    awq: bool = False
    """Scale the inputs of products so that the weights that matter are rounded less (Lin et al. 2023); 4 bits."""
    scale_estimation: bool = False
    """Find the scales by the error of each layer's output; 4 bits."""
    gptq: bool = False
    """Round column by column, each making up for the error of those before (Frantar et al. 2022); int4."""

    @model_validator(mode="after")
    def _keys_of_the_numbers(self) -> WeightsConfig:
        only_4_bits = {
            "group_size": self.group_size is not None,
            "ratio": self.ratio < 1,
            "embedding_bits": self.embedding_bits == 4,
            **{key: getattr(self, key) for key in DATA_AWARE},
        }
        if self.weights == "int8" and (given := [key for key, is_given in only_4_bits.items() if is_given]):
            raise ValueError(f'{", ".join(given)} goes with weights = "int4" or "nf4"; int8 has a scale a channel')
        if self.weights == "nf4" and (self.scheme == "asymmetric" or self.gptq):
            raise ValueError('nf4 is symmetric and has no gptq: leave scheme and gptq out, or take weights = "int4"')
        if not any(getattr(self, key) for key in DATA_AWARE):
            self.check_unused(("calibration_rows", "seed"), " or ".join(DATA_AWARE))
        return self

    @property
    def mode(self) -> str:
        """Name of NNCF's CompressWeightsMode."""
        scheme = self.scheme or "asymmetric"
        return "NF4" if self.weights == "nf4" else f"{self.weights}_{scheme.removesuffix('metric')}".upper()


def write(parent: Artifact, config: WeightsConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.xml`` and ``model.bin``; what is left of the weights stays fp32.

    The parent's weights are mapped from its files and compressed one by one, the largest first. Raises
    :class:`StageError` if NNCF cannot compress the model, or finds nothing to compress.
    """
    import nncf

    from optimizer import openvino_ir

    try:
        model = openvino_ir.read(parent)
        with _listening() as heard:
            compressed = nncf.compress_weights(model, **_options(model, config, batches))
    except (RuntimeError, nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as exc:
        raise StageError(
            f"NNCF cannot compress {parent.name!r}: {str(exc).strip()[:300]}. Use another quantization method for it."
        ) from exc
    counts = _counts(compressed)
    if not counts:
        raise StageError(
            f"{parent.name!r} has no weights that are worth compressing: none of its matrices has {FEWEST:,} numbers."
        )
    details = {"quantizer": f"nncf {nncf.__version__}", **counts}
    if config.awq and any(line.startswith("No matching patterns") for line in heard):
        context.log(f"{config.name}: NNCF finds no pairs of layers for AWQ in this model; made without it")
        details["awq"] = "no layers for it"
    compressed.set_rt_info(str(GROUP[config.products]), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    openvino_ir.save(compressed, context.folder)
    groups = Numbers("int", 8, "symmetric", "block", dynamic=True)
    exact = config.products == "fp32" or config.weights == "nf4"  # OpenVINO 2026.4 rounds nothing beside nf4
    compute = Compute(
        weights=_numbers(config),
        activations=Numbers() if exact else groups,
        # On MiniLM, a text's logits alone and among others and padding differ by up to 2e-6 with products in fp32; in
        # int8 by 9e-3: fp32 between the products rounds otherwise for other shapes.
        batch_invariant=parent.manifest.compute.batch_invariant and exact,
    )
    return Quantized(compute, details)


METHOD = Method(WeightsConfig, accepts=frozenset({"onnx", "openvino"}), makes="openvino", write=write)


def _numbers(config: WeightsConfig) -> Numbers:
    if config.weights == "nf4":
        return Numbers("normal", 4, "symmetric", "block")
    scheme = config.scheme or "asymmetric"
    return Numbers("int", 8, scheme, "channel") if config.weights == "int8" else Numbers("int", 4, scheme, "block")


def _options(model: openvino.Model, config: WeightsConfig, batches: Batches) -> dict[str, Any]:
    """What ``nncf.compress_weights`` is called with."""
    import nncf

    options: dict[str, Any] = {
        "mode": nncf.CompressWeightsMode[config.mode],
        "ignored_scope": nncf.IgnoredScope(names=_small(model), validate=False),
    }
    if config.weights == "int8":
        return options
    options |= {"group_size": config.group_size or 64, "ratio": config.ratio, "all_layers": config.embedding_bits == 4}
    options["advanced_parameters"] = nncf.AdvancedCompressionParameters(
        group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=SMALLEST_GROUP
    )
    if learns := {key: True for key in DATA_AWARE if getattr(config, key)}:
        calibration = batches(config.calibration_rows)
        options |= {"dataset": nncf.Dataset(calibration), "subset_size": len(calibration), **learns}
    return options


def _small(model: openvino.Model) -> list[str]:
    """Names of the products and lookups with a weight that is not worth compressing."""
    weights = {"MatMul": slice(2), "Gather": slice(1)}  # not the indices and the axis of a lookup
    return [
        node.get_friendly_name()
        for node in model.get_ops()
        if any(
            0 < size < FEWEST
            for size in map(_constant_size, node.input_values()[weights.get(node.get_type_name(), slice(0))])
        )
    ]


def _constant_size(value: openvino.Output) -> int:
    """How many numbers the weight has that comes in here; 0 if what comes in is computed."""
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Transpose"):
        node = node.input_value(0).get_node()
    return prod(node.get_output_shape(0)) if node.get_type_name() == "Constant" else 0


def _counts(model: openvino.Model) -> dict[str, int]:
    """``int4_weights`` and the like: how many weights are stored so."""
    names = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "nf4": "nf4"}
    found = Counter(
        names.get(node.get_element_type().get_type_name())
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and not _is_offset(node)
    )
    return {f"{name}_weights": count for name, count in sorted(found.items(), key=str) if name}


def _is_offset(constant: openvino.Node) -> bool:
    """Whether it is, made a float, what is subtracted from a weight."""
    (use, *_) = constant.output(0).get_target_inputs()
    after = use.get_node().output(0).get_target_inputs()
    return any(each.get_node().get_type_name() == "Subtract" and each.get_index() == 1 for each in after)


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """What NNCF says, in place of its printing it. Its progress bars go to stderr: stdout may be read by a script.

    Of whatever level its logger was, and is again afterwards: whether AWQ had anything to do is said at INFO.
    """
    heard: list[str] = []
    logger = logging.getLogger("nncf")
    level = logger.level
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    before, logger.handlers = logger.handlers, [handler]
    logger.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield heard
    finally:
        logger.handlers = before
        logger.setLevel(level)
