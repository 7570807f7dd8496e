"""Training within the memory that there is."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from bantam.errors import BantamError, StageError, reason
from optimizer import distributed
from optimizer.config import TrainingConfig
from optimizer.stage import RunContext

Trained = TypeVar("Trained")
_OTHER = "Expected a model that learns from token ids and their mask alone. Choose another model."


@dataclass(frozen=True)
class Attempt:
    """How many texts are in memory at once, and how many such batches make one step."""

    batch: int
    accumulation: int = 1


def within_memory(train: Callable[[Attempt], Trained], config: TrainingConfig, context: RunContext) -> Trained:
    """Call ``train``; when memory runs out, halve the batch, accumulate two, and go on from the last checkpoint.

    Raises :class:`StageError` if memory does not suffice even for a batch of one text, or the model cannot be trained.
    """
    # Several processes share the batch of the recipe, which so means the same on any number of them.
    attempt = Attempt(max(1, config.batch_size // distributed.count()))
    while True:
        try:
            return train(attempt)
        except (BantamError, OSError):
            raise
        except Exception as exc:  # models' own code, which raises anything
            if not _is_out_of_memory(exc):
                raise StageError(f"{context.checkpoint.name} cannot be trained: {reason(exc)}.\n{_OTHER}") from exc
            if attempt.batch == 1:
                raise StageError(
                    "Out of memory with a batch of one text. Expected room for the model, its gradients and one text "
                    f"of up to {config.max_length} tokens: lower max_length in the recipe, or take a smaller model."
                ) from exc
        attempt = Attempt(attempt.batch // 2, attempt.accumulation * 2)
        context.log(f"out of memory: going on with batches of {attempt.batch}, {attempt.accumulation} accumulated")
        gc.collect()
        torch.cuda.empty_cache()


def _is_out_of_memory(exc: BaseException) -> bool:
    """CUDA has its own exception; PyTorch's CPU allocator raises a plain RuntimeError, known by its text alone."""
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(exc)
