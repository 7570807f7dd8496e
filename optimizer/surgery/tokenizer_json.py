"""What a tokenizer.json says about its tokens, and the same with fewer of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

Json = dict[str, Any]


def named(state: Json) -> Iterator[str]:
    """The tokens that the file calls by name: special ones, and those of padding and of the ends of a text."""
    spec = state["model"]
    yield from (entry["content"] for entry in state["added_tokens"] if entry["special"])
    if spec.get("unk_token") is not None:
        yield spec["unk_token"]
    if spec.get("unk_id") is not None:
        yield spec["vocab"][spec["unk_id"]][0]
    if state["padding"]:
        yield state["padding"]["pad_token"]
    for processor in _processors(state["post_processor"]):
        for special in processor.get("special_tokens", {}).values():
            yield from special["tokens"]
        yield from (processor[end][0] for end in ("cls", "sep") if end in processor)


def alphabet(spec: Json, tokens: Iterable[str]) -> set[str]:
    """The tokens that any text can be written in: the 256 bytes of a fallback, or all single characters."""
    if spec.get("byte_fallback"):
        return {f"<0x{byte:02X}>" for byte in range(256)}
    prefix, suffix = _affixes(spec)
    return {token for token in tokens if len(token.removeprefix(prefix).removesuffix(suffix)) == 1}


class Merges:
    """The merges of a BPE model, first to last; of none if the model is of another kind."""

    def __init__(self, spec: Json) -> None:
        self.prefix, self.suffix = _affixes(spec)
        self.ranks: dict[tuple[str, str], int] = {
            (left, right): rank for rank, (left, right) in enumerate(spec.get("merges", ()))
        }

    def passed(self, token: str) -> set[str]:
        """``token`` and all that its letters become on the way to it.

        Each step is the first of the merges that fits, as BPE encodes (Sennrich et al. 2016, algorithm 1). What stands
        around a token in a text changes nothing about its own steps, which are all within it.
        """
        parts = self._letters(token)
        found = {token, *parts}
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, math.inf), at) for at, pair in enumerate(pairwise(parts)))
            if rank == math.inf:
                break
            parts[at : at + 2] = [self._made(*parts[at : at + 2])]
            found.add(parts[at])
        return found

    def among(self, tokens: Collection[str]) -> list[tuple[str, str]]:
        """The merges of these tokens into these tokens, in their order."""
        return [pair for pair in self.ranks if pair[0] in tokens and pair[1] in tokens and self._made(*pair) in tokens]

    def _made(self, left: str, right: str) -> str:
        return left + right.removeprefix(self.prefix)

    def _letters(self, token: str) -> list[str]:
        head = self.prefix if token.startswith(self.prefix) else ""
        tail = self.suffix if token.endswith(self.suffix) else ""
        letters = [self.prefix + letter for letter in token.removeprefix(head).removesuffix(tail)]
        if letters:
            letters[0] = head + letters[0].removeprefix(self.prefix)
            letters[-1] += tail
        return letters


def renumbered(state: Json, merges: Merges, numbers: Mapping[str, int]) -> Json:
    """The same file with the tokens in ``numbers`` alone, under these ids; ``state`` stays as it is."""
    spec = dict(state["model"])
    if spec["type"] == "Unigram":
        if spec["unk_id"] is not None:
            spec["unk_id"] = numbers[spec["vocab"][spec["unk_id"]][0]]
        spec["vocab"] = [piece for piece in spec["vocab"] if piece[0] in numbers]
    else:
        spec["vocab"] = {token: numbers[token] for token in spec["vocab"] if token in numbers}
    if spec["type"] == "BPE":
        spec["merges"] = merges.among(numbers)
    added = [
        {**entry, "id": numbers[entry["content"]]} for entry in state["added_tokens"] if entry["content"] in numbers
    ]
    padding = state["padding"] and {**state["padding"], "pad_id": numbers[state["padding"]["pad_token"]]}
    outer = state["post_processor"]
    if outer and "processors" in outer:
        outer = {**outer, "processors": [_with_ids(one, numbers) for one in outer["processors"]]}
    elif outer:
        outer = _with_ids(outer, numbers)
    return {**state, "model": spec, "added_tokens": added, "padding": padding, "post_processor": outer}


def _with_ids(processor: Json, numbers: Mapping[str, int]) -> Json:
    changed: Json = {end: [processor[end][0], numbers[processor[end][0]]] for end in ("cls", "sep") if end in processor}
    if "special_tokens" in processor:
        changed["special_tokens"] = {
            name: {**special, "ids": [numbers[token] for token in special["tokens"]]}
            for name, special in processor["special_tokens"].items()
        }
    return {**processor, **changed}


def _processors(outer: Json | None) -> list[Json]:
    """The post-processor, or those of its parts that add tokens."""
    return list(outer.get("processors", [outer])) if outer else []


def _affixes(spec: Json) -> tuple[str, str]:
    """What begins a piece that continues a word, and what ends one that ends it; empty where a model has none."""
    return spec.get("continuing_subword_prefix") or "", spec.get("end_of_word_suffix") or ""
