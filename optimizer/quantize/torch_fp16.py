"""Weights and sums in fp16 in PyTorch, also compiled: what a model on a GPU is compared with."""

from __future__ import annotations

from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("float", 16),
    activations=Numbers("float", 16),
    # Sums in fp16 round otherwise for other shapes.
    batch_invariant=False,
    devices=("cpu", "cuda"),
)


class Float16Config(QuantizeConfig):
    """All weights in fp16, the classification head's too."""

    method: Literal["torch-fp16"] = "torch-fp16"
    compile: bool = False
    """Run it through torch.compile, once for all shapes."""


def write(parent: Artifact, config: Float16Config, context: RunContext, batches: Batches) -> Quantized:
    """Write a checkpoint that transformers reads; needs no calibration."""
    import torch

    from optimizer.load.model import load_model

    load_model(parent.folder, dtype=torch.float16).save_pretrained(context.folder)
    return Quantized(COMPUTE, {"compile": True} if config.compile else {})


METHOD = Method(Float16Config, accepts=frozenset({"hf"}), makes="hf-quantized", write=write)
