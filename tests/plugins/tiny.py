"""A tiny checkpoint and a data set that it learns in seconds: real training, real export, real serving, at toy size."""

from __future__ import annotations

import random
from pathlib import Path

MOODS = {
    "joy": ("love", "great", "happy", "wonderful", "enjoy"),
    "anger": ("hate", "furious", "angry", "awful", "annoyed"),
    "fear": ("afraid", "scared", "worried", "terrified", "panic"),
}
FILLER = (
    "the",
    "a",
    "this",
    "day",
    "movie",
    "we",
    "they",
    "really",
    "so",
    "today",
    "it",
    "was",
    "and",
    "again",
    "with",
)


def write_checkpoint(folder: Path) -> Path:
    """A BERT of two layers and 32 dimensions with random weights, and a WordPiece tokenizer of the words above."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [word for group in MOODS.values() for word in group]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLER]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
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
        words = [rng.choice(MOODS[mood]) for mood in moods] + rng.choices(FILLER, k=rng.randint(1, 20))
        rng.shuffle(words)
        lines.append(f"{' '.join(words)},{'|'.join(moods)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


RECIPE = """
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

[[stages]]
stage = "export"
name = "onnx-fp32"
parent = "baseline"
format = "onnx"
# At toy size it is as fast as onnx-int8, so noise would decide which of the two is published.
measure = false

[[stages]]
stage = "quantize"
name = "onnx-int8"
parent = "onnx-fp32"
method = "onnx-dynamic-int8"

[[stages]]
stage = "quantize"
name = "openvino-int8"
parent = "onnx-fp32"
method = "openvino-static-int8"
calibration_rows = 20

[measure]
texts = 20
rounds = 1
rate_seconds = 1.0
"""


def write_recipe(path: Path) -> Path:
    """The recipe above as a file."""
    path.write_text(RECIPE, encoding="utf-8")
    return path
