"""The scores of texts that were asked for before. Standard library and numpy only."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from .counts import Counts, is_probe
from .reader import Text

LARGEST = 16
"""An entry takes at most the 16th part, so that a few long texts do not drive out all others."""
OVERHEAD_BYTES = 300
"""Of an entry, beside its text and its scores: the objects of Python and numpy around them."""


class ScoreCache:
    """A scorer of texts that keeps what it has scored, by the text itself: never another text's scores.

    Triton's own cache knows a request by 64 bits of a hash that whoever sends texts can make collide. ``score``: texts
    to scores, ``[texts, labels]``. ``most_bytes``: what is kept; what was not asked for the longest goes first. For one
    version of one model, and for one thread at a time. The watch's own texts are scored, and neither kept nor counted.
    """

    def __init__(self, score: Callable[[Sequence[Text]], np.ndarray], most_bytes: int, counts: Counts) -> None:
        self._score = score
        self._most = most_bytes
        self._counts = counts
        self._kept: OrderedDict[Text, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __call__(self, texts: Sequence[Text]) -> np.ndarray:
        """The scores of texts, ``[texts, labels]``. Raises what ``score`` raises, and keeps nothing then."""
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        scored = self._score(new) if new or not texts else np.empty((0, 0))
        kept = [(number, text) for number, text in enumerate(new) if not is_probe(text)]
        self._counts.looked_up(len(texts) - len(new), len(kept))
        if len(new) == len(texts):
            scores = scored
        else:
            found = dict(zip(new, scored, strict=True))
            scores = np.stack([self._row(text, found) for text in texts])
        for number, text in kept:
            self._keep(text, scored[number].copy())  # a row of a matrix would keep all of it
        return scores

    def _row(self, text: Text, found: dict[Text, np.ndarray]) -> np.ndarray:
        if text in found:
            return found[text]
        self._kept.move_to_end(text)
        return self._kept[text]

    def _keep(self, text: Text, row: np.ndarray) -> None:
        size = size_of(text, row)
        if size > self._most // LARGEST:
            return
        self._kept[text] = row
        self._bytes += size
        while self._bytes > self._most:
            self._bytes -= size_of(*self._kept.popitem(last=False))


def size_of(text: Text, row: np.ndarray) -> int:
    """Bytes that an entry takes."""
    words = sys.getsizeof(text) if isinstance(text, str) else sum(map(sys.getsizeof, text))
    return words + row.nbytes + OVERHEAD_BYTES
