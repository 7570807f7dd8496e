"""What a training will take, from its own first steps: they are those of the training, so nothing is spent on it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import psutil
import torch
from transformers import Trainer, TrainerCallback

from bantam.errors import UserError
from bantam.memory import available_mb
from optimizer import distributed
from optimizer.stage import RunContext

WARM_UP, TIMED = 3, 12
"""Steps that are not timed, since kernels and memory are made ready in them, and steps that are."""
ENOUGH_S = 30.0
"""Fewer steps are timed where they have taken this long together."""
EVALUATED = 3
"""Batches of dev that are timed."""


class MemorySampler:
    """Samples the memory that this process has to itself, without the pages of files, which it could give back.

    A context manager: it samples while the block runs.
    """

    def __init__(self, device: str, interval_s: float = 0.01) -> None:
        self.device, self.peak_mb = device, 0.0
        self._interval, self._stop = interval_s, threading.Event()
        self._process = psutil.Process(os.getpid())
        self._thread = threading.Thread(target=self._watch, name="training-memory", daemon=True)

    def __enter__(self) -> Self:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def now_mb(self) -> float:
        """What there is at the moment, GPU memory if the training is there."""
        if self.device == "cuda":
            return torch.cuda.memory_allocated() / 1e6
        memory = self._process.memory_info()
        return float(memory.rss - getattr(memory, "shared", 0)) / 1e6

    def most_mb(self) -> float:
        """The most that there has been."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        self.peak_mb = max(self.peak_mb, self.now_mb())
        return self.peak_mb

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.most_mb()


@dataclass
class Figures:
    """Time and memory of a training, as foreseen and as they were: seconds, MB (10^6 bytes)."""

    step_s: float | None = None
    """One step of average length; None if there were too few to time."""
    dev_s: float = 0.0
    """One look at all of dev."""
    seconds: float | None = None
    """The whole training, if it is not stopped early."""
    memory_mb: float | None = None
    """The most at a time, of the process, or on the GPU."""
    took_s: float | None = None
    took_mb: float | None = None
    steps: int = 0
    """How many steps ``seconds`` is for."""
    timed: list[tuple[int, float]] = field(default_factory=list)
    """Tokens and seconds of each step that was timed."""


class Forecast(TrainerCallback):
    """Times the first steps, says what all of them will take, and refuses what there is no time or memory for.

    With ``trial`` the training ends with the measurement, and nothing is refused. Raises :class:`UserError`.
    """

    def __init__(self, trainer: Trainer, context: RunContext, doing: str, *, trial: bool = False) -> None:
        self.trainer, self.context, self.doing, self.trial = trainer, context, doing, trial
        self.figures = Figures()
        self.memory = MemorySampler(context.device)
        self.tokens = step_tokens(trainer)
        self._of_epochs = {0: self.tokens}
        self.first = self.last = 0
        self.began = self.step_began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the first step, or at the one that the training goes on from."""
        self.began, self.first = time.monotonic(), state.global_step
        self.last = min(self.first + WARM_UP + TIMED, state.max_steps)
        self.figures.steps = state.max_steps - self.first

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        if state.global_step < self.last:
            self._synchronize()
            self.step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Time it; after the last of those that are timed, say what is to come."""
        if state.global_step > self.last:
            return
        self._synchronize()
        now, timed = time.monotonic(), self.figures.timed
        if state.global_step - self.first > WARM_UP:
            timed.append((self._tokens_of(state.global_step - 1), now - self.step_began))
        if sum(seconds for _, seconds in timed) > ENOUGH_S and len(timed) >= 3:
            self.last = state.global_step
        if state.global_step == self.last and timed:
            self._foresee(state)
            control.should_training_stop |= self.trial

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What it took in the end."""
        self.figures.took_s = round(time.monotonic() - self.began, 1)
        self.figures.took_mb = round(self.memory.most_mb())

    def _foresee(self, state: Any) -> None:
        figures, every = self.figures, self.trainer.args.eval_steps
        figures.step_s = mean_step_s(figures.timed, float(np.mean(self.tokens)))
        figures.dev_s = self._dev_s()
        self._pass_longest()
        figures.memory_mb = round(self.memory.most_mb())
        looks = -(-state.max_steps // every) - state.global_step // every
        rest = (state.max_steps - state.global_step) * figures.step_s + looks * figures.dev_s
        figures.seconds = round(time.monotonic() - self.began + rest, 1)
        if self.trial:
            return
        rows = len(self.trainer.train_dataset)  # type: ignore[arg-type]  # a list of ours
        told = (
            f"{self.doing} takes {duration(figures.seconds)} at most ({state.max_steps - self.first:,} steps of "
            f"{figures.step_s:.2g} s, {looks} looks at dev of {figures.dev_s:.2g} s) and "
            f"{figures.memory_mb / 1000:.2f} GB of {'GPU memory' if self.context.device == 'cuda' else 'memory'}"
        )
        self.context.log(told)
        if self.context.deadline is not None:
            left = self.context.deadline - time.monotonic()
            if distributed.agreed(rest > left, self.context.device):
                # Other rows are another training, from its first step on, also if this one went on from a checkpoint.
                every_look = -(-state.max_steps // every) * figures.dev_s
                fitting = max(0, int(rows * (left - every_look) / max(state.max_steps * figures.step_s, 1e-9)))
                raise UserError(
                    f"{told}; MAX_HOURS leaves {duration(max(left, 0.0))}.\nWhat would fit: "
                    f"{f'rows = {fitting:,} in the recipe instead of {rows:,}, ' if fitting else ''}"
                    "fewer epochs, PROFILE=quick, a smaller model, a GPU (TARGET=gpu), or more hours."
                )
        self._refuse_memory(figures.memory_mb, told)

    def _refuse_memory(self, needed: float, told: str) -> None:
        """On a CPU, where the system would end the process; a GPU says so itself, and the batch is halved."""
        more = needed - self.memory.most_mb()
        if self.context.device != "cuda" and distributed.agreed(more > available_mb(), self.context.device):
            raise UserError(
                f"{told}, which is {more / 1000:.2f} GB more than now; {available_mb() / 1000:.2f} GB are free.\n"
                "What would fit: a smaller batch_size or max_length, gradient_checkpointing = true, an adapter "
                '(adapter = { method = "lora" }, or "qlora" for 4 bits) in the recipe; or a GPU (TARGET=gpu).'
            )

    def _pass_longest(self) -> None:
        """Forward and backward over the longest batch, so that the peak of memory is that of the whole training.

        Nothing but the peak is changed by it: neither weights nor random numbers, and the gradients are dropped.
        """
        rows: Any = self.trainer.train_dataset
        longest = max(batches(self.trainer), key=lambda batch: padded([rows[i] for i in batch]))
        wrapped: Any = self.trainer.model_wrapped
        with torch.random.fork_rng():
            self.trainer.training_step(wrapped, self.trainer.data_collator([rows[i] for i in longest]))
        wrapped.zero_grad()
        self._synchronize()

    def _tokens_of(self, step: int) -> int:
        """Of the step with this number, from 0, in the order of its epoch."""
        epoch, place = divmod(step, len(self.tokens))
        if epoch not in self._of_epochs:
            self._of_epochs[epoch] = step_tokens(self.trainer, epoch)
        return self._of_epochs[epoch][place]

    def _dev_s(self) -> float:
        """Seconds for one look at dev, from a few of its batches."""
        rows: Any = self.trainer.eval_dataset
        size = self.trainer.args.per_device_eval_batch_size
        starts = range(0, len(rows), size)
        tokens = [padded(rows[start : start + size]) for start in starts]
        timed = []
        self._model.eval()
        for number in sorted({*np.linspace(0, len(tokens) - 1, EVALUATED + 1, dtype=int).tolist()}):
            batch = self.trainer.data_collator(rows[starts[number] : starts[number] + size])
            started = time.monotonic()
            self.trainer.prediction_step(self._model, batch, prediction_loss_only=False)
            self._synchronize()
            timed.append((tokens[number], time.monotonic() - started))
        self._model.train()
        counts, seconds = zip(*(timed[1:] or timed), strict=True)  # the first one warms up
        return float(sum(tokens) / distributed.count() * sum(seconds) / sum(counts))

    @property
    def _model(self) -> torch.nn.Module:
        model: Any = self.trainer.model
        return model  # type: ignore[no-any-return]

    def _synchronize(self) -> None:
        if self.context.device == "cuda":
            torch.cuda.synchronize()


def padded(rows: Sequence[dict[str, Any]]) -> int:
    """Tokens of a batch of rows, padding included."""
    return len(rows) * max(len(row["input_ids"]) for row in rows)


def step_tokens(trainer: Trainer, epoch: int = 0) -> list[int]:
    """Tokens of each step of an epoch, counted from 0, on one process, padding included, in the order of that epoch."""
    rows: Any = trainer.train_dataset
    alone = [padded([rows[i] for i in batch]) for batch in batches(trainer, epoch)]
    together = trainer.args.gradient_accumulation_steps * distributed.count()
    return [sum(alone[i : i + together]) // distributed.count() for i in range(0, len(alone), together)]


def batches(trainer: Trainer, epoch: int = 0) -> list[list[int]]:
    """The rows that are in memory together, of all processes, in the order of an epoch."""
    rows: Any = trainer.train_dataset
    sampler: Any = trainer._get_train_sampler()
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    order = list(sampler or range(len(rows)))
    size = trainer.args.train_batch_size
    return [order[start : start + size] for start in range(0, len(order), size)]


def mean_step_s(timed: Sequence[tuple[int, float]], tokens: float) -> float:
    """Seconds of a step of ``tokens``, from steps of other numbers of tokens: a line, by least squares.

    Neither a step nor a token may take less than nothing: then all is for the tokens, or for the step.
    """
    counts, seconds = (np.array(each, dtype=float) for each in zip(*timed, strict=True))
    spread = counts.var()
    slope = float(((counts - counts.mean()) * (seconds - seconds.mean())).mean() / spread) if spread else 0.0
    slope = min(max(slope, 0.0), float(seconds.mean() / counts.mean()))
    return float(seconds.mean() + slope * (tokens - counts.mean()))


def duration(seconds: float) -> str:
    """In words: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
