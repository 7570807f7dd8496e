"""A smaller vocabulary: the tokenizer rewritten, the word embeddings cut to the rows that are left.

No library does this for a trained tokenizer: ``resize_token_embeddings`` drops the last rows, whichever they are. The
idea is that of "Load What You Need" (Abdaoui et al. 2020): what a corpus never uses costs memory and nothing else.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Text
from bantam.errors import ModelError
from optimizer.load.tokenizer import columns
from optimizer.surgery.rebuild import fill, resized
from optimizer.surgery.tokenizer_json import Merges, alphabet, named, renumbered

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
CHUNK = 10_000
"""Texts that are tokenized at a time: their encodings take far more memory than they do."""
FREE = re.compile(r"[\[<].*(unused|reserved).*[\]>]")
"""Tokens that were left for later and that no text has: [unused12], <unused12>, <|reserved_special_token_12|>."""


def encode_in_full(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> Iterator[Any]:
    """A ``tokenizers.Encoding`` for each text, special tokens included, neither padded nor cut."""
    _check_kind(tokenizer)
    for start in range(0, len(texts), CHUNK):
        encoded = tokenizer(*columns(texts[start : start + CHUNK]), padding=False, truncation=False, verbose=False)
        yield from encoded.encodings or ()


def needed_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[int]:
    """Ids of the tokens that occur in ``texts``, ascending."""
    return sorted({number for encoding in encode_in_full(tokenizer, texts) for number in encoding.ids})


class WholeVocabulary:
    """The tokens of a model and its tokenizer, read once, from which smaller models with their tokenizers are made.

    Raises :class:`ModelError` for a kind of tokenizer that is not known here.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        _check_kind(tokenizer)
        self.model, self.tokenizer = model, tokenizer
        self.numbers: dict[str, int] = tokenizer.get_vocab()
        self.names = {number: token for token, number in self.numbers.items()}
        self.state: dict[str, Any] = json.loads(cast(Any, tokenizer).backend_tokenizer.to_str())
        self.merges = Merges(self.state["model"])
        self.whole = {*self._always()}
        """Tokens that always stay, and that are merged from nothing."""

    def _always(self) -> Iterator[str]:
        """Special tokens, and what any text can be written in."""
        spec, model = self.state["model"], self.model
        yield from (name for name in named(self.state) if not is_free(name))
        yield from (str(token) for token in self.tokenizer.special_tokens_map.values())
        yield from (self.names[number] for number in _named_by(model) if number in self.names)
        yield from alphabet(spec, self.numbers)
        if _counts_positions_from_padding(model):
            yield from (self.names[number] for number in range(model.config.pad_token_id + 1) if number in self.names)
        if spec["type"] == "Unigram":
            # The score of an unknown character is that of the worst piece, less a constant.
            yield min(spec["vocab"], key=lambda piece: piece[1])[0]

    def with_companions(self, ids: Collection[int]) -> list[int]:
        """``ids`` and those that must stay with them, ascending.

        These are all special tokens, what any text can be written in (single characters, or the 256 bytes where a
        tokenizer falls back to them), and for BPE what a token is merged from. Raises :class:`ModelError` for an id
        that the tokenizer or the model does not know.
        """
        rows = len(_table(self.model))
        unknown = [number for number in ids if number not in self.names or number >= rows]
        if unknown:
            raise ModelError(
                f"There is no token {unknown[0]}: the tokenizer knows {len(self.names)}, the model {rows}. "
                "Expected ids that both know."
            )
        kept = {*self.whole}
        for token in {self.names[number] for number in ids} - self.whole:
            kept |= self.merges.passed(token)
        return sorted(self.numbers[token] for token in kept & self.numbers.keys())

    def keep(self, ids: Collection[int]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model and a tokenizer with these tokens and :meth:`with_companions`, numbered anew in their old order.

        A text whose tokens all stay is cut into the same tokens as before; in other texts, what is gone is written in
        smaller pieces. All weights but the word embeddings are shared with the old model. Raises :class:`ModelError`
        like :meth:`with_companions`, and if the tokenizer cannot be rewritten.
        """
        rows = self.with_companions(ids)
        numbers = {self.names[old]: new for new, old in enumerate(rows)}
        whole: Any = self.tokenizer
        state = renumbered(self.state, self.merges, numbers)
        new = {
            "_tokenizer": Tokenizer.from_str(json.dumps(state)),
            "_vocab": state["model"]["vocab"],
            "_merges": state["model"].get("merges"),
        }
        # What transformers' classes are built from may be half a million merges: it is replaced, not copied.
        smaller = copy.deepcopy(whole, {id(old): new[name] for name, old in vars(whole).items() if name in new})
        smaller.extra_special_tokens = [token for token in whole.extra_special_tokens if token in numbers]
        if smaller.get_vocab() != numbers:
            raise ModelError(
                f"The vocabulary of {type(whole).__name__} cannot be rewritten: {len(numbers)} tokens were to stay, "
                f"{len(smaller.get_vocab())} are there. Leave the vocabulary of this model as it is."
            )
        return _with_rows(self.model, rows), smaller


def is_free(token: str) -> bool:
    """Whether it is one of :data:`FREE`."""
    return FREE.fullmatch(token) is not None


def _check_kind(tokenizer: PreTrainedTokenizerBase) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend else "one without a tokenizer.json"
    if kind not in KINDS:
        raise ModelError(f"The tokenizer is {kind}; its vocabulary cannot be cut. Possible with: {', '.join(KINDS)}.")


def _with_rows(model: PreTrainedModel, rows: Sequence[int]) -> PreTrainedModel:
    """A new model whose word embeddings are these rows of the old one's; everything else is the same."""
    table = _table(model)
    # A tokenizer may have special tokens that its model was never given.
    rows = [row for row in rows if row < len(table)]
    numbers = {old: new for new, old in enumerate(rows)}
    # An id beyond the vocabulary is a default that does not belong to this tokenizer.
    ids = {
        name: [numbers[old] for old in value if old in numbers] if isinstance(value, list) else numbers.get(value)
        for name, value in _token_ids(model).items()
    }
    cut = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is table}
    weights = {name: weight[rows] if name in cut else weight for name, weight in model.state_dict().items()}
    return fill(resized(model, {"vocab_size": len(rows), **ids}), weights)


def _table(model: PreTrainedModel) -> Tensor:
    """The word embeddings, ``[tokens, width]``."""
    return cast(Tensor, model.get_input_embeddings().weight)


def _token_ids(model: PreTrainedModel) -> dict[str, int | list[int]]:
    """What the config says about single tokens: ``pad_token_id`` and its like."""
    said = model.config.to_dict()
    return {name: value for name, value in said.items() if name.endswith("_token_id") and value is not None}


def _named_by(model: PreTrainedModel) -> Iterator[int]:
    for value in _token_ids(model).values():
        yield from value if isinstance(value, list) else [value]


def _counts_positions_from_padding(model: PreTrainedModel) -> bool:
    """RoBERTa and its kin number positions from the padding id upwards, so that this id must not change."""
    words = model.get_input_embeddings()
    others = (part for part in model.modules() if isinstance(part, nn.Embedding) and part is not words)
    return any(part.padding_idx is not None for part in others)
