"""Weight-only int4 in PyTorch by torchao: groups of weights share a scale, products in fp32.

A value takes a byte on disk and in memory. torchao 0.18 has packed forms for GPUs, and one for CPUs in its prototypes,
which depends on the processor and which safetensors cannot hold.
"""

from __future__ import annotations

from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize import checkpoint
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

# Alone and among others, a logit differs by up to 1e-6 (MiniLM): texts may be batched.
COMPUTE = Compute(weights=Numbers("int", 4, "symmetric", "block"))


class TorchaoInt4Config(QuantizeConfig):
    """Linear layers in int4, made fp32 as they are multiplied."""

    method: Literal["torchao-int4"] = "torchao-int4"
    group_size: Literal[32, 64, 128, 256] = 32
    """How many weights share a scale; layers with inputs that it does not divide stay fp32."""


def write(parent: Artifact, config: TorchaoInt4Config, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads through torchao; needs no calibration."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup
    from transformers import TorchAoConfig

    return checkpoint.write(
        parent,
        context,
        "torchao",
        COMPUTE,
        lambda kept: TorchAoConfig(
            IntxWeightOnlyConfig(
                weight_dtype=torch.int4,  # type: ignore[attr-defined]
                granularity=PerGroup(config.group_size),
            ),
            modules_to_not_convert=kept,
        ),
        group_size=config.group_size,
    )


METHOD = Method(TorchaoInt4Config, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
