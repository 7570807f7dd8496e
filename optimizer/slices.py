"""Parts of a split whose quality is told apart: by length, by how words are cut into tokens, by a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bantam.artifact import Text
from optimizer.metric import Array

LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, None))
"""In words, both ends included."""
LEAST = 50
"""Rows that a value of a column must have for a slice of its own: an interval on fewer says nothing."""
CHUNK = 1000
"""Texts that are tokenized at a time, so that memory is flat."""


@dataclass(frozen=True, eq=False)
class Portion:
    """Rows of a split, and what they have in common."""

    name: str
    kind: Literal["length", "pieces", "group"]
    rows: Array
    """bool ``[rows]``; at least one is True."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """How a tokenizer cuts the texts of a split."""

    counts: Array
    """Tokens of each text before it is cut to what the model reads, special ones included, int64 ``[rows]``."""
    per_word: Array
    """Tokens that a word of the text is split into, on average, float64 ``[rows]``; NaN for texts without words."""
    max_length: int
    """What the model reads; longer texts are cut."""

    @property
    def cut(self) -> float:
        """The share of texts that are cut."""
        return float((self.counts > self.max_length).mean())

    @property
    def pieces(self) -> float | None:
        """Tokens of a word, as the mean over texts; None if no text has words."""
        known = self.per_word[~np.isnan(self.per_word)]
        return float(known.mean()) if known.size else None


def tokens_of(tokenizer_json: Path, max_length: int, texts: Sequence[Text]) -> Tokens:
    """Tokenize texts, without cutting them. A word is what the tokenizer itself takes for one before it splits it.

    Where it takes whole texts at once, as Gemma's and Llama 2's do, what stands between spaces is a word.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    counts, per_word = [], []
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        for text, found in zip(chunk, tokenizer.encode_batch(list(chunk)), strict=True):
            words = [place for place in zip(found.sequence_ids, found.word_ids, strict=True) if place[1] is not None]
            counts.append(len(found.ids))
            per_word.append(len(words) / max(len(set(words)), _words(text)) if words else np.nan)
    return Tokens(np.array(counts, dtype=np.int64), np.array(per_word), max_length)


def _words(text: Text) -> int:
    """Between spaces; of a pair those of both."""
    return len((text if isinstance(text, str) else " ".join(text)).split())


def by_length(texts: Sequence[Text]) -> Iterator[Portion]:
    """Texts of like lengths in words, those of a pair together."""
    words = np.array([_words(text) for text in texts])
    for low, high in LENGTHS:
        inside = (words >= low) & (words <= (high or words.max(initial=0)))
        if inside.any():
            yield Portion(f"{low} to {high} words" if high else f"{low} words and more", "length", inside)


def by_pieces(tokens: Tokens) -> Iterator[Portion]:
    """Thirds of the texts, by how many tokens their words are split into; none where all texts are alike in that."""
    known = tokens.per_word[~np.isnan(tokens.per_word)]
    if not known.size:
        return
    first, second = np.quantile(known, [1 / 3, 2 / 3], method="higher")
    for name, inside in (
        (f"under {first:.2f} tokens a word", tokens.per_word < first),
        (f"{first:.2f} to {second:.2f} tokens a word", (tokens.per_word >= first) & (tokens.per_word < second)),
        (f"{second:.2f} tokens a word and more", tokens.per_word >= second),
    ):
        if 0 < inside.sum() < len(known):
            yield Portion(name, "pieces", inside)


def by_group(groups: Sequence[str], column: str) -> Iterator[Portion]:
    """Each value of a column that has :data:`LEAST` rows or more, the most frequent first."""
    values = np.array(groups, dtype=object)
    for value, rows in Counter(groups).most_common():
        if rows >= LEAST:
            yield Portion(f"{column}: {value}", "group", np.asarray(values == value))


def too_small(groups: Sequence[str]) -> dict[str, int]:
    """The values that have fewer, with their rows, the most frequent first."""
    return {value: rows for value, rows in Counter(groups).most_common() if rows < LEAST}
