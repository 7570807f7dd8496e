"""What contenders are timed on: real texts at their real lengths, and longer ones with fewer rounds.

A longer text is test texts one after the other, with as many words as fit into its tokens. Routers and guardrails see
such lengths, and what is lost at short ones, to calls and to tokenization, is little there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bantam.run.latency import draw_texts
from benchmarks.bench.process import PeerFailed

Scores = NDArray[np.float32]

BATCHED_TEXTS = 160
"""Texts of a throughput measurement in process: five batches."""
LENGTHS = (32, 128, 512)
"""Tokens of the longer texts, special ones included: sentences, a paragraph, what routers and guardrails read."""
LONG_ROUNDS = {"quick": 2, "full": 4}
LONG_TEXTS, LONG_BATCHED, LONG_SECONDS = 8, 16, 0.5
SAME_SCORES, NEAR_SCORES = 1e-3, 0.03
"""How far scores of longer texts may be from PyTorch's: each of them in fp32, their mean distance below it. More, and
something else is computed, such as fewer tokens: of MiniLM's texts of 512, cut at 128, the mean was 0.055; of
CTranslate2's int8, 0.002 (12 made-up sentences, one after the other)."""


@dataclass(frozen=True)
class Workload:
    """Texts, and how often they are timed."""

    texts: list[str]
    """Timed one by one."""
    many: list[str]
    """Timed in batches, in process."""
    rounds: int
    seconds: float
    """Of a throughput measurement of a server, in each round."""
    tokens: int | None = None
    """Of each of the longer texts; None for texts as they are."""
    known: NDArray[np.float32] | None = None
    """PyTorch's scores of ``many``: who answers something else is not timed. None if that is seen to elsewhere."""

    @property
    def name(self) -> str:
        """As messages have it."""
        return f"texts of {self.tokens} tokens" if self.tokens else "texts"


def longer(
    split: Sequence[str], tokens: int, rounds: int, count: Callable[[str], int], known: Callable[[list[str]], Scores]
) -> Workload:
    """A workload of texts as long as ``tokens`` by ``count``, made from a split's; ``known`` has their scores."""
    words = itertools.cycle(" ".join(draw_texts(split, len(split), seed=2)).split())
    made = [_filled(words, tokens, count) for _ in range(LONG_BATCHED)]
    return Workload(made[:LONG_TEXTS], made, rounds, LONG_SECONDS, tokens, known(made))


def _filled(words: Iterator[str], tokens: int, count: Callable[[str], int]) -> str:
    """As many of the next words as fit."""
    chosen: list[str] = []
    for word in words:
        if count(" ".join([*chosen, word])) > tokens:
            break
        chosen.append(word)
    return " ".join(chosen)


def check(work: Workload, scores: Scores, precision: str) -> None:
    """Raises :class:`PeerFailed` if these are not the scores of the workload's texts."""
    if work.known is None:
        return
    differences = np.abs(scores - work.known)
    same = differences.max() <= SAME_SCORES if precision == "fp32" else differences.mean() <= NEAR_SCORES
    if not same:
        raise PeerFailed(
            "scores",
            f"{work.name}: not timed, for it does not compute what PyTorch does: scores differ by up to "
            f"{differences.max():.1e}, {differences.mean():.1e} in the mean",
        )


def known_scores(checkpoint: Path, texts: Sequence[str], max_length: int) -> Scores:
    """What PyTorch answers in fp32, text by text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)).logits
            for text in texts
        ]
    found: Scores = torch.cat(logits).sigmoid().numpy()
    return found
