"""Weight-only int8 in PyTorch by torchao: a scale an output channel, products in fp32."""

from __future__ import annotations

from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize import checkpoint
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

# Alone and among others, a logit differs by up to 1e-6 (MiniLM): texts may be batched.
COMPUTE = Compute(weights=Numbers("int", 8, "symmetric", "channel"))


class TorchaoInt8Config(QuantizeConfig):
    """Linear layers in int8, made fp32 as they are multiplied."""

    method: Literal["torchao-int8"] = "torchao-int8"


def write(parent: Artifact, config: TorchaoInt8Config, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads through torchao; needs no calibration."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return checkpoint.write(
        parent,
        context,
        "torchao",
        COMPUTE,
        lambda kept: TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False), modules_to_not_convert=kept),
    )


METHOD = Method(TorchaoInt8Config, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
