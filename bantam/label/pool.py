"""Scorers side by side: a process a core with an engine of one thread, or actors of a Ray cluster.

One engine on all cores is slower: threads that share a run wait for each other, the more so beside other work.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Text
from bantam.label.model import LabelModel
from bantam.run.worker import Worker
from serving.backend.cores import usable_cores

TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"


class Scorer(Protocol):
    """Scores texts, a list at a time."""

    def probabilities(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """``[texts, labels]``."""


class Pool:
    """Hands lists of texts to whichever scorer is free."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.size = len(scorers)
        self._free: queue.SimpleQueue[Scorer] = queue.SimpleQueue()
        for scorer in scorers:
            self._free.put(scorer)
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="label")

    def submit(self, texts: Sequence[Text]) -> Future[NDArray[np.float32]]:
        """Have these scored; the future raises what the scorer does."""
        return self._threads.submit(self._score, texts)

    def close(self) -> None:
        """Wait for what was begun; what was not is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _score(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        scorer = self._free.get()
        try:
            return scorer.probabilities(texts)
        finally:
            self._free.put(scorer)


@contextlib.contextmanager
def local_pool(model: LabelModel, workers: int | None) -> Iterator[Pool]:
    """A process for each of this machine's cores, or so many."""
    with contextlib.ExitStack() as stack:
        with _without_tokenizer_threads():  # what the processes inherit: each has a core of its own
            processes = [
                stack.enter_context(Worker(model.artifact, threads=1, micro_batch=model.micro_batch))
                for _ in range(workers or usable_cores())
            ]
        pool = Pool(processes)
        stack.callback(pool.close)
        yield pool


@contextlib.contextmanager
def _without_tokenizer_threads() -> Iterator[None]:
    before = os.environ.get(TOKENIZER_THREADS)
    os.environ[TOKENIZER_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TOKENIZER_THREADS]
        else:
            os.environ[TOKENIZER_THREADS] = before
