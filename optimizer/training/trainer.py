"""The Hugging Face Trainer, set up for repeatable runs.

What is added to it: an order of the rows that depends on seed and epoch only, so that a run which was killed and
resumed ends in the same weights as one which was not; and on dev what the report will show, so that early stopping
looks at it: macro-F1 at thresholds tuned on dev, Spearman's correlation of a regression, agreement with the teacher
where nobody knows what is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import Sampler
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import set_seed as set_seed
from transformers.utils import SAFE_WEIGHTS_NAME

from optimizer import distributed
from optimizer.config import TrainingConfig
from optimizer.data import Dataset
from optimizer.evaluate import UNTUNED, correlation_of, quality, tune_thresholds
from optimizer.stage import RunContext
from optimizer.training.adapters import has_adapter
from optimizer.training.attention import attention_in_fp32
from optimizer.training.forecast import Figures, Forecast
from optimizer.training.memory import Attempt
from optimizer.training.progress import ProgressBar


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

    figures: Figures
    """What it was foreseen to take, and took."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # The loss is a mean over the rows of a batch, and so are those of transformers' classifiers, which do not look
        # at the number of items: without this, two processes or two accumulated batches would give twice the loss.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        effective = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return GroupedByLength([len(row["input_ids"]) for row in rows], effective, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A checkpoint: of a model with an adapter what is trained alone, all else being as the checkpoint began."""
        model = cast(PreTrainedModel, self.model)
        if not has_adapter(model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            parameters = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}
            save_file(parameters, folder / SAFE_WEIGHTS_NAME)


Kind = TypeVar("Kind", bound=RepeatableTrainer)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    dev: list[dict[str, Any]],
    config: TrainingConfig,
    context: RunContext,
    attempt: Attempt,
    *,
    doing: str,
    kind: type[Kind],
    settings: Mapping[str, Any] = MappingProxyType({}),
    callbacks: Sequence[TrainerCallback] = (),
    trial: bool = False,
    **more: Any,
) -> Kind:
    """Train ``model`` on encoded rows, from the last checkpoint in ``context.scratch`` on; keep its best weights.

    ``doing`` names the work on the progress bar; ``settings`` and ``callbacks`` are the Trainer's beside those that all
    trainings have; ``more`` goes to the trainer of this ``kind``. A ``trial`` ends when the first steps are timed.
    Raises :class:`UserError` if the first steps show that the time or memory that there is will not do.
    """
    trainer = kind(
        model=model,
        args=arguments(config, context, len(rows), attempt, settings),
        train_dataset=rows,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=partial(dev_metrics, data=context.data),
        # Encoder-decoders and models with a memory give hidden states too, of all dev texts at once.
        preprocess_logits_for_metrics=lambda outputs, _: outputs[0] if isinstance(outputs, tuple) else outputs,
        callbacks=[EarlyStoppingCallback(config.patience), ProgressBar(doing, best_by(context.data)), *callbacks],
        processing_class=tokenizer,
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    forecast = Forecast(trainer, context, doing, trial=trial)
    trainer.figures = forecast.figures
    trainer.add_callback(forecast)
    in_fp32 = attention_in_fp32(model) if trainer.args.bf16 and trainer.args.use_cpu else nullcontext()
    with forecast.memory, in_fp32:
        trainer.train(resume_from_checkpoint=last_checkpoint(context.scratch))
    # The main process removes the checkpoints, out of which the others may still be loading the best one.
    distributed.wait(context.device)
    return trainer


def trained(trainer: Trainer) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; the Trainer's own types admit image models and processors."""
    return cast(PreTrainedModel, trainer.model), cast(PreTrainedTokenizerBase, trainer.processing_class)


def arguments(
    config: TrainingConfig, context: RunContext, rows: int, attempt: Attempt, settings: Mapping[str, Any]
) -> TrainingArguments:
    """The Trainer's settings for ``rows`` rows, and further ones."""
    batch, accumulation = attempt.batch, attempt.accumulation
    steps_per_epoch = max(1, -(-rows // (batch * accumulation * distributed.count())))
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
        bf16=use_bf16(config.precision, context.device),
        use_cpu=context.device == "cpu",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=best_by(context.data),
        greater_is_better=True,
        logging_steps=max(1, min(20, every)),
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_num_workers=0,
        # All of them have gradients, those of a distillation's projections from outside of the model's forward.
        ddp_find_unused_parameters=False,
        # Rows hold what the model takes, and what a trainer of ours adds for itself.
        remove_unused_columns=False,
        label_names=["labels"],  # else found in the signature of forward, where some classifiers have **kwargs
        **{"optim": "adamw_torch_fused", **settings},
    )


def use_bf16(precision: str, device: str) -> bool:
    """Whether to train under bf16 autocast: as asked for, or with ``auto`` where the hardware computes it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def best_by(data: Dataset) -> str:
    """Which of :func:`dev_metrics` is the one to be high."""
    return "spearman" if data.task == "regression" else "macro_f1" if data.labelled else "agreement"


def dev_metrics(prediction: EvalPrediction, data: Dataset) -> dict[str, float]:
    """Quality on dev at the thresholds that are best there: the most that this model can show.

    Without labels the targets are what the teacher decides at thresholds that nobody has tuned, and so decides this
    model.
    """
    logits, targets = torch.from_numpy(prediction.predictions), np.asarray(prediction.label_ids)
    if data.task == "regression":
        return correlation_of(logits.numpy(), targets[:, None])
    scores = (logits.sigmoid() if data.task == "multi_label" else logits.softmax(-1)).numpy()
    if not data.labelled:
        found = quality(scores, targets, (UNTUNED,) * len(data.labels) if data.task == "multi_label" else None)
        return found | {"agreement": found["accuracy"]}
    return quality(scores, targets, tune_thresholds(scores, targets) if data.task == "multi_label" else None)


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


def metrics(trainer: RepeatableTrainer, seconds: float) -> dict[str, Any]:
    """What the manifest says of a training that took ``seconds``: rows, steps, the best dev metrics, the whole log."""
    log, judged_by = trainer.state.log_history, f"eval_{trainer.args.metric_for_best_model}"
    evaluations = [entry for entry in log if judged_by in entry]
    best = max(evaluations, key=lambda entry: entry[judged_by], default={})
    return {
        "train_s": round(seconds, 1),
        "rows": len(trainer.train_dataset),  # type: ignore[arg-type]  # a list of ours
        "steps": trainer.state.global_step,
        "batch_size": trainer.args.per_device_train_batch_size,
        "bf16": trainer.args.bf16,
        "forecast": asdict(trainer.figures),
        "dev": {name.removeprefix("eval_"): value for name, value in best.items()},
        "log": [entry for entry in log if "loss" in entry or judged_by in entry],
    }
