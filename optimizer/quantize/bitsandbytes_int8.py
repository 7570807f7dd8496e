"""LLM.int8() in PyTorch (Dettmers et al. 2022): int8 products, and the activations' outlier features beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize import checkpoint
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("int", 8, "symmetric", "channel"),
    activations=Numbers("int", 8, "symmetric", "row", dynamic=True),
    # A feature is an outlier if it is one anywhere in the batch: a logit moves by up to 0.03 (MiniLM).
    batch_invariant=False,
)


class LlmInt8Config(QuantizeConfig):
    """Linear layers in int8, a scale an output channel; activations in int8, a scale a token."""

    method: Literal["bitsandbytes-int8"] = "bitsandbytes-int8"
    threshold: float = Field(6.0, ge=0)
    """Features of which an activation is at least this large are multiplied in 16 bits; 0: none are."""


def write(parent: Artifact, config: LlmInt8Config, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads through bitsandbytes; needs no calibration."""
    from transformers import BitsAndBytesConfig

    return checkpoint.write(
        parent,
        context,
        "bitsandbytes",
        COMPUTE,
        lambda kept: BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=config.threshold, llm_int8_skip_modules=kept
        ),
    )


METHOD = Method(LlmInt8Config, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
