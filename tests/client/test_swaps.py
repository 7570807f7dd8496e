"""Two versions with other weights, thresholds and label order, swapped under running clients of a real Triton."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam import Prediction
from bantam.artifact import Artifact, seal
from bantam.client import AsyncClassifier, Classifier
from bantam.errors import ServerError
from serving.backend.engine import Engine
from serving.repository import publish
from serving.server import Server

SWAPS = 20
TEXTS = ["i love it", "i hate this so much", "fear", "a day", "", "you love that !", "not so very much"]
ORDERS = (("joy", "anger", "fear"), ("fear", "joy", "anger"))
SECONDS = 60.0

pytestmark = [pytest.mark.triton, pytest.mark.slow]


class Version:
    """One of the two: what publishing takes, and what it makes of the texts."""

    def __init__(self, artifact: Artifact, number: int) -> None:
        self.number = str(number)
        self.artifact, self.labels = artifact, artifact.manifest.signature.labels
        self.scores = Engine(artifact.folder, threads=1).probabilities(TEXTS)
        self.thresholds = np.sort(self.scores, axis=0)[2:4].mean(axis=0)

    def says(self, row: int, prediction: Prediction) -> bool:
        """Whether this version would answer so to that text, and the answer says that it did."""
        scores = dict(zip(self.labels, self.scores[row].tolist(), strict=True))
        chosen = [label for label, cut in zip(self.labels, self.thresholds, strict=True) if scores[label] >= cut]
        answers = set(prediction.labels) == set(chosen) and prediction.scores == pytest.approx(scores, abs=1e-5)
        return answers and prediction.version == self.number


@pytest.fixture(scope="module")
def versions(make_artifact: Callable[..., Artifact]) -> tuple[Version, Version]:
    first, second = (make_artifact(labels=labels) for labels in ORDERS)
    turned(second.folder / "model.onnx")
    return Version(first, 1), Version(Artifact(second.folder, seal(second.folder, second.manifest)), 2)


def turned(path: Path) -> None:
    """Give a model other weights: its head with the opposite sign."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    (head,) = (weights for weights in model.graph.initializer if weights.name == "head")
    head.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(head), "head"))
    onnx.save(model, path)


class Swapped:
    """A server that follows what is published, and the two versions."""

    def __init__(self, server: Server, versions: tuple[Version, Version]) -> None:
        self.server, self.versions, self.count = server, versions, 0
        self.said: list[str] = []

    def follow(self) -> None:
        """What ``bantam serve`` does, until the server is stopped."""
        with contextlib.suppress(ServerError):
            self.server.wait(self.said.append)

    def swap(self) -> Version:
        """Publish the other version and wait until it is the one that is served."""
        self.count += 1
        version = self.versions[self.count % 2]
        publish(version.artifact, self.server.repository, "m", thresholds=version.thresholds.tolist(), max_batch_size=2)
        deadline = time.monotonic() + SECONDS
        while len(self.said) < self.count:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        assert "is served" in self.said[-1]
        return version


@pytest.fixture
def swapped(versions: tuple[Version, Version], tmp_path: Path) -> Iterator[Swapped]:
    first = versions[0]
    publish(first.artifact, tmp_path, "m", thresholds=first.thresholds.tolist(), max_batch_size=2)
    with Server(tmp_path, models=["m"], follow=True) as server:
        found = Swapped(server, versions)
        threading.Thread(target=found.follow, daemon=True).start()
        yield found


class Asking:
    """Clients of all kinds that ask for all texts again and again, until told to stop."""

    def __init__(self, server: Server) -> None:
        self.stop = threading.Event()
        self.ready = threading.Barrier(5)
        """Passed when each client has read the first version, whose order of labels its columns keep."""
        self.answers: list[list[Prediction]] = []
        self.matrices: list[Any] = []
        self.errors: list[BaseException] = []
        grpc, http = server.grpc_address, server.http_address
        jobs: list[Callable[[], None]] = [
            lambda: self.blocking(Classifier(grpc, "m")),
            lambda: self.blocking(Classifier(http, "m", protocol="http")),
            lambda: asyncio.run(self.on_asyncio(AsyncClassifier(grpc, "m"))),
            lambda: asyncio.run(self.on_asyncio(AsyncClassifier(http, "m", protocol="http"))),
        ]
        self.threads = [threading.Thread(target=self.guarded, args=(job,)) for job in jobs]

    def guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:  # noqa: BLE001 the test's own thread says it
            self.errors.append(exc)
            self.ready.abort()

    def blocking(self, client: Classifier) -> None:
        with client as classify:
            classify.describe()
            self.ready.wait()
            while not self.stop.is_set():
                self.answers.append(classify(TEXTS))
                self.matrices.append(classify.probabilities(TEXTS))

    async def on_asyncio(self, client: AsyncClassifier) -> None:
        async with client as classify:
            await classify.describe()
            self.ready.wait()
            while not self.stop.is_set():
                self.answers.append(await classify(TEXTS))
                self.matrices.append(await classify.probabilities(TEXTS))

    def __enter__(self) -> Asking:
        for thread in self.threads:
            thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()


def test_no_text_gets_wrong_labels_while_versions_are_swapped(swapped: Swapped) -> None:
    first, second = swapped.versions
    with Classifier(swapped.server.grpc_address, "m") as classify, Asking(swapped.server) as asking:
        for _ in range(SWAPS):
            version = swapped.swap()
            assert all(version.says(row, each) for row, each in enumerate(classify(TEXTS))), "the new one answers"
    assert asking.errors == []
    assert len(asking.answers) > SWAPS
    for predictions in asking.answers:
        for row, prediction in enumerate(predictions):
            assert first.says(row, prediction) != second.says(row, prediction), prediction
    columns = [second.labels.index(label) for label in first.labels]
    for matrix in asking.matrices:
        ours = np.isclose(matrix, first.scores, atol=1e-5).all(axis=1)
        theirs = np.isclose(matrix, second.scores[:, columns], atol=1e-5).all(axis=1)
        assert (ours ^ theirs).all()
