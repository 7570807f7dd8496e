"""Checkpoints as PyTorch models and tokenizers: the one place that asks transformers for either.

Weights come from safetensors. Code that a checkpoint brings never runs and nobody is asked about it: where transformers
knows the model's type, its own code is taken; where not, that is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from bantam.errors import ModelError


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Literal["eager", "sdpa"] | None = None,
    labels: tuple[str, ...] | None = None,
    task: str | None = None,
    new_head: bool = True,
) -> PreTrainedModel:
    """The classifier in a Hugging Face folder, for inference (``eval``), on ``device`` in ``dtype``.

    ``attention``: how attention is computed, by default as transformers prefers. ``labels`` with ``task``: what the
    classifier is to be trained for; a head that does not fit them is replaced by a new one with random weights.
    Without them the head is that of the folder. Raises :class:`ModelError` if it cannot be loaded as a classifier.
    """
    head: dict[str, Any] = {}
    if labels is not None:
        head = {
            "num_labels": len(labels),
            "problem_type": task if task == "regression" else f"{task}_classification",
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": new_head,
        }
    with _reading(folder):
        model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **head,
        )
    return cast(PreTrainedModel, model.to(device).eval())


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a Hugging Face folder. Raises :class:`ModelError` if there is none that transformers reads."""
    with _reading(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Without progress bars and the warning that a head is new, which is expected; errors as :class:`ModelError`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(
            f"{folder} cannot be loaded as a classifier: {exc}\n"
            "Expected a Hugging Face folder that AutoModelForSequenceClassification and AutoTokenizer read."
        ) from exc
    finally:
        logger.setLevel(level)
