"""Texts to tokens, exactly as Hugging Face's tokenizer makes them with ``truncation=True``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from .manifest import ModelManifest

Text = str | tuple[str, str]
SLACK = 64
"""Tokens, for what a cut changes around itself."""
LAST_WORDS = 8
"""Words, for what a cut within a word changes: it, and those next to it that are told apart by what follows."""
CHARACTERS = 8
"""Characters taken for each token, at first: English has 4 to 5, and few texts have more than that."""
CROSSING = re.compile(r"[^\s▁ĠĊ][\s▁ĠĊ]")
"""In a token: a space or line break after something else, in any of the ways in which vocabularies write them."""


class Reader:
    """The tokenizer of the model in ``folder``.

    ``tokenizer.json`` holds all of it but two settings that transformers keeps in ``tokenizer_config.json`` and gives
    the tokenizer in Python: the truncation side, which the manifest knows, and whether special tokens in a text are
    split like any other word.
    """

    def __init__(self, folder: Path, manifest: ModelManifest) -> None:
        self.pair = manifest.pair
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        # Of a pair, the longer text loses tokens first; transformers calls it longest_first too.
        self._tokenizer.enable_truncation(manifest.max_length, direction=manifest.truncation_side)
        config = folder / "tokenizer_config.json"
        if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("split_special_tokens"):
            self._tokenizer.encode_special_tokens = True
        self._enough = manifest.max_length + SLACK
        self._at_left = manifest.truncation_side == "left"
        self._first = CHARACTERS * self._enough
        self._words_apart = _splits_words(self._tokenizer)
        # No token spans a space between two words: they are cut apart first, or no token is so made.
        self._cuts = self._words_apart or not any(map(CROSSING.search, self._tokenizer.get_vocab()))

    def __call__(self, texts: Sequence[Text]) -> list[Encoding]:
        """The tokens of each text or pair. Raises ``ValueError`` if one is not what the model reads."""
        return self._tokenizer.encode_batch_fast([self._shortened(text) for text in texts])

    def _shortened(self, text: Text) -> Text:
        """The same without what the model cannot get to see."""
        if isinstance(text, str) == self.pair:
            raise ValueError(f"Got {text!r:.80}, expected {'a pair of texts' if self.pair else 'a single text'}.")
        if isinstance(text, str):
            return text if len(text) <= 2 * self._first else self._cut(text, self._enough)
        return text if max(map(len, text)) <= 2 * self._first else self._cut_pair(*text)

    def _cut_pair(self, one: str, other: str) -> tuple[str, str]:
        """Each text on its own, and the one that has more tokens still has: it keeps one more if their number is odd.

        Without a space they are cut all the same, because the tokenizer makes each combination of all parts of the two,
        more than fit into any memory; what it makes of a word of thousands of letters may then differ.
        """
        first, second = (self._cut(text, self._enough, anywhere=True) for text in (one, other))
        longer = len(first) < len(one)
        if longer and len(second) < len(other):
            longer = self._count(one) > self._count(other)
        if longer:
            return self._cut(one, max(self._enough, self._count(second) + SLACK), anywhere=True), second
        return first, self._cut(other, max(self._enough, self._count(first) + SLACK), anywhere=True)

    def _cut(self, text: str, enough: int, *, anywhere: bool = False) -> str:
        """As much of a very long text as has the same tokens in the end: to tokenize all of it would take seconds.

        The tokenizer works from one space to the next, so what a cut at a space changes is around it, and the model
        does not get to see it if there are many more tokens than it can take: ``enough``. Without a space near, as in
        Chinese, whole words count alone, which the tokenizer finds from left to right. A text with fewer tokens, or of
        one endless word, is left whole: slow, and right.
        """
        size, by_words = self._first, self._words_apart and not self._at_left
        while 2 * size < len(text):
            start = len(text) - 2 * size if self._at_left else size
            places = (text.find(mark, start, start + size) for mark in " \n" if self._cuts)
            place = next((found for found in places if found >= 0), None)
            if place is not None or anywhere:
                place = start if place is None else place
                part = text[place:] if self._at_left else text[:place]
                if self._count(part) >= enough:
                    return part
            elif by_words:
                if self._count(text[:start], without_words=LAST_WORDS) >= enough:
                    return text[:start]
                by_words = False
            size *= 2
        return text

    def _count(self, text: str, *, without_words: int = 0) -> int:
        """How many tokens a text has, those included that are cut off, and a few special ones counted several times;
        or only those before its last words.
        """
        encoding = self._tokenizer.encode(text)
        parts = [encoding, *encoding.overflowing]
        if not without_words:
            return sum(map(len, parts))
        words = [word for part in parts for word in part.word_ids if word is not None]
        last = max(words, default=0) - without_words
        return sum(word < last for word in words)


def _splits_words(tokenizer: Tokenizer) -> bool:
    """Whether words are cut apart before they are cut into tokens."""
    return len({word for word in tokenizer.encode("a b", add_special_tokens=False).word_ids if word is not None}) > 1
