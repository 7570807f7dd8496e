"""Bits per layer for ONNX Runtime: each weight in 4, 8 or 16 bits, as a budget of bytes or of loss allows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.config import CalibratedQuantizeConfig
from optimizer.quantize.allocate import Infeasible, within_bytes, within_loss
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

    from optimizer.quantize.formats import WeightFormat
    from optimizer.quantize.sensitivity import FormatChoice, Table, Unit

NODES, NODES_OF_GRIDS = 1000, 3500
"""Bytes that the nodes of a quantized weight, and what its parts are called, take in the graph: about the most."""


class MixedConfig(CalibratedQuantizeConfig):
    """Each matrix product and table of embeddings in the bits that lose least together, within one budget."""

    method: Literal["onnx-mixed"] = "onnx-mixed"
    calibration_rows: int = Field(64, ge=2)
    """How many training texts, at their real lengths, tell what each weight loses in each number of bits."""
    average_bits: float | None = Field(None, gt=0)
    """The budget: bits a weight, scales included, over all weights that are chosen for."""
    max_mb: float | None = Field(None, gt=0)
    """The budget: 10^6 bytes of all that is shipped, tokenizer included."""
    max_loss: float | None = Field(None, gt=0)
    """The budget: mean squared difference of the logits to the parent's, in units of their variance, as predicted; as
    few bytes as keep it."""
    choices: tuple[Literal["int4", "int8", "fp16", "higgs2", "higgs3", "higgs4"], ...] = ("int4", "int8", "fp16")
    """What a weight may be kept in. Of products fp16 and HIGGS (in pairs, groups of 128) are fp32 in memory, and so is
    int8 (a scale an output channel) where ``products`` is fp32."""
    exclude: tuple[str, ...] = ()
    """Layers that stay fp32, by the names of their modules; a block's stands for all in it, and ``*`` for anything."""
    block_sizes: tuple[Literal[16, 32, 64, 128, 256], ...] = (32, 128)
    """How many integers share a scale (fp16) and a zero point, each a choice of its own: 4.6 bits a weight at 32 in 4
    bits, 4.2 at 128. int8 is in blocks only where ``products`` is int8."""
    products: Literal["fp32", "int8"] = "fp32"
    """What matrix products are computed in; int8 rounds the activations too, in blocks of each token."""

    @model_validator(mode="after")
    def _one_budget(self) -> MixedConfig:
        budgets = ("average_bits", "max_mb", "max_loss")
        given = [name for name in budgets if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'no budget'}, expected exactly one of {', '.join(budgets)}")
        for name in ("choices", "block_sizes"):
            values = getattr(self, name)
            if not values or len({*values}) < len(values):
                raise ValueError(f"{name} = {[*values]}, expected one or more, each once")
        if not {"int4", "int8"} & {*self.choices}:
            self.check_unused(("block_sizes", "products"), "int4 or int8 among choices")
        if "int4" not in self.choices and self.products == "fp32":
            self.check_unused(("block_sizes",), 'int4 among choices, or int8 with products = "int8"')
        return self


def write(parent: Artifact, config: MixedConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx`` with each weight in what is allocated to it.

    Small weights, the classifier's among them, stay fp32. The manifest's details have the choice of each layer and its
    coefficient, and the loss that is predicted. Raises :class:`RecipeError` for layers to exclude that there are not,
    and :class:`StageError` for a budget that cannot be kept, with the least that can.
    """
    import onnxruntime
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.onnx_4bit import with_contrib
    from optimizer.quantize.onnx_graph import opened, products_of, take_in
    from optimizer.quantize.restore import memory_bytes
    from optimizer.quantize.sensitivity import sensitivity

    model = opened(parent)
    multiplied = products_of(model.graph)
    units = _units(model.graph, multiplied, config)
    table = sensitivity(
        model,
        units,
        batches(config.calibration_rows),
        padding={"input_ids": parent.manifest.signature.pad_token_id},
        folder=parent.folder,
        threads=context.threads,
        log=lambda line: context.log(f"{config.name}: {line}"),
    )
    chosen = _allocated(table, units, parent, config)
    formats = {name: units[name].formats[choice.format] for name, choice in chosen.items()}
    sizes = _put(model.graph, units, formats, parent.folder)
    in_memory = memory_bytes(model.graph, {unit.weight: unit.shape for unit in units.values()})
    with_contrib(model)
    take_in(model.graph, parent.folder)
    large = (parent.folder / "model.onnx.data").exists()
    ONNXModel(model).save_model_to_file(context.folder / "model.onnx", large)
    details: dict[str, Any] = {
        "quantizer": f"onnxruntime {onnxruntime.__version__}",
        "memory_bytes": in_memory,
        "average_bits": 8 * sum(choice.size for choice in chosen.values()) / _count(units),
        "predicted_loss": sum(table[name][choice] for name, choice in chosen.items()),
        "layers": {
            name: {**choice._asdict(), "coefficient": choice.error and table[name][choice] / choice.error}
            for name, choice in chosen.items()
        },
    }
    return Quantized(_compute(parent, config, units, formats), details | sizes)


METHOD = Method(MixedConfig, accepts=frozenset({"onnx"}), makes="onnx", write=write)


def _compute(
    parent: Artifact, config: MixedConfig, units: Mapping[str, Unit], formats: Mapping[str, WeightFormat]
) -> Compute:
    """The fewest bits of a product, which are what is computed with; of a table where there is nothing else."""
    from optimizer.quantize.formats import Blocks

    in_blocks = config.products == "int8" and any(isinstance(form, Blocks) for form in formats.values())
    products = [form.numbers for name, form in formats.items() if not units[name].is_table]
    return Compute(
        weights=min(products or [form.numbers for form in formats.values()], key=lambda numbers: numbers.bits),
        activations=Numbers("int", 8, "symmetric", "block", dynamic=True) if in_blocks else Numbers(),
        batch_invariant=parent.manifest.compute.batch_invariant and not in_blocks,
    )


def _units(graph: onnx.GraphProto, products: list[onnx.NodeProto], config: MixedConfig) -> dict[str, Unit]:
    """The large weights, in the order in which they are computed with, without those that are excluded."""
    from optimizer.quantize.embeddings import packable
    from optimizer.quantize.formats import of_products, of_tables
    from optimizer.quantize.onnx_graph import embedding_lookups, excluded, layer_of
    from optimizer.quantize.sensitivity import Unit

    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    uses = Counter(node.input[1] for node in products)
    tables, dimensions = dict.fromkeys(node.input[0] for node in embedding_lookups(graph)), packable(graph)
    found: dict[str, Unit] = {}
    for weight in dict.fromkeys([*tables, *(node.input[1] for node in products)]):
        columns = shapes[weight][1]
        if weight in tables:
            formats = of_tables(config.choices, config.block_sizes, columns, dimensions.get(weight, 0))
        else:
            formats = of_products(config.choices, config.block_sizes, columns, config.products)
        found[layer_of(weight)] = Unit(weight, shapes[weight], weight in tables, formats, uses[weight])
    out = excluded(config.exclude, found)
    left = {name: unit for name, unit in found.items() if name not in out}
    if not left:
        raise StageError("There is nothing to choose for: no weight of at least 16 KiB that is not excluded.")
    return left


def _count(units: Mapping[str, Unit]) -> int:
    """Of the numbers in them."""
    return sum(math.prod(unit.shape) for unit in units.values())


def _allocated(
    table: Table, units: Mapping[str, Unit], parent: Artifact, config: MixedConfig
) -> dict[str, FormatChoice]:
    """The choice of each unit within the budget; raises :class:`StageError` in the budget's own unit."""

    def size(_: str, choice: FormatChoice) -> int:
        return choice.size

    if config.max_loss is not None:
        return _within_loss(table, size, config.max_loss, config.choices)
    if config.max_mb is not None:
        what, of = f"max_mb = {config.max_mb:g}", 1e6
        nodes = NODES_OF_GRIDS if any(each.startswith("higgs") for each in config.choices) else NODES
        fixed = parent.size_bytes - 4 * _count(units) + nodes * len(units)
        budget = 1e6 * config.max_mb - fixed
    else:
        what, of, fixed = f"average_bits = {config.average_bits:g}", _count(units) / 8, 0
        budget = (config.average_bits or 0.0) * of
    try:
        return within_bytes(table, size, int(budget))
    except Infeasible as exc:
        least = math.ceil(1e3 * (exc.least + fixed) / of) / 1e3
        raise StageError(
            f"{what} cannot be kept: with choices {', '.join(config.choices)} the least is {least:g}. Allow a larger "
            "budget, choices of fewer bits, or larger blocks."
        ) from exc


def _within_loss(
    table: Table, size: Callable[[str, FormatChoice], int], budget: float, choices: Sequence[str]
) -> dict[str, FormatChoice]:
    try:
        return within_loss(table, size, budget)
    except Infeasible as exc:
        raise StageError(
            f"max_loss = {budget:g} cannot be kept: with choices {', '.join(choices)} the least is "
            f"{1.001 * exc.least:.3e}. Allow a larger loss, or choices of more bits."
        ) from exc


def _put(
    graph: onnx.GraphProto, units: Mapping[str, Unit], formats: Mapping[str, WeightFormat], folder: Path
) -> dict[str, int]:
    """Put each unit's weight into its format; returns the bytes of products and embeddings, before and after."""
    from optimizer.quantize.onnx_4bit import bytes_by_kind
    from optimizer.quantize.onnx_graph import stored

    whole, saved = {}, {}
    for kind, are_tables in (("product", False), ("embedding", True)):
        chosen = {unit.weight: formats[name] for name, unit in units.items() if unit.is_table == are_tables}
        whole[kind], before = stored(graph, chosen), stored(graph)
        for weight, form in chosen.items():
            form.put(graph, weight, folder)
        saved[kind] = before - stored(graph)
    return bytes_by_kind(whole, saved)
