"""Checkpoints' tokenizers: the one place that asks transformers for one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import tokenizers
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Text
from bantam.errors import ModelError
from optimizer.load.model import load_config, reading

_PADDING = re.compile(r"[<\[]\|?\w*pad(ding)?\w*\|?[>\]]", re.IGNORECASE)
"""``<pad>``, ``[PAD]``, ``<|padding|>``, ``<|finetune_right_pad_id|>`` ..."""
_NEW = "<pad>"
_ENDS = ("a", "\U00013080")
"""Texts that end with a known and with an unknown character, an Egyptian hieroglyph."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a Hugging Face folder, of the library tokenizers: what is served has no other.

    Raises :class:`ModelError` if there is none, or none that is fast.
    """
    config = load_config(folder)
    advice = (
        f"Expected files that tokenizers {tokenizers.__version__} reads. A newer one writes others: "
        "load it where it was made, and save it with that version."
    )
    with reading(folder, "a tokenizer", advice):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=False
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"{folder}: its tokenizer ({type(tokenizer).__name__}) exists in Python only; expected one that can be "
            "served, with a tokenizer.json.\nChoose another checkpoint, or put a tokenizer.json that splits texts as "
            "it does into the folder."
        )
    return tokenizer


def fit_to(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, folder: Path, log: Callable[[str], None] = print
) -> None:
    """Give the tokenizer a padding token, to the right, and check that the model has a row for each of its tokens.

    Whoever reads the last token whatever it is (XLNet) is padded to the left. Raises :class:`ModelError` for tokens
    without an embedding.
    """
    try:
        embeddings = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    except (NotImplementedError, AttributeError) as exc:  # CANINE hashes characters, Perceiver has arrays of its own
        raise ModelError(
            f"{type(model).__name__} has no table of token embeddings.\n"
            "Expected a model of token ids. Choose another one."
        ) from exc
    # Special tokens of other inputs, such as Gemma's of images, are in no text.
    special = {*tokenizer.all_special_ids}
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= embeddings and i not in special)
    if beyond:
        shown = ", ".join(repr(token) for _, token in beyond[:3]) + " ..." * (len(beyond) > 3)
        raise ModelError(
            f"{folder}: its tokenizer has {len(beyond)} tokens ({shown}) from id {beyond[0][0]} on, and the model has "
            f"{embeddings} embeddings.\nTake the tokenizer that it was trained with; or add the rows with "
            "resize_token_embeddings, train, and save both."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= embeddings:  # one of its class alone: Qwen2
        _give_padding(tokenizer, model, embeddings)
        log(f"{type(tokenizer).__name__} has no padding token; texts are padded with {tokenizer.pad_token}")
    config = model.config
    tokenizer.padding_side = "left" if getattr(config, "summary_type", None) == "last" else "right"
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # only what is there is saved
    config.pad_token_id = tokenizer.pad_token_id


def _give_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, embeddings: int) -> None:
    """A token to pad with: one that has an embedding, if there is one, and that no text ends with.

    Decoders classify from the last token whose id is not the config's ``pad_token_id``, whatever the attention mask
    says. So that one comes first: transformers pools by it already. Then one that is called padding; then special ones,
    the rarer at the end of a text the earlier: the unknown token where every character is known (byte-level or byte
    fallback), the start of a text, the end of a text where the tokenizer adds none. A text that is padding to its first
    token is read at its first token, as it is without padding. Where each of these ends texts, a new token is made.
    """
    ids = tokenizer.get_vocab()
    ends = {row[-1] for row in tokenizer([*_ENDS])["input_ids"] if row}
    pooled_by = [token for token, i in ids.items() if i == getattr(model.config, "pad_token_id", None)]
    named = sorted(filter(_PADDING.fullmatch, ids), key=lambda token: ids[token])
    special = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token)
    others = [token for token in (*named, *special) if token in ids and ids[token] not in ends]
    for token in (*pooled_by, *others):
        if ids[token] < embeddings:
            tokenizer.pad_token = token
            return
    tokenizer.add_special_tokens({"pad_token": _NEW})
    if tokenizer.pad_token_id >= embeddings:
        model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)


def columns(texts: Sequence[Text]) -> list[list[str]]:
    """What a tokenizer takes: the texts, or the first ones and the second ones of pairs."""
    pairs = [text for text in texts if isinstance(text, tuple)]
    return [list(column) for column in zip(*pairs, strict=True)] if pairs else [[str(text) for text in texts]]
