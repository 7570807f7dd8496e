"""Two containers, a client that knows both: one is killed under load, and no request is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from bantam.client.classifier import Classifier
from bantam.errors import BantamError
from serving.container import Container
from serving.ports import free_ports
from tests.docker.balancer import is_ready
from tests.plugins.images import contained

pytestmark = [pytest.mark.docker, pytest.mark.index, pytest.mark.slow]
CLIENTS = 8
PATIENCE_S = 120.0
TEXT = "i love it"


class Load:
    """Threads that ask one client for one text after another, and what they were told."""

    def __init__(self, classify: Classifier) -> None:
        self.answers: list[np.ndarray] = []
        self.lost: list[BantamError] = []
        self._classify = classify
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._classify.probabilities([TEXT]))
            except BantamError as exc:
                self.lost.append(exc)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted or bool(self.lost))

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answered(container: Container) -> int:
    """How many requests a server has answered since it started."""
    with Classifier(container.grpc_address, "tiny") as classify:
        classify(TEXT)  # it is there
    with grpcclient.InferenceServerClient(container.grpc_address) as client:
        (model,) = client.get_inference_statistics("tiny").model_stats
        return int(model.inference_stats.success.count)


def test_no_request_is_lost_when_one_of_two_is_killed(server_image: str, repository: Path) -> None:
    # Fixed, so that what starts again is where it was.
    ports: dict[str, Any] = {**free_ports("127.0.0.1", {"grpc_port": 0, "watch_port": 0})}
    with (
        contained(repository, server_image, **ports) as one,
        contained(repository, server_image) as other,
        Classifier(f"{one.grpc_address},{other.grpc_address}", "tiny", timeout=60) as classify,
    ):
        expected = classify.probabilities([TEXT])
        load = Load(classify)
        try:
            until(lambda: min(answered(one), answered(other)) > 100)
            one.container.kill()
            load.more(500)
            assert one.exit_code() == 137
            one.container.start()
            until(lambda: is_ready(one.watch_address))
            load.more(500)
            until(lambda: answered(one) > 100)
        finally:
            load.end()
        assert load.lost == []
        assert len(load.answers) > 1000
        for answer in load.answers:
            np.testing.assert_allclose(answer, expected, atol=1e-6)
