"""The client against the real server with a tiny real model, over both protocols, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bantam import AsyncClassifier, Classifier, Prediction
from bantam.artifact import Artifact
from bantam.errors import ClientError, InvalidInputError, ModelNotFoundError
from serving.backend.engine import Engine
from serving.repository import publish
from serving.server import Server

TEXTS = ["i love it", "i hate this so much", "fear", "a day", ""]


@pytest.fixture(scope="module")
def engine(tiny_artifact: Artifact) -> Engine:
    return Engine(tiny_artifact.folder, threads=1)


@pytest.fixture(scope="module")
def thresholds(engine: Engine) -> list[float]:
    """Between the second and the third score of each label, so that each is given to some texts and not to others."""
    middle: list[float] = np.sort(engine.probabilities(TEXTS), axis=0)[1:3].mean(axis=0).tolist()
    return middle


@pytest.fixture(scope="module")
def server(
    tiny_artifact: Artifact,
    make_artifact: Callable[..., Artifact],
    thresholds: list[float],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("model_repo")
    publish(tiny_artifact, repository, "tiny", thresholds=thresholds, max_batch_size=8)
    publish(make_artifact(task="single_label"), repository, "single", thresholds=None, max_batch_size=8)
    pairs = make_artifact(task="regression", labels=("relatedness",), pair=True)
    publish(pairs, repository, "pairs", thresholds=None, max_batch_size=8)
    with Server(repository) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def endpoint(request: pytest.FixtureRequest, server: Server) -> dict[str, Any]:
    address = server.grpc_address if request.param == "grpc" else server.http_address
    return {"address": address, "protocol": request.param}


pytestmark = pytest.mark.triton


def test_readme_lines(server: Server) -> None:
    with Classifier(server.grpc_address, model="tiny") as classify:
        (prediction,) = classify(["I love it"])
    assert isinstance(prediction, Prediction)
    assert list(prediction.scores) == ["joy", "anger", "fear"]
    assert set(prediction.labels) <= set(prediction.scores)


def test_scores_are_those_of_the_engine_in_process(endpoint: dict[str, Any], engine: Engine) -> None:
    with Classifier(model="tiny", **endpoint) as classify:
        scores = classify.probabilities(TEXTS)
    assert scores.dtype == np.float32
    assert scores.shape == (5, 3)
    assert scores == pytest.approx(engine.probabilities(TEXTS), abs=1e-5)


def test_labels_are_those_at_or_above_their_threshold(
    endpoint: dict[str, Any], engine: Engine, thresholds: list[float]
) -> None:
    with Classifier(model="tiny", **endpoint) as classify:
        predictions = classify(TEXTS)
        description = classify.describe()
    assert (description.task, description.max_batch_size) == ("multi_label", 8)
    given = np.array([[label in prediction.labels for label in description.labels] for prediction in predictions])
    assert np.array_equal(given, engine.probabilities(TEXTS) >= np.array(thresholds))
    assert given.sum(axis=0).tolist() == [3, 3, 3]


def test_single_label_gives_the_best_one(endpoint: dict[str, Any]) -> None:
    with Classifier(model="single", **endpoint) as classify:
        predictions = classify(TEXTS)
        assert classify.describe().thresholds is None
    for prediction in predictions:
        assert prediction.labels == [max(prediction.scores, key=prediction.scores.__getitem__)]
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)


def test_pairs_and_a_regression(endpoint: dict[str, Any], make_artifact: Callable[..., Artifact]) -> None:
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    expected = Engine(make_artifact(task="regression", labels=("relatedness",), pair=True).folder).probabilities(pairs)

    async def run() -> list[Prediction]:
        async with AsyncClassifier(model="pairs", **endpoint) as classify:
            return await classify(pairs)

    with Classifier(model="pairs", **endpoint) as classify:
        predictions = classify(pairs)
        assert classify.probabilities(pairs) == pytest.approx(expected, abs=1e-5)
        with pytest.raises(InvalidInputError, match="reads pairs of texts and got single ones"):
            classify(TEXTS)
    assert [each.scores["relatedness"] for each in predictions] == pytest.approx(expected[:, 0].tolist(), abs=1e-5)
    assert all(each.labels == [] for each in predictions)
    assert asyncio.run(run()) == [
        Prediction([], pytest.approx(each.scores, abs=1e-5))  # type: ignore[arg-type]
        for each in predictions
    ]


def test_a_single_text_gives_a_single_prediction(endpoint: dict[str, Any]) -> None:
    with Classifier(model="tiny", **endpoint) as classify:
        alone = classify("i love it")
        assert alone.scores == pytest.approx(classify(["i love it"])[0].scores, abs=1e-6)


def test_no_texts_give_nothing(endpoint: dict[str, Any]) -> None:
    with Classifier(model="tiny", **endpoint) as classify:
        assert classify([]) == []
        assert classify.probabilities(iter(())).shape == (0, 3)


def test_ten_thousand_texts_in_one_call(endpoint: dict[str, Any], engine: Engine) -> None:
    texts = [TEXTS[i % 5] + " very" * (i % 7) for i in range(10_000)]
    with Classifier(model="tiny", **endpoint) as classify:
        scores = classify.probabilities(texts)
    assert scores == pytest.approx(engine.probabilities(texts), abs=1e-5)


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "😀 love", "i love it " * 100_000, "\r\n\t", "\u202e\ufeff"])
def test_odd_texts_are_answered(endpoint: dict[str, Any], engine: Engine, text: str) -> None:
    with Classifier(model="tiny", **endpoint) as classify:
        assert classify.probabilities(text) == pytest.approx(engine.probabilities([text]), abs=1e-5)


def test_async_gives_the_same(endpoint: dict[str, Any]) -> None:
    texts = TEXTS * 20

    async def run() -> tuple[list[Prediction], Prediction, Any]:
        async with AsyncClassifier(model="tiny", **endpoint) as classify:
            many, one = await asyncio.gather(classify(texts), classify("fear"))
            return many, one, await classify.probabilities([])

    many, one, none = asyncio.run(run())
    with Classifier(model="tiny", **endpoint) as classify:
        expected = classify(texts)
    assert [prediction.labels for prediction in many] == [prediction.labels for prediction in expected]
    for got, wanted in zip(many, expected, strict=True):
        assert got.scores == pytest.approx(wanted.scores, abs=1e-5)
    assert one.scores == pytest.approx(expected[2].scores, abs=1e-5)
    assert none.shape == (0, 3)


def test_an_unknown_model_is_named_with_the_address(endpoint: dict[str, Any]) -> None:
    with (
        Classifier(model="absent", **endpoint) as classify,
        pytest.raises(ModelNotFoundError, match=rf"'absent' at {endpoint['address']}.*Check the name"),
    ):
        classify("a")


def test_the_port_of_the_other_protocol(server: Server) -> None:
    for address, protocol in ((server.http_address, "grpc"), (server.grpc_address, "http")):
        with (
            Classifier(address, "tiny", protocol=protocol, retries=0) as classify,  # type: ignore[arg-type]
            pytest.raises(ClientError, match="port speaks this protocol"),
        ):
            classify("a")
