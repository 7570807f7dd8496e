from __future__ import annotations

import numpy as np
import pytest

from bantam.threads import choose_threads, fewest_worth
from bantam.worker import Worker
from optimizer.artifact import Artifact
from optimizer.recipe import ServingConfig


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ({1: 1.58, 2: 1.21}, 2),
        ({1: 0.61, 2: 0.84}, 1),
        ({1: 1.00, 2: 0.96}, 1),  # not worth a core
        ({1: 1.00, 2: 0.97, 4: 0.60}, 4),  # what is far ahead is reached over what is not
        ({1: 1.00, 2: 0.60, 4: 0.59}, 2),
    ],
)
def test_more_threads_must_be_worth_it(latencies: dict[int, float], expected: int) -> None:
    assert fewest_worth(latencies) == expected


def test_threads_are_chosen_for_onnx_alone(tiny_artifact: Artifact) -> None:
    texts = ["love", "hate and fear"]
    assert choose_threads(tiny_artifact, texts, ServingConfig(threads=2)) in {1, 2}
    assert choose_threads(tiny_artifact, texts, ServingConfig(threads=1)) is None


def test_threads_of_one_text_do_not_change_its_scores(tiny_artifact: Artifact) -> None:
    scores = []
    for count in (1, 2):
        with Worker(tiny_artifact, threads=2, intra_op_threads=count, micro_batch=8) as worker:
            scores.append(worker.scores(["love", "hate and fear"]))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
