"""A tiny checkpoint and a data set that it learns in seconds: real training, real export, real serving, at toy size."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.architectures.toy import (
    MAX_LENGTH,
    MOODS,
    ONNX_FP32,
    ONNX_INT8,
    OPENVINO_INT8,
    TOKENS,
    sentence,
    tokenizer,
    write_lines,
)


def write_checkpoint(folder: Path) -> Path:
    """A BERT of two layers and 32 dimensions with random weights, and a WordPiece tokenizer of the toy's words."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.1,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_data(path: Path, rows: int = 1000, *, seed: int = 0) -> Path:
    """A CSV with columns text and labels, one or two moods a row, separated by ``|``."""
    rng = random.Random(seed)
    lines = ["text,labels"]
    for _ in range(rows):
        moods = rng.sample(sorted(MOODS), rng.choice((1, 1, 1, 2)))
        text = sentence(rng, [rng.choice(MOODS[mood]) for mood in moods], 20)
        lines.append(f"{text},{'|'.join(moods)}")
    return write_lines(path, lines)


TRAINED = """
description = "A toy run that has every kind of stage."
max_drop_points = 5.0

[[stages]]
stage = "finetune"
name = "baseline"
epochs = 10
patience = 20
batch_size = 16
learning_rate = 2e-3
dropout = 0.02
freeze_embeddings = false
"""
MEASURED = """
[measure]
texts = 20
rounds = 1
rate_seconds = 1.0
"""
# At toy size the model is as fast in fp32 as in int8, so noise would decide which of the two is published.
NOT_MEASURED = "measure = false\n"
RECIPE = TRAINED + ONNX_FP32 + NOT_MEASURED + ONNX_INT8 + OPENVINO_INT8 + MEASURED
ONE_VARIANT = TRAINED + ONNX_FP32 + NOT_MEASURED + ONNX_INT8 + MEASURED
"""The same without OpenVINO. There is one variant to publish; of two, noise would decide which."""
RECALIBRATED = (
    TRAINED
    + ONNX_FP32
    + NOT_MEASURED
    + ONNX_INT8
    + NOT_MEASURED
    + OPENVINO_INT8.replace("calibration_rows = 20", "calibration_rows = 30")
    + MEASURED
)
"""The first one with another calibration, whose variant alone is measured."""


def write_recipe(path: Path, recipe: str = RECIPE) -> Path:
    """One of the recipes above as a file."""
    path.write_text(recipe, encoding="utf-8")
    return path
