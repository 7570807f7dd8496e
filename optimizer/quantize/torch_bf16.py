"""Weights and sums in bf16 in PyTorch: how decoders are published, and what fewer bits are compared with."""

from __future__ import annotations

from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("bfloat", 16),
    activations=Numbers("bfloat", 16),
    # Sums in bf16 round otherwise for other shapes.
    batch_invariant=False,
)


class Bfloat16Config(QuantizeConfig):
    """All weights in bf16, the classification head's too."""

    method: Literal["torch-bf16"] = "torch-bf16"


def write(parent: Artifact, config: Bfloat16Config, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads; needs no calibration."""
    import torch

    from optimizer.load.model import load_model

    load_model(parent.folder, dtype=torch.bfloat16).save_pretrained(context.folder)
    return Quantized(COMPUTE)


METHOD = Method(Bfloat16Config, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
