"""What toys of any architecture have in common: words, their tokenizer, texts, and what a training is followed by."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 64
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
WORDS = (*(word for words in MOODS.values() for word in words), *FILLER)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENS = (*SPECIAL, *WORDS)

ONNX_FP32 = """
[[stages]]
stage = "export"
name = "onnx-fp32"
parent = "baseline"
format = "onnx"
"""
ONNX_INT8 = """
[[stages]]
stage = "quantize"
name = "onnx-int8"
parent = "onnx-fp32"
method = "onnx-dynamic-int8"
"""
OPENVINO_INT8 = """
[[stages]]
stage = "quantize"
name = "openvino-int8"
parent = "onnx-fp32"
method = "openvino-static-int8"
calibration_rows = 20
"""


def tokenizer(padding_id: int = 0, *, pair: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of ``WORDS`` that puts ``[CLS]`` and ``[SEP]`` around a text.

    ``padding_id``: 0 or 1. ``pair``: the template of a pair of texts. ``changes``: of what it is saved with.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    padding, unknown, *others = TOKENS
    first = (padding, unknown) if padding_id == 0 else (unknown, padding)
    vocabulary = {token: i for i, token in enumerate((*first, *others))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {**dict(zip(names, SPECIAL, strict=True)), "model_max_length": MAX_LENGTH, **changes}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def sentence(rng: random.Random, telling: Sequence[str], longest: int) -> str:
    """The words that tell a mood, in any order among 1 to ``longest`` others that say nothing."""
    words = [*telling, *rng.choices(FILLER, k=rng.randint(1, longest))]
    rng.shuffle(words)
    return " ".join(words)


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """A text file of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
