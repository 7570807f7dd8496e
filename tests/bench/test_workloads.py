"""Longer texts, and who may be timed on them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench import workloads
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.workloads import Workload

TEXTS = ["so good", "you hate this day very much", "ok"] * 3
KNOWN = np.array([[0.2, 0.9], [0.5, 0.1]], dtype=np.float32)


def test_longer_texts_are_the_splits_own_words_up_to_their_tokens() -> None:
    def count(text: str) -> int:
        return len(text.split()) + 2

    made = workloads.longer(TEXTS, 40, 2, count, lambda texts: np.zeros((len(texts), 1), dtype=np.float32))
    assert len(made.texts) == workloads.LONG_TEXTS
    assert made.many[: len(made.texts)] == made.texts
    assert {count(text) for text in made.many} == {40}
    assert {word for text in made.many for word in text.split()} == {word for text in TEXTS for word in text.split()}
    assert len(set(made.many)) > 1
    assert made.known is not None
    assert made.known.shape == (workloads.LONG_BATCHED, 1)


@pytest.mark.parametrize(
    ("precision", "shift", "timed"),
    [("fp32", 5e-4, True), ("fp32", 5e-3, False), ("int8", 5e-3, True), ("bf16", 5e-3, True), ("int8", 0.1, False)],
)
def test_who_answers_something_else_is_not_timed(precision: str, shift: float, timed: bool) -> None:
    work = Workload(["a", "b"], ["a", "b"], 2, 0.5, 512, KNOWN)
    if timed:
        workloads.check(work, KNOWN - shift, precision)
        return
    with pytest.raises(PeerFailed, match=r"texts of 512 tokens: not timed, .* differ by up to"):
        workloads.check(work, KNOWN - shift, precision)


def test_texts_as_they_are_are_judged_elsewhere() -> None:
    work = Workload(["a"], ["a"], 6, 1.0)
    workloads.check(work, KNOWN, "fp32")
    assert (work.name, work.known) == ("texts", None)
