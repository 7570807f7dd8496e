"""NF4 in PyTorch (QLoRA, Dettmers et al. 2023): blocks of 64 in 16 steps, the normal distribution's quantiles."""

from __future__ import annotations

from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize import checkpoint
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("normal", 4, "symmetric", "block"),
    activations=Numbers("bfloat", 16),
    # Sums in bf16 round otherwise for other shapes: a logit moves by up to 3e-3 (MiniLM).
    batch_invariant=False,
)


class NormalFloatConfig(QuantizeConfig):
    """Linear layers in NF4, computed in bf16: the only numbers that bitsandbytes' kernel for CPUs computes in."""

    method: Literal["bitsandbytes-nf4"] = "bitsandbytes-nf4"
    double: bool = True
    """Quantize the scales too, to 8 bits: 4.13 bits a weight in place of 4.5."""


def write(parent: Artifact, config: NormalFloatConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads through bitsandbytes; needs no calibration."""
    import torch
    from transformers import BitsAndBytesConfig

    return checkpoint.write(
        parent,
        context,
        "bitsandbytes",
        COMPUTE,
        lambda kept: BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=kept,
        ),
    )


METHOD = Method(NormalFloatConfig, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
