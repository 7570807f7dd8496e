"""Checkpoints' tokenizers: the one place that asks transformers for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from bantam.artifact import Text
from bantam.errors import ModelError
from optimizer.load.model import load_config, reading


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


def fit_to(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, embeddings: int, folder: Path) -> None:
    """Give the tokenizer a padding token, to the right, and check that the model has a row for each of its tokens.

    Decoders classify from the last token that is no padding: they need one, which no text ends with. Whoever reads the
    last token whatever it is (XLNet) is padded to the left. Raises :class:`ModelError` for tokens without an embedding.
    """
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
    if tokenizer.pad_token_id is None:
        known = getattr(config, "pad_token_id", None)
        named = tokenizer.convert_ids_to_tokens(known) if isinstance(known, int) and 0 <= known < embeddings else None
        tokenizer.pad_token = named or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "left" if getattr(config, "summary_type", None) == "last" else "right"
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # only what is there is saved
    config.pad_token_id = tokenizer.pad_token_id


def columns(texts: Sequence[Text]) -> list[list[str]]:
    """What a tokenizer takes: the texts, or the first ones and the second ones of pairs."""
    pairs = [text for text in texts if isinstance(text, tuple)]
    return [list(column) for column in zip(*pairs, strict=True)] if pairs else [[str(text) for text in texts]]
