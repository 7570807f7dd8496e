"""Fine-tune a checkpoint as a classifier, with the Hugging Face Trainer; see :mod:`optimizer.training.trainer`."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from bantam.artifact import Artifact
from optimizer.config import FinetuneConfig
from optimizer.data.sample import draw
from optimizer.stage import RunContext
from optimizer.training import adapters, galore
from optimizer.training.classifier import encode, load_checkpoint, set_up, write
from optimizer.training.forecast import Figures
from optimizer.training.memory import Attempt, within_memory
from optimizer.training.minutes import within_minutes
from optimizer.training.room import check_room
from optimizer.training.trainer import RepeatableTrainer, metrics, set_seed, train, trained

REVISION = 2
"""Raised when the same config gives another model; what was trained by an older one is then trained again."""
ADAPTER = "adapter"
"""In the folder of a stage whose adapter is kept: the adapter as peft saves it."""
COMPARED = 64
"""Rows of dev on which a model is compared before and after its adapter is merged."""


def run(parent: Artifact | None, config: FinetuneConfig, context: RunContext) -> Artifact:
    """Train on the train split, keep the weights that were best on dev, write a Hugging Face folder.

    When memory runs out, the batch is halved and two are accumulated; training goes on from the last checkpoint. An
    adapter is merged into the model. Raises :class:`UserError` if there is too little memory, disk or time,
    :class:`ModelError` if the checkpoint cannot be loaded as a classifier, and :class:`StageError` if memory does not
    suffice even for a batch of one text.
    """
    started = time.monotonic()
    needs = check_room(config, context)

    def trial(short: FinetuneConfig, aside: RunContext) -> Figures:
        return within_memory(lambda attempt: _train(short, aside, attempt, trial=True), short, aside).figures

    with galore.allowed() if config.optimizer == "galore" else nullcontext():
        config = within_minutes(config, context, trial)
        trainer = within_memory(lambda attempt: _train(config, context, attempt), config, context)
    model, tokenizer = trained(trainer)
    if config.adapter and config.adapter.keep:
        adapters.keep(
            model, context.checkpoint.hub_id or str(context.checkpoint.folder.resolve()), context.folder / ADAPTER
        )
    merged = _merge(trainer) if config.adapter else {}
    return write(
        model,
        tokenizer,
        config,
        context,
        longest=config.max_length,
        metrics={**metrics(trainer, time.monotonic() - started), "needs_mb": asdict(needs), **merged},
        random_weights=context.checkpoint.random_weights,
    )


def _train(config: FinetuneConfig, context: RunContext, attempt: Attempt, *, trial: bool = False) -> RepeatableTrainer:
    set_seed(config.seed)
    in_4_bits = config.adapter is not None and config.adapter.method == "qlora"
    dtype = adapters.loaded_in(config.adapter)
    tokenizer, model = load_checkpoint(context.checkpoint, context.data, dtype=dtype, log=context.log)
    set_up(model, config)
    rows, dev = (
        encode(tokenizer, model, draw(context.data.splits[part], count, config.seed), config.max_length)
        for part, count in (("train", config.rows), ("dev", config.dev_rows))
    )
    settings: dict[str, Any] = {"activation_checkpointing": config.gradient_checkpointing}
    if config.gradient_checkpointing:
        settings["activation_checkpointing_kwargs"] = {"use_reentrant": False}  # frozen embeddings give no gradient
    if config.optimizer == "galore":
        settings |= {"optim": "galore_adamw", "optim_target_modules": galore.targets(model)}
    elif in_4_bits and context.device == "cuda":
        settings["optim"] = "paged_adamw_32bit"
    return train(
        model,
        tokenizer,
        rows,
        dev,
        config,
        context,
        attempt,
        doing="timing the first steps" if trial else "fine-tuning",
        kind=RepeatableTrainer,
        settings=settings,
        callbacks=[galore.ProjectorsFollow()] if config.optimizer == "galore" else [],
        trial=trial,
    )


def _merge(trainer: RepeatableTrainer) -> dict[str, Any]:
    """Merge the adapter; the manifest's figures of it: parameters that were trained, and what merging changed."""
    model, _ = trained(trainer)
    parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # else it computes in bf16
    rows: Any = trainer.eval_dataset
    batches = [trainer.data_collator(rows[start : start + 8]) for start in range(0, min(COMPARED, len(rows)), 8)]
    difference = adapters.merge(model, batches)
    return {"adapter": {"trained_parameters": parameters, "largest_difference": difference}}
