"""Fewer heads and feed-forward neurons, and a smaller hidden size where heads are tied to it: smaller matrices."""

from __future__ import annotations

import random
import time
from typing import Any

import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Artifact
from optimizer.architecture import anatomy
from optimizer.config import WidthConfig
from optimizer.data.sample import draw
from optimizer.prune.importance import Batch, Gradients, drawn_labels, fisher, gradients, taylor
from optimizer.prune.search import Space, select
from optimizer.prune.tuning import tune
from optimizer.stage import RunContext
from optimizer.surgery import keep_width
from optimizer.surgery.importance import Importance, by_magnitude
from optimizer.training.classifier import encode, load_artifact, write

BATCH = 32
TUNING_BATCHES = 8
"""256 texts: some 5,000 tokens times the hidden size are equations enough for some thousand scales a layer."""


def run(parent: Artifact, config: WidthConfig, context: RunContext) -> Artifact:
    """Cut ``parent`` to ``config.ratio`` of its FLOPs, where it costs the least importance.

    The manifest's details have the sizes of a layer (``heads``, ``neurons``, ``hidden``), ``flops_ratio`` and how many
    parts were ``tuned``. Raises :class:`ModelError` for an architecture that cannot be taken apart, :class:`StageError`
    for a ratio that cannot be reached.
    """
    started = time.monotonic()
    tokenizer, model = load_artifact(parent.folder)
    model.to(context.device)  # type: ignore[arg-type]  # a string is a device to PyTorch
    space = Space(anatomy(model), keep_hidden=config.keep_hidden)
    cost = space.flops(config.tokens)
    batches = calibration(tokenizer, model, parent, config, context)
    importance, found = measure(model, batches, config.importance)
    chosen = select(
        space,
        importance,
        cost,
        config.ratio,
        gradients=found,
        same_heads=hasattr(model.config, "relative_attention_num_buckets"),
    )
    size = chosen.size
    pruned = keep_width(model, heads=chosen.heads, neurons=chosen.neurons, hidden=chosen.hidden)
    tunable = config.tune and size.hidden == space.full.hidden
    tuned = tune(pruned, model, batches[:TUNING_BATCHES]) if tunable else 0
    reached = round(cost(size) / cost(space.full), 4)
    details: dict[str, Any] = {"heads": size.heads, "neurons": size.neurons, "hidden": size.hidden, "tuned": tuned}
    context.log(
        f"{config.name}: {size.heads} of {space.full.heads} heads, {size.neurons} of {space.full.neurons} neurons, "
        f"{size.hidden} of {space.full.hidden} hidden dimensions; {reached:.0%} of the FLOPs"
    )
    return write(
        pruned,
        tokenizer,
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details={**details, "importance": config.importance, "flops_ratio": reached},
        metrics={"prune_s": round(time.monotonic() - started, 1)},
        random_weights=parent.manifest.random_weights,
    )


def calibration(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    parent: Artifact,
    config: WidthConfig,
    context: RunContext,
) -> list[Batch]:
    """``config.calibration_rows`` training texts in batches of like lengths, the batches in random order.

    Labels that the data lack are drawn from what the model says.
    """
    split = draw(context.data.splits["train"], config.calibration_rows, config.seed)
    rows = encode(tokenizer, model, split, parent.manifest.signature.max_length)
    rows.sort(key=lambda row: len(row["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    batches = [collate(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    random.Random(config.seed).shuffle(batches)
    found: list[Batch] = [{name: tensor.to(model.device) for name, tensor in batch.items()} for batch in batches]
    if not context.data.labelled:
        generator = torch.Generator(model.device).manual_seed(config.seed)
        found = [{**batch, "labels": drawn_labels(model, batch, context.data.task, generator)} for batch in found]
    return found


def measure(model: PreTrainedModel, batches: list[Batch], method: str) -> tuple[Importance, Gradients | None]:
    """Importance by ``method``; for fisher also the gradients, from which the choice inside a layer is rearranged."""
    if method == "magnitude":
        return by_magnitude(model), None
    found = gradients(model, batches)
    return (fisher(found), found) if method == "fisher" else (taylor(found), None)
