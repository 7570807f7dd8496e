"""Fine-tune a checkpoint as a classifier, with the Hugging Face Trainer.

What is added to the Trainer: an order of the rows that depends on seed and epoch only, so that a run which was killed and
resumed gives the same weights as one which was not; a smaller batch with accumulation when memory runs out; and dev
macro-F1 at thresholds tuned on dev, so that early stopping looks at what the report will show.
"""

from __future__ import annotations

import gc
import inspect
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Sampler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers import logging as transformers_logging
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import set_seed

from optimizer.artifact import Artifact, Manifest, Signature, seal
from optimizer.data import Dataset, Split
from optimizer.errors import ModelError, StageError
from optimizer.evaluate import quality, tune_thresholds
from optimizer.recipe import FinetuneConfig
from optimizer.stage import RunContext

SMALLEST_BATCH = 1


def run(parent: Artifact | None, config: FinetuneConfig, context: RunContext) -> Artifact:
    """Train on the train split, keep the weights that were best on dev, write a Hugging Face folder.

    Raises :class:`ModelError` if the checkpoint cannot be loaded as a classifier, and :class:`StageError` if memory does not
    suffice even for a batch of one text.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # "Missing keys: classifier.weight" is expected: the head is new.
    logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
    started = time.monotonic()
    config = config.model_copy(update={"max_length": _max_length(context, config)})
    data = context.data
    train_split = _draw(data.splits["train"], config.rows, config.seed)
    dev_split = _draw(data.splits["dev"], config.dev_rows, config.seed)
    batch, accumulation = config.batch_size, 1
    while True:
        set_seed(config.seed)
        tokenizer, model = _load(context, data, config)
        collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=None)
        trainer = _RepeatableTrainer(
            model=model,
            args=_arguments(config, context, len(train_split.texts), batch, accumulation),
            train_dataset=_encode(tokenizer, train_split, config.max_length),
            eval_dataset=_encode(tokenizer, dev_split, config.max_length),
            data_collator=collate,
            compute_metrics=_dev_metrics,
            callbacks=[EarlyStoppingCallback(config.patience), _ProgressBar()],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(context.scratch))
            break
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as exc:
            if not _is_out_of_memory(exc):
                raise
            if batch <= SMALLEST_BATCH:
                raise StageError(
                    "Out of memory with a batch of one text. Expected room for the model and one text of "
                    f"{config.max_length} tokens: lower max_length in the recipe, or use a smaller model."
                ) from exc
            batch, accumulation = batch // 2, accumulation * 2
            context.say(f"out of memory: going on with batches of {batch}, {accumulation} accumulated")
            del trainer, model
            gc.collect()
            torch.cuda.empty_cache()
    return _write(trainer, tokenizer, config, context, seconds=time.monotonic() - started)


class _GroupedByLength(Sampler[int]):
    """Rows in random batches of like lengths; the order depends on seed and epoch alone."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))

    def __len__(self) -> int:
        return len(self.lengths)


class _RepeatableTrainer(Trainer):  # type: ignore[misc]
    """The Trainer with a sampler that a resumed run can repeat (its own draws from the global generator)."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        effective = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _GroupedByLength([len(row["input_ids"]) for row in rows], effective, self.args.seed)


class _ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Steps done, time left, loss and dev macro-F1 on one line."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("  fine-tuning"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}  dev macro-F1 {task.fields[dev]}"),
        )
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, at the step resumed from."""
        self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, loss="-", dev="-")
        self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the newest loss and dev metric."""
        shown = {"loss": "loss", "eval_macro_f1": "dev"}
        fields = {shown[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in shown}
        self.progress.update(self.task, **fields)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the last state on the screen."""
        self.progress.stop()


def _arguments(config: FinetuneConfig, context: RunContext, rows: int, batch: int, accumulation: int) -> TrainingArguments:
    steps_per_epoch = max(1, -(-rows // (batch * accumulation)))
    steps = max(1, round(steps_per_epoch * config.epochs))
    every = max(1, steps_per_epoch // config.evaluations_per_epoch)
    return TrainingArguments(
        output_dir=str(context.scratch),
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        per_device_eval_batch_size=batch,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        optim="adamw_torch_fused",
        bf16=use_bf16(config.precision, context.device),
        use_cpu=context.device == "cpu",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        greater_is_better=True,
        logging_steps=max(1, min(20, every)),
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_num_workers=0,
    )


def use_bf16(precision: str, device: str) -> bool:
    """Whether to train under bf16 autocast: as asked for, or with ``auto`` where the hardware computes it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _load(context: RunContext, data: Dataset, config: FinetuneConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    folder = context.checkpoint.folder
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
    if config.freeze_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    return tokenizer, model


def _give_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Decoders classify from the last token that is no padding: they need a padding token, and it to the right."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.config.pad_token_id = tokenizer.pad_token_id


def _max_length(context: RunContext, config: FinetuneConfig) -> int:
    """The recipe's longest input, or the longest that the model has positions for."""
    positions = json.loads((context.checkpoint.folder / "config.json").read_text()).get("max_position_embeddings")
    return min(config.max_length, positions) if positions else config.max_length


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
        {**{name: encoded[name][i] for name in encoded}, "labels": targets[i].tolist()}
        for i in range(len(split.texts))
    ]


def _dev_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, targets = torch.from_numpy(prediction.predictions), np.asarray(prediction.label_ids)
    if targets.ndim == 2:
        scores = logits.sigmoid().numpy()
        return quality(scores, targets, tune_thresholds(scores, targets))
    return quality(logits.softmax(-1).numpy(), targets, None)


def _last_checkpoint(scratch: Path) -> str | None:
    """The newest checkpoint that was written to its end: the Trainer writes trainer_state.json last."""
    whole = []
    for folder in scratch.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        whole.append(folder)
    newest = max(whole, key=lambda folder: int(folder.name.removeprefix("checkpoint-")), default=None)
    return str(newest) if newest else None


def _is_out_of_memory(exc: BaseException) -> bool:
    """CUDA has its own exception; PyTorch's CPU allocator raises a plain RuntimeError, known by its text alone."""
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(exc)


def _write(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, config: FinetuneConfig, context: RunContext, *, seconds: float) -> Artifact:
    model = trainer.model
    model.save_pretrained(context.folder)
    # Batches of texts would otherwise be padded as the checkpoint's author liked, in the product and in every later stage.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.model_max_length = config.max_length
    tokenizer.save_pretrained(context.folder)
    files = sorted(path.name for path in context.folder.iterdir())
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
            max_length=config.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
        ),
        ships=tuple(name for name in files if name.endswith((".safetensors", ".json", ".txt", ".model"))),
        lineage=({"name": config.name, "stage": config.stage, "key": context.key, "config": config.model_dump(mode="json")},),
        metrics={
            "train_s": seconds,
            "rows": len(trainer.train_dataset),
            "steps": trainer.state.global_step,
            "batch_size": trainer.args.per_device_train_batch_size,
            "bf16": trainer.args.bf16,
            "dev": {k.removeprefix("eval_"): v for k, v in _best(trainer).items()},
            "log": [entry for entry in trainer.state.log_history if "loss" in entry or "eval_macro_f1" in entry],
        },
        details={"parameters": model.num_parameters()},
        random_weights=context.checkpoint.random_weights,
    )
    return Artifact(context.folder, seal(context.folder, manifest))


def _forward_inputs(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _best(trainer: Trainer) -> dict[str, float]:
    evaluations = [entry for entry in trainer.state.log_history if "eval_macro_f1" in entry]
    return max(evaluations, key=lambda entry: entry["eval_macro_f1"], default={})
