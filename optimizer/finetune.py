"""Fine-tune a checkpoint as a classifier, with the Hugging Face Trainer; see :mod:`optimizer.finetune.trainer`."""

from __future__ import annotations

import gc
import inspect
import logging
import time
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)
from transformers import logging as transformers_logging
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import set_seed

from optimizer.artifact import Artifact, Manifest, Signature, seal
from optimizer.config import FinetuneConfig
from optimizer.data import Split
from optimizer.errors import ModelError, StageError
from optimizer.finetune.trainer import ProgressBar, RepeatableTrainer, arguments, dev_metrics, last_checkpoint
from optimizer.stage import RunContext


def run(parent: Artifact | None, config: FinetuneConfig, context: RunContext) -> Artifact:
    """Train on the train split, keep the weights that were best on dev, write a Hugging Face folder.

    When memory runs out, the batch is halved and two are accumulated; training goes on from the last checkpoint. Raises
    :class:`ModelError` if the checkpoint cannot be loaded as a classifier, and :class:`StageError` if memory does not
    suffice even for a batch of one text.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # "Missing keys: classifier.weight" is expected: the head is new.
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    started = time.monotonic()
    batch, accumulation = config.batch_size, 1
    while True:
        try:
            trainer = _train(config, context, batch, accumulation)
            return _write(trainer, config, context, seconds=time.monotonic() - started)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
            if not _is_out_of_memory(exc):
                raise
            if batch == 1:
                raise StageError(
                    "Out of memory with a batch of one text. Expected room for the model, its gradients and one text "
                    f"of up to {config.max_length} tokens: lower max_length in the recipe, or take a smaller model."
                ) from exc
        batch, accumulation = batch // 2, accumulation * 2
        context.say(f"out of memory: going on with batches of {batch}, {accumulation} accumulated")
        gc.collect()
        torch.cuda.empty_cache()


def _train(config: FinetuneConfig, context: RunContext, batch: int, accumulation: int) -> Trainer:
    set_seed(config.seed)
    tokenizer, model = _load(context, config)
    max_length = _max_length(tokenizer, model, config.max_length)
    train, dev = (
        _encode(tokenizer, _draw(context.data.splits[part], rows, config.seed), max_length)
        for part, rows in (("train", config.rows), ("dev", config.dev_rows))
    )
    trainer = RepeatableTrainer(
        model=model,
        args=arguments(config, context, len(train), batch, accumulation),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=dev_metrics,
        callbacks=[EarlyStoppingCallback(config.patience), ProgressBar()],
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(context.scratch))
    return trainer


def _load(context: RunContext, config: FinetuneConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    folder, data = context.checkpoint.folder, context.data
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            num_labels=len(data.labels),
            problem_type=f"{data.task}_classification",
            id2label=dict(enumerate(data.labels)),
            label2id={label: i for i, label in enumerate(data.labels)},
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(
            f"{context.checkpoint.name} cannot be loaded as a classifier: {exc}\n"
            "Expected a folder that AutoModelForSequenceClassification.from_pretrained reads."
        ) from exc
    _give_pad_token(tokenizer, model)
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = config.dropout
    if config.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return tokenizer, model


def _give_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Decoders classify from the last token that is no padding: they need a padding token, and it to the right."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.config.pad_token_id = tokenizer.pad_token_id


def _max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, wanted: int) -> int:
    """The recipe's longest input, or the longest that the model and (RoBERTa: two fewer) its tokenizer know."""
    positions = getattr(model.config, "max_position_embeddings", None) or wanted
    return int(min(wanted, positions, tokenizer.model_max_length))


def _draw(split: Split, rows: int | None, seed: int) -> Split:
    """A random part of a split, in the split's order."""
    if rows is None or rows >= len(split.texts):
        return split
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.texts), rows, replace=False))
    return Split(tuple(split.texts[i] for i in chosen), split.targets[chosen])


def _encode(tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int) -> list[dict[str, Any]]:
    encoded = tokenizer(list(split.texts), truncation=True, max_length=max_length)
    targets = split.targets.astype(np.float32) if split.targets.ndim == 2 else split.targets
    return [
        {**{name: encoded[name][i] for name in encoded}, "labels": targets[i].tolist()} for i in range(len(split.texts))
    ]


def _is_out_of_memory(exc: BaseException) -> bool:
    """CUDA has its own exception; PyTorch's CPU allocator raises a plain RuntimeError, known by its text alone."""
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(exc)


def _write(trainer: Trainer, config: FinetuneConfig, context: RunContext, *, seconds: float) -> Artifact:
    # The Trainer's own types admit image models and processors.
    model: Any = trainer.model
    tokenizer: Any = trainer.processing_class
    model.save_pretrained(context.folder)
    tokenizer.model_max_length = max_length = _max_length(tokenizer, model, config.max_length)
    # The checkpoint's author may have padded all texts to one length; what is served must not.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(context.folder)
    manifest = Manifest(
        name=config.name,
        stage=config.stage,
        key=context.key,
        format="pytorch",
        precision="fp32",
        signature=Signature(
            task=context.data.task,
            labels=context.data.labels,
            inputs=tuple(name for name in tokenizer.model_input_names if name in _forward_inputs(model)),
            max_length=max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
        ),
        ships=tuple(sorted(path.name for path in context.folder.iterdir())),
        lineage=context.lineage(config),
        metrics=_metrics(trainer, seconds),
        details={"parameters": model.num_parameters()},
        random_weights=context.checkpoint.random_weights,
    )
    return Artifact(context.folder, seal(context.folder, manifest))


def _metrics(trainer: Trainer, seconds: float) -> dict[str, Any]:
    log = trainer.state.log_history
    evaluations = [entry for entry in log if "eval_macro_f1" in entry]
    best = max(evaluations, key=lambda entry: entry["eval_macro_f1"], default={})
    return {
        "train_s": round(seconds, 1),
        "rows": len(trainer.train_dataset),  # type: ignore[arg-type]  # a list of ours
        "steps": trainer.state.global_step,
        "batch_size": trainer.args.per_device_train_batch_size,
        "bf16": trainer.args.bf16,
        "dev": {name.removeprefix("eval_"): value for name, value in best.items()},
        "log": [entry for entry in log if "loss" in entry or "eval_macro_f1" in entry],
    }


def _forward_inputs(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)
