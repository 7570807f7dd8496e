"""One step of training, to see that there can be others."""

from __future__ import annotations

from collections.abc import Callable

from transformers import DataCollatorWithPadding

from bantam.errors import BantamError, ModelError, reason
from optimizer.catalog import Checkpoint
from optimizer.config import FinetuneConfig, TrainingConfig
from optimizer.data import Dataset
from optimizer.data.sample import draw
from optimizer.training import adapters, galore
from optimizer.training.classifier import encode, load_checkpoint, set_up

ROWS = 8


def take_one_step(checkpoint: Checkpoint, data: Dataset, config: TrainingConfig, log: Callable[[str], None]) -> None:
    """Forward and backward of a few rows of train, on the CPU in fp32; nothing is kept.

    As :mod:`optimizer.finetune` has it are the frozen parts, the adapter, which is merged afterwards, and gradient
    checkpointing; of an optimizer, that there is something for it. Raises :class:`ModelError`, with the architecture's
    name, if the model cannot be trained so, and :class:`ParityError` if its adapter cannot be merged.
    """
    adapter = config.adapter if isinstance(config, FinetuneConfig) else None
    tokenizer, model = load_checkpoint(checkpoint, data, dtype=adapters.loaded_in(adapter), log=log)
    set_up(model, config)
    rows = encode(tokenizer, model, draw(data.splits["train"], ROWS, config.seed), config.max_length)
    batch = DataCollatorWithPadding(tokenizer)(rows)
    try:
        if isinstance(config, FinetuneConfig):
            if config.optimizer == "galore":
                galore.targets(model)
            if config.gradient_checkpointing:
                model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()(**batch).loss.backward()
        if adapter:
            adapters.merge(model, [dict(batch)])
    except (BantamError, MemoryError):
        raise
    except Exception as exc:  # models' own code, which raises anything
        raise ModelError(
            f"{type(model).__name__} cannot be trained: {reason(exc)}.\n"
            "Expected a model that learns from token ids and their mask alone. Choose another model."
        ) from exc
