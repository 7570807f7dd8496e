"""A smaller vocabulary: the tokenizer rewritten, the word embeddings cut to the rows that are left.

No library does this for a trained tokenizer: ``resize_token_embeddings`` drops the last rows, whichever they are. The
idea is that of "Load What You Need" (Abdaoui et al. 2020): what a corpus never uses costs memory and nothing else.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, cast

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Text
from bantam.errors import ModelError
from optimizer.surgery.rebuild import fill, resized

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
CHUNK = 10_000
"""Texts that are tokenized at a time: their encodings take far more memory than they do."""

Json = dict[str, Any]


def encode_in_full(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> Iterator[Any]:
    """A ``tokenizers.Encoding`` for each text, special tokens included, neither padded nor cut."""
    backend = Tokenizer.from_str(_backend(tokenizer).to_str())
    backend.no_padding()
    backend.no_truncation()
    for start in range(0, len(texts), CHUNK):
        yield from backend.encode_batch(list(texts[start : start + CHUNK]))


def needed_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[int]:
    """Ids of the tokens that occur in ``texts``, ascending."""
    return sorted({number for encoding in encode_in_full(tokenizer, texts) for number in encoding.ids})


def with_companions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> list[int]:
    """``ids`` and those that must stay with them, ascending.

    These are all special and added tokens, what any text can be written in (single characters, or the 256 bytes where a
    tokenizer falls back to them), and for BPE the parts that a token is merged from. Raises :class:`ModelError` for a
    kind of tokenizer that is not known here, and for an id that it or the model does not know.
    """
    state = json.loads(_backend(tokenizer).to_str())
    vocabulary = tokenizer.get_vocab()
    names = {number: token for token, number in vocabulary.items()}
    rows = len(_table(model))
    unknown = [number for number in ids if number not in names or number >= rows]
    if unknown:
        raise ModelError(
            f"There is no token {unknown[0]}: the tokenizer knows {len(names)}, the model {rows}. "
            "Expected ids that both know."
        )
    kept = {names[number] for number in ids}
    kept |= {*_named(state), *tokenizer.all_special_tokens, *_alphabet(state["model"], vocabulary)} & vocabulary.keys()
    kept |= {names[number] for number in _named_by(model) if number in names}
    if _counts_positions_from_padding(model):
        kept |= {names[number] for number in range(model.config.pad_token_id + 1) if number in names}
    if state["model"]["type"] == "Unigram":
        # The score of an unknown character is that of the worst piece, less a constant.
        kept.add(min(state["model"]["vocab"], key=lambda piece: piece[1])[0])
    if state["model"]["type"] == "BPE":
        kept |= _ancestors(state["model"], kept)
    return sorted(vocabulary[token] for token in kept)


def keep_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Collection[int]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and a tokenizer with the tokens ``ids`` and :func:`with_companions`, numbered anew in their old order.

    A text whose tokens all stay is cut into the same tokens as before; in other texts, what is gone is written in
    smaller pieces. Raises :class:`ModelError` like :func:`with_companions`, and if the tokenizer cannot be rewritten.
    """
    rows = with_companions(model, tokenizer, ids)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    numbers = {names[old]: new for new, old in enumerate(rows)}
    smaller: Any = copy.deepcopy(tokenizer)
    smaller._tokenizer = Tokenizer.from_str(json.dumps(_renumbered(json.loads(_backend(tokenizer).to_str()), numbers)))
    if smaller.get_vocab() != numbers:
        raise ModelError(
            f"The vocabulary of {type(tokenizer).__name__} cannot be rewritten: {len(numbers)} tokens were to stay, "
            f"{len(smaller.get_vocab())} are there. Leave the vocabulary of this model as it is."
        )
    return _with_rows(model, rows), smaller


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend else "one without a tokenizer.json"
    if kind not in KINDS:
        raise ModelError(f"The tokenizer is {kind}; its vocabulary cannot be cut. Possible with: {', '.join(KINDS)}.")
    return backend


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


def _alphabet(spec: Json, tokens: Iterable[str]) -> set[str]:
    """The tokens that any text can be written in."""
    if spec.get("byte_fallback"):
        return {f"<0x{byte:02X}>" for byte in range(256)}
    prefix, suffix = spec.get("continuing_subword_prefix") or "", spec.get("end_of_word_suffix") or ""
    return {token for token in tokens if len(token.removeprefix(prefix).removesuffix(suffix)) == 1}


def _named(state: Json) -> Iterator[str]:
    """The tokens that something in tokenizer.json calls by name."""
    spec = state["model"]
    yield from (entry["content"] for entry in state["added_tokens"])
    if spec.get("unk_token") is not None:
        yield spec["unk_token"]
    if spec.get("unk_id") is not None:
        yield spec["vocab"][spec["unk_id"]][0]
    if state["padding"]:
        yield state["padding"]["pad_token"]
    for processor in _processors(state):
        for special in processor.get("special_tokens", {}).values():
            yield from special["tokens"]
        yield from (processor[end][0] for end in ("cls", "sep") if end in processor)


def _processors(state: Json) -> Iterator[Json]:
    """The post-processor, or those of its parts that add tokens."""
    outer = state["post_processor"] or {}
    yield from outer.get("processors", [outer])


def _merges(spec: Json) -> Iterator[tuple[Any, str]]:
    """Each merge of a BPE model, and the token that it makes."""
    prefix = spec.get("continuing_subword_prefix") or ""
    for merge in spec["merges"]:
        left, right = merge
        yield merge, left + right.removeprefix(prefix)


def _ancestors(spec: Json, tokens: Iterable[str]) -> set[str]:
    """The tokens that those given are merged from, over any number of steps, by any of the merges."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for merge, made in _merges(spec):
        parts[made] += merge
    found: set[str] = set()
    waiting = list(tokens)
    while waiting:
        new = set(parts[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def _renumbered(state: Json, numbers: dict[str, int]) -> Json:
    """The tokenizer's JSON with the tokens in ``numbers`` alone, under their new ids."""
    spec = state["model"]
    if spec["type"] == "Unigram":
        if spec["unk_id"] is not None:
            spec["unk_id"] = numbers[spec["vocab"][spec["unk_id"]][0]]
        spec["vocab"] = [piece for piece in spec["vocab"] if piece[0] in numbers]
    else:
        spec["vocab"] = {token: numbers[token] for token in spec["vocab"] if token in numbers}
    if spec["type"] == "BPE":
        spec["merges"] = [merge for merge, made in _merges(spec) if made in numbers]
    for entry in state["added_tokens"]:
        entry["id"] = numbers[entry["content"]]
    if state["padding"]:
        state["padding"]["pad_id"] = numbers[state["padding"]["pad_token"]]
    for processor in _processors(state):
        for special in processor.get("special_tokens", {}).values():
            special["ids"] = [numbers[token] for token in special["tokens"]]
        for end in ("cls", "sep"):
            if end in processor:
                processor[end][1] = numbers[processor[end][0]]
    return state
