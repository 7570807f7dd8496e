"""Tokenizers as decoders and their kin have them, of transformers' classes, trained on given texts; and a decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    XLMRobertaTokenizer,
)
from transformers.tokenization_utils_base import generate_merges

from optimizer.catalog import Checkpoint
from tests.optimizer.tiny_models import CONFIGS

SIZE = 3000
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
Kind = Callable[[Sequence[str]], Any]


def _byte_level(texts: Sequence[str], split: Any, size: int = SIZE) -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    spec = json.loads(tokenizer.to_str())["model"]
    return {"vocab": spec["vocab"], "merges": [tuple(merge) for merge in spec["merges"]]}


def gpt2(texts: Sequence[str], size: int = SIZE) -> GPT2Tokenizer:
    """Bytes, one special token at the end of the vocabulary that serves for all, none added to a text."""
    made = _byte_level(texts, pre_tokenizers.ByteLevel(add_prefix_space=False), size)
    made["vocab"]["<|endoftext|>"] = len(made["vocab"])
    return GPT2Tokenizer(**made, pad_token="<|endoftext|>")


def llama3(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Bytes, words that are tokens looked up without merging, special tokens beyond the vocabulary, most of them free.

    Qwen's is the same without the looking up.
    """
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer = Tokenizer(models.BPE(**_byte_level(texts, split), ignore_merges=True))
    tokenizer.pre_tokenizer = split
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(50))]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[(names[0], tokenizer.token_to_id(names[0]))]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[0],
        eos_token=names[1],
        pad_token=names[1],
        model_input_names=["input_ids", "attention_mask"],
    )


def _pieces(texts: Sequence[str], special: Sequence[str]) -> dict[str, int]:
    """A vocabulary as SentencePiece makes it for BPE: special tokens, bytes, pieces in the order of their merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=SIZE, show_progress=False, limit_alphabet=90))
    ids = tokenizer.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    merged, letters = [p for p in pieces if len(p) > 1], [p for p in pieces if len(p) == 1]
    return {token: number for number, token in enumerate([*special, *BYTES, *merged, *letters])}


def _every_merge(vocab: dict[str, int]) -> Any:
    """All pairs of pieces that make a piece, as a vocabulary without merges is converted."""
    return [tuple(merge) for merge in generate_merges(vocab, {token: -number for token, number in vocab.items()})]


def llama2(texts: Sequence[str]) -> LlamaTokenizer:
    """SentencePiece's BPE with bytes to fall back to, and a space before a text."""
    vocab = _pieces(texts, ["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocab, merges=_every_merge(vocab), pad_token="<unk>", add_bos_token=True)


def gemma(texts: Sequence[str]) -> GemmaTokenizer:
    """As Llama's, over whole texts; with runs of line ends and tags as added tokens, and free ones among the first."""
    free, tags = [f"<unused{i}>" for i in range(50)], ["\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>", "</table>", "<b>"]
    vocab = _pieces(texts, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *free, *tags, "\n"])
    tokenizer = GemmaTokenizer(vocab=vocab, merges=_every_merge(vocab), add_bos_token=True)
    # As transformers converts them from a GGUF file.
    tokenizer.add_special_tokens({"additional_special_tokens": free}, replace_extra_special_tokens=False)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return tokenizer


def _scored(texts: Sequence[str], special: Sequence[str]) -> list[tuple[str, float]]:
    """Pieces with scores of few digits: tokenizers reads back others with another last bit, which decides ties."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, special_tokens=[*special], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [(piece, round(score, 6)) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def xlm_roberta(texts: Sequence[str]) -> XLMRobertaTokenizer:
    """Unigram with the mask token at its end."""
    return XLMRobertaTokenizer(vocab=[*_scored(texts, ["<s>", "<pad>", "</s>", "<unk>"]), ("<mask>", 0.0)])


def t5(texts: Sequence[str]) -> T5Tokenizer:
    """Unigram with a hundred tokens for blanks at its end."""
    blanks = [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    return T5Tokenizer(vocab=[*_scored(texts, ["<pad>", "</s>", "<unk>"]), *blanks])


KINDS: dict[str, Kind] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "llama2": llama2,
    "gemma": gemma,
    "xlm_roberta": xlm_roberta,
    "t5": t5,
}


def write_decoder(folder: Path, texts: Sequence[str]) -> Checkpoint:
    """A llama of two layers with random weights and no head, whose byte-level tokenizer adds no special token."""
    tokenizer = gpt2(texts, 400)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model("llama", **{**CONFIGS["llama"], "vocab_size": len(tokenizer), **ids})
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return Checkpoint("decoder", folder, "test", "local", "Apache-2.0", "decoder's digest")
