"""How many threads should work on one text together? Measured, because the answer depends on model and machine.

More threads divide the matrix products and have to be woken and waited for at each of them. On 2 cores, two of them
save MiniLM in int8 a quarter of its time, and a student of 3 half-sized layers a tenth; on many cores, small models
want few.
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
ROUNDS = 6
"""The first of them warms up."""
WORTH = 0.95
"""More threads must take at most this share of the time of fewer; they are cores that other requests do without."""


def choose_threads(variant: Artifact, texts: Sequence[str], serving: ServingConfig) -> int | None:
    """The number of intra-op threads with the lowest latency of single texts; None where there is no choice.

    Tries 1, 2, 4 ... and ``serving.threads`` (all cores if not given), interleaved, one text after the other without a
    pause: pauses in which the cores fall asleep favour one thread far more than waiting for a server's next request
    does. Only ONNX Runtime is asked: PyTorch is the baseline as it is used, and OpenVINO's latency mode takes what it
    is given.
    """
    most = serving.threads or usable_cores()
    if variant.manifest.format != "onnx" or most == 1:
        return None
    candidates = sorted({most, *(1 << i for i in range(most.bit_length()))})
    medians: dict[int, list[float]] = {count: [] for count in candidates}
    with ExitStack() as stack:
        workers = {
            count: stack.enter_context(
                Worker(variant, threads=most, intra_op_threads=count, micro_batch=serving.micro_batch)
            )
            for count in candidates
        }
        for _ in range(ROUNDS):
            for count, worker in workers.items():
                medians[count].append(float(np.median(worker.latencies_ms(texts[:TEXTS]))))
    # Of the best round: other work on the machine makes many threads slower than one, and passes.
    return fewest_worth({count: min(times[1:]) for count, times in medians.items()})


def fewest_worth(latencies: dict[int, float]) -> int:
    """The number of threads to take, by the latency (any unit) of each, in ascending order of threads."""
    best, *more = latencies
    for count in more:
        if latencies[count] <= WORTH * latencies[best]:
            best = count
    return best
