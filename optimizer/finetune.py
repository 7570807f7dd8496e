"""Fine-tune a checkpoint as a classifier, with the Hugging Face Trainer; see :mod:`optimizer.training.trainer`."""

from __future__ import annotations

import time

from transformers.trainer_utils import set_seed

from bantam.artifact import Artifact
from optimizer.config import FinetuneConfig
from optimizer.data.sample import draw
from optimizer.stage import RunContext
from optimizer.training.classifier import encode, load_checkpoint, set_up, write
from optimizer.training.memory import Attempt, within_memory
from optimizer.training.trainer import RepeatableTrainer, metrics, train, trained

REVISION = 2
"""Raised when the same config gives another model; what was trained by an older one is then trained again."""


def run(parent: Artifact | None, config: FinetuneConfig, context: RunContext) -> Artifact:
    """Train on the train split, keep the weights that were best on dev, write a Hugging Face folder.

    When memory runs out, the batch is halved and two are accumulated; training goes on from the last checkpoint. Raises
    :class:`ModelError` if the checkpoint cannot be loaded as a classifier, and :class:`StageError` if memory does not
    suffice even for a batch of one text.
    """
    started = time.monotonic()

    def attempt_training(attempt: Attempt) -> RepeatableTrainer:
        set_seed(config.seed)
        tokenizer, model = load_checkpoint(context.checkpoint, context.data, log=context.log)
        set_up(model, config)
        rows, dev = (
            encode(tokenizer, model, draw(context.data.splits[part], count, config.seed), config.max_length)
            for part, count in (("train", config.rows), ("dev", config.dev_rows))
        )
        return train(model, tokenizer, rows, dev, config, context, attempt, doing="fine-tuning", kind=RepeatableTrainer)

    trainer = within_memory(attempt_training, config, context)
    return write(
        *trained(trainer),
        config,
        context,
        longest=config.max_length,
        metrics=metrics(trainer, time.monotonic() - started),
        random_weights=context.checkpoint.random_weights,
    )
