"""transformers in PyTorch, eager or compiled, in fp32 or bf16: the way that its documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job

WARM_UP = ("ok", "so good " * 10, "so good " * 40, "so good " * 300)


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Save the checkpoint in the precision in which it will run."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=_dtype(job))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """The model, compiled for any number of texts and tokens if asked for."""
    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=_dtype(job)).eval()
    if job.options.get("compile"):
        model = torch.compile(model, dynamic=True)

    @torch.inference_mode()
    def scores(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="pt", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        probabilities: NDArray[np.float32] = model(**batch).logits.float().sigmoid().numpy()
        return probabilities

    if job.options.get("compile"):
        # A graph each for one text and for several, with any number of tokens: all that will be asked later.
        for text in WARM_UP:
            for count in (1, 2, 32):
                scores([text] * count)
    return scores


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")]


def _dtype(job: Job) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, job.options.get("dtype", "float32"))
    return dtype
