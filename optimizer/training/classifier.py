"""Checkpoints as classifiers: reading them, giving them rows, writing them as artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Artifact, Compute, Manifest, Signature, seal
from optimizer.catalog import Checkpoint
from optimizer.config import AnyStage, FinetuneConfig, TrainingConfig
from optimizer.data import Dataset, Split
from optimizer.load.model import forward_inputs, load_model
from optimizer.load.tokenizer import columns, fit_to, load_tokenizer
from optimizer.stage import RunContext
from optimizer.training import adapters


def load_checkpoint(
    checkpoint: Checkpoint,
    data: Dataset,
    *,
    dtype: torch.dtype = torch.float32,
    new_head: bool = True,
    log: Callable[[str], None] = print,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A checkpoint's tokenizer and model in ``dtype``, with a head for the labels of ``data``, in their order.

    A head that does not fit is replaced by a new one with random weights, if ``new_head``. Raises :class:`ModelError`
    if not, or if it cannot be loaded as a classifier.
    """
    tokenizer = load_tokenizer(checkpoint.folder)
    model = load_model(checkpoint.folder, dtype=dtype, labels=data.labels, task=data.task, new_head=new_head, log=log)
    fit_to(tokenizer, model, checkpoint.folder, log)
    return tokenizer, model


def load_artifact(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model, fp32, of an artifact in layout ``hf``."""
    return load_tokenizer(folder), load_model(folder)


def set_up(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Dropout, frozen parts and an adapter as the config says.

    Raises :class:`ModelError` if the model has none of the layers that the adapter is for.
    """
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = config.dropout
    cast(torch.nn.Embedding, model.get_input_embeddings()).requires_grad_(not config.freeze_embeddings)
    if isinstance(config, FinetuneConfig) and config.adapter:
        adapters.put_into(model, config.adapter)


def encode(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, split: Split, longest: int
) -> list[dict[str, Any]]:
    """One row a text: the model's inputs at the text's real length, and ``labels``."""
    length = max_length(tokenizer, model, longest)
    encoded = tokenizer(*columns(split.texts), truncation=True, max_length=length)
    targets = split.targets.astype(np.float32) if split.targets.ndim == 2 else split.targets
    inputs = [name for name in encoded if name in forward_inputs(model)]
    return [
        {**{name: encoded[name][i] for name in inputs}, "labels": targets[i].tolist()} for i in range(len(split.texts))
    ]


def max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, wanted: int) -> int:
    """The recipe's longest input, or the longest that the model and its tokenizer know, in tokens.

    Where positions are counted from the padding's id on (RoBERTa), the table has as many rows that no token gets.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    limit = positions if isinstance(positions, int) and positions > 0 else wanted  # XLNet says -1: none
    tables = [
        part for name, part in model.named_modules() if "position" in name and isinstance(part, torch.nn.Embedding)
    ]
    limits = [part.num_embeddings - part.padding_idx - 1 for part in tables if part.padding_idx is not None]
    return int(min(wanted, limit, tokenizer.model_max_length, *limits))


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: AnyStage,
    context: RunContext,
    *,
    longest: int,
    parent: Artifact | None = None,
    details: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    random_weights: bool = False,
) -> Artifact:
    """Write a Hugging Face folder with its manifest into ``context.folder``; inputs are cut at ``longest`` tokens."""
    model.save_pretrained(context.folder)
    fast: Any = tokenizer
    fast.model_max_length = length = max_length(tokenizer, model, longest)
    # The checkpoint's author may have padded all texts to one length; what is served must not.
    fast.backend_tokenizer.no_padding()
    fast.backend_tokenizer.no_truncation()
    fast.save_pretrained(context.folder)
    inputs = tuple(name for name in fast.model_input_names if name in forward_inputs(model))
    manifest = Manifest(
        stage=config.stage,
        key=context.key,
        layout="hf",
        signature=Signature(
            task=context.data.task,
            labels=context.data.labels,
            inputs=inputs,
            max_length=length,
            pad_token_id=fast.pad_token_id or 0,
            pair=context.data.pair,
            truncation_side=fast.truncation_side,
        ),
        # Without an attention mask (FNet), padding changes what a model computes.
        compute=Compute(batch_invariant="attention_mask" in inputs),
        deployable=tuple(sorted(path.name for path in context.folder.iterdir() if path.is_file())),
        lineage=context.lineage(config, parent),
        metrics=metrics or {},
        details={"parameters": model.num_parameters(), **(details or {})},
        random_weights=random_weights,
        licences=context.licences,
        quantization=context.quantization,
    )
    return Artifact(context.folder, seal(context.folder, manifest))
