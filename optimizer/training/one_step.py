"""One step of training, to see that there can be others."""

from __future__ import annotations

from collections.abc import Callable

from transformers import DataCollatorWithPadding

from bantam.errors import BantamError, ModelError, reason
from optimizer.catalog import Checkpoint
from optimizer.config import TrainingConfig
from optimizer.data import Dataset
from optimizer.data.sample import draw
from optimizer.training.classifier import encode, load_checkpoint, set_up

ROWS = 8


def take_one_step(checkpoint: Checkpoint, data: Dataset, config: TrainingConfig, log: Callable[[str], None]) -> None:
    """Forward and backward of a few rows of train, as :mod:`optimizer.finetune` does it; nothing is kept.

    Raises :class:`ModelError`, with the architecture's name, if the model cannot be trained so.
    """
    tokenizer, model = load_checkpoint(checkpoint, data, log=log)
    set_up(model, config)
    rows = encode(tokenizer, model, draw(data.splits["train"], ROWS, config.seed), config.max_length)
    try:
        model.train()(**DataCollatorWithPadding(tokenizer)(rows)).loss.backward()
    except (BantamError, MemoryError):
        raise
    except Exception as exc:  # models' own code, which raises anything
        raise ModelError(
            f"{type(model).__name__} cannot be trained: {reason(exc)}.\n"
            "Expected a model that learns from token ids and their mask alone. Choose another model."
        ) from exc
