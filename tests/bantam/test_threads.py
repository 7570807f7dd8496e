from __future__ import annotations

import numpy as np
import pytest

from bantam.threads import choose_threads, fewest_worth
from bantam.worker import Worker
from optimizer.artifact import Artifact
from optimizer.recipe import ServingConfig


@pytest.mark.parametrize(
    ("medians", "expected"),
    [
        ({1: 1.94, 2: 1.41}, 2),  # MiniLM int8
        ({1: 0.66, 2: 1.15}, 1),  # its student of 3 half-sized layers
        ({1: 1.00, 2: 0.96}, 1),  # not worth a core
        ({1: 1.00, 2: 0.97, 4: 0.60}, 4),  # what is far ahead is reached over what is not
        ({1: 1.00, 2: 0.60, 4: 0.59}, 2),
    ],
)
def test_more_threads_must_be_worth_it(medians: dict[int, float], expected: int) -> None:
    assert fewest_worth(medians) == expected


def test_threads_are_chosen_for_onnx_alone(tiny_artifact: Artifact) -> None:
    texts = ["love", "hate and fear"]
    assert choose_threads(tiny_artifact, texts, ServingConfig(threads=2)) in {1, 2}
    assert choose_threads(tiny_artifact, texts, ServingConfig(threads=1)) is None


def test_pauses_are_not_part_of_the_latency(tiny_artifact: Artifact) -> None:
    with Worker(tiny_artifact, threads=1, micro_batch=8) as worker:
        latencies = worker.latencies_ms(["love"] * 20, pause_s=0.05)
        scores = worker.scores(["love"])
    assert np.median(latencies) < 50
    with Worker(tiny_artifact, threads=2, intra_op_threads=1, micro_batch=8) as worker:
        np.testing.assert_allclose(worker.scores(["love"]), scores, atol=1e-6)
