"""The Hugging Face Trainer, set up for repeatable runs.

What is added to it: an order of the rows that depends on seed and epoch only, so that a run which was killed and
resumed ends in the same weights as one which was not; and dev macro-F1 at thresholds tuned on dev, so that early
stopping looks at what the report will show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from optimizer.config import FinetuneConfig
from optimizer.evaluate import quality, tune_thresholds
from optimizer.stage import RunContext


class GroupedByLength(Sampler[int]):
    """Rows in random batches of like lengths; the order depends on seed and epoch alone."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        rows = get_length_grouped_indices(self.lengths, self.batch, generator=generator)
        # Transformers sorts each group of 50 batches by length, and labels depend on length: mixed, the quick
        # profile reaches a dev macro-F1 of 0.524 on GoEmotions, sorted 0.484. A smaller last batch stays last.
        batches = [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]
        order = [*torch.randperm(len(batches) - 1, generator=generator).tolist(), len(batches) - 1]
        return iter([row for number in order for row in batches[number]])

    def __len__(self) -> int:
        return len(self.lengths)


class RepeatableTrainer(Trainer):
    """The Trainer with a sampler that a resumed run can repeat (its own draws from the global generator)."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        effective = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return GroupedByLength([len(row["input_ids"]) for row in rows], effective, self.args.seed)


class ProgressBar(TrainerCallback):
    """Steps done, time left, loss and dev macro-F1 on one line."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("  fine-tuning"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}  dev macro-F1 {task.fields[dev]}"),
            console=Console(stderr=True),
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
        fields: dict[str, Any] = {shown[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in shown}
        self.progress.update(self.task, **fields)
        if "dev" in fields and not self.progress.console.is_terminal:
            # A log file shows no bar: a line for each evaluation instead.
            self.progress.console.print(
                f"  fine-tuning: step {state.global_step} of {state.max_steps}, dev macro-F1 {fields['dev']}"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the last state on the screen."""
        self.progress.stop()


def arguments(
    config: FinetuneConfig, context: RunContext, rows: int, batch: int, accumulation: int
) -> TrainingArguments:
    """The Trainer's settings for ``rows`` rows in batches of ``batch``, of which ``accumulation`` make a step."""
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


def dev_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Quality on dev at the thresholds that are best there: the most that this model can show."""
    logits, targets = torch.from_numpy(prediction.predictions), np.asarray(prediction.label_ids)
    if targets.ndim == 2:
        scores = logits.sigmoid().numpy()
        return quality(scores, targets, tune_thresholds(scores, targets))
    return quality(logits.softmax(-1).numpy(), targets, None)


def last_checkpoint(scratch: Path) -> str | None:
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
