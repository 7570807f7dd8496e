"""Tokenizers of each kind that vocabulary pruning knows, trained on made-up words, and classifiers for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from tests.optimizer.tiny_models import CONFIGS, LABELS, MAX_LENGTH

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_RNG = np.random.default_rng(0)
WORDS = ["".join(_RNG.choice(list("abcdefghijklmnopqrstuvwxyz"), _RNG.integers(3, 9))) for _ in range(150)]
TEXTS = [" ".join(_RNG.choice(WORDS, 6)) for _ in range(200)]
SEEN = [" ".join(_RNG.choice(WORDS[:30], 6)) for _ in range(40)]
UNSEEN = [*(" ".join(_RNG.choice(WORDS[30:], 6)) for _ in range(40)), "qz jxv zzzz kqj"]


def template(tokenizer: Tokenizer) -> Any:
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    return processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)


def word_piece() -> Tokenizer:
    """The letters come first: the trainer numbers them as a hash map yields them, and breaks ties by these numbers."""
    trained = Tokenizer(models.WordPiece(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = [f"##{letter}" for letter in ascii_lowercase]
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *letters], initial_alphabet=[*ascii_lowercase], show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(), unk_token="<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = template(tokenizer)
    return tokenizer


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls_token=("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template(tokenizer)])
    return tokenizer


def bpe_with_byte_fallback() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(TEXTS, trainer)
    state = json.loads(tokenizer.to_str())
    for byte in range(256):
        state["model"]["vocab"][f"<0x{byte:02X}>"] = len(state["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = template(tokenizer)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


KINDS: list[Callable[[], Tokenizer]] = [word_piece, byte_level_bpe, unigram, bpe_with_byte_fallback]


def wrapped(backend: Tokenizer, *token_types: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask", *token_types],
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True)),
    )


def classifier(tokenizer: PreTrainedTokenizerFast, model_type: str = "bert", **changes: Any) -> PreTrainedModel:
    """Random weights; a few more rows of word embeddings than there are tokens, as some published models have."""
    sizes = {**CONFIGS[model_type], "vocab_size": len(tokenizer) + 3, "pad_token_id": tokenizer.pad_token_id, **changes}
    config = AutoConfig.for_model(model_type, **sizes, num_labels=len(LABELS))
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def logits(model: PreTrainedModel, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return result


def tokens(tokenizer: Any, texts: list[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]
