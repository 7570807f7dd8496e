"""A checkpoint's trained classifier as it is, the baseline of who has one: head, labels and task are its own."""

from __future__ import annotations

import sys

from bantam.artifact import Artifact
from optimizer.config import AdoptConfig
from optimizer.stage import RunContext
from optimizer.training.classifier import load_checkpoint, max_length, write


def run(parent: Artifact | None, config: AdoptConfig, context: RunContext) -> Artifact:
    """Write the checkpoint as a Hugging Face folder; no weight changes.

    ``context.data`` is read by the run's own classifier (:meth:`Dataset.read_by`); the outputs of another checkpoint
    are put in the same order. Random weights get a random head. Raises :class:`ModelError` if any other checkpoint has
    no trained head for these labels.
    """
    random = context.checkpoint.random_weights
    tokenizer, model = load_checkpoint(context.checkpoint, context.data, new_head=random, log=context.log)
    if max_length(tokenizer, model, sys.maxsize) > config.max_length:
        context.log(
            f"{config.name}: longer texts are cut at {config.max_length:,} tokens, as the recipe's max_length says; "
            "the classifier itself reads more"
        )
    return write(
        model,
        tokenizer,
        config,
        context,
        longest=config.max_length,
        details={"trained": False},
        random_weights=random,
    )
