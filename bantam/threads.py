"""How many threads should work on one text together? Measured, because the answer depends on model and machine.

A second thread halves the work and costs a wake-up at each text: a 6-layer MiniLM in int8 gains a third of its time by
it, a student of 3 half-sized layers loses two thirds on one and the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from bantam.worker import Worker
from optimizer.artifact import Artifact
from optimizer.recipe import ServingConfig
from serving.backend.engine import usable_cores

TEXTS = 50
ROUNDS = 3
PAUSE_S = 0.001
"""Between two texts, as between two requests: in a tight loop threads never fall asleep, and their waking is free."""
WORTH = 0.95
"""More threads must take at most this share of the time of fewer; they are cores that other requests do without."""


def choose_threads(variant: Artifact, texts: Sequence[str], serving: ServingConfig) -> int | None:
    """The number of intra-op threads with the lowest median latency of single texts; None where there is no choice.

    Tries 1, 2, 4 ... threads up to ``serving.threads``, interleaved. Only ONNX Runtime is asked: PyTorch is the
    baseline as it is used, and OpenVINO's latency mode takes what it is given.
    """
    most = serving.threads or usable_cores()
    if variant.manifest.format != "onnx" or most == 1:
        return None
    candidates = [1 << i for i in range(most.bit_length())]
    texts = texts[:TEXTS]
    with ExitStack() as stack:
        workers = {
            count: stack.enter_context(
                Worker(variant, threads=most, intra_op_threads=count, micro_batch=serving.micro_batch)
            )
            for count in candidates
        }
        # The first round warms up.
        rounds = [
            {count: worker.latencies_ms(texts, pause_s=PAUSE_S) for count, worker in workers.items()}
            for _ in range(ROUNDS + 1)
        ][1:]
    medians = {count: float(np.median([latencies[count] for latencies in rounds])) for count in candidates}
    return fewest_worth(medians)


def fewest_worth(medians: dict[int, float]) -> int:
    """The number of threads to take, by median latency (any unit) of each, in ascending order of threads."""
    best, *more = medians
    for count in more:
        if medians[count] <= WORTH * medians[best]:
            best = count
    return best
