"""Fine-tuned classifiers at toy size, as users bring them: a head with names, a tokenizer that knows pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.architectures.toy import TOKENS, tokenizer
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset, Split
from tests.optimizer.tiny_models import CONFIGS

LABELS = ("neg", "pos")
PAIR = "[CLS] $A [SEP] $B:1 [SEP]:1"
TEXTS = ("i love it", "the awful day", "we were afraid of the movie today, and it was great", "", "really so happy 👍")
PAIRS = tuple(zip(TEXTS, TEXTS[::-1], strict=True))


def write_classifier(
    folder: Path, model_type: str = "bert", labels: tuple[str, ...] = LABELS, *, task: str | None = None, **changes: Any
) -> Path:
    """A Hugging Face folder of a classifier whose scores differ from text to text; ``changes`` are of its config."""
    sizes = {**CONFIGS[model_type], "vocab_size": len(TOKENS), "pad_token_id": 0, **changes}
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    problem = task if task in (None, "regression") else f"{task}_classification"
    config = AutoConfig.for_model(model_type, **sizes, **named, problem_type=problem)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if model_type == "bert" else [])]
    tokenizer(pair=PAIR, model_input_names=names).save_pretrained(folder)
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint("toy", folder, str(folder), "local", "none", "0" * 64)


def dataset(task: str, labels: tuple[str, ...], *, pair: bool = False) -> Dataset:
    """Five rows in each split, whose targets do not matter."""
    targets: dict[str, np.ndarray] = {
        "multi_label": np.ones((len(TEXTS), len(labels)), np.uint8),
        "regression": np.linspace(0, 1, len(TEXTS), dtype=np.float32),
        "unlabelled": np.full(len(TEXTS), -1),
        "single_label": np.arange(len(TEXTS)) % max(1, len(labels)),
    }
    split = Split(PAIRS if pair else TEXTS, targets[task])
    parts = {"train": split, "dev": split, "test": split}
    return Dataset(
        "toys", task, labels, parts, "0" * 64, "none", "made up", (), labelled=task != "unlabelled", pair=pair
    )
