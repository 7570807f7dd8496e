"""A variant in a server of its own, so that all others can be paused while it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bantam.artifact import Text
from bantam.client.classifier import Classifier
from bantam.errors import ServerError
from bantam.run.worker import REQUEST_TIMEOUT_S, Borne, Requester, Timed
from optimizer.recipe import MeasureConfig
from serving.server import Server
from serving.settings import Settings
from serving.view import Target


@dataclass(frozen=True)
class Endpoint:
    """A Triton of one variant, stopped in its tracks except when it is asked, and a process that asks it."""

    server: Server
    client: Classifier
    """For answers, not for times; answers only inside :meth:`resumed`."""
    requester: Requester

    @property
    def isolated_because(self) -> str:
        """Why Triton runs the model in a process of its own; empty if it does not."""
        return self.server.backend.reason

    def resumed(self) -> AbstractContextManager[None]:
        """Triton runs inside the block."""
        return self.server.resumed()

    def timed(self, texts: Sequence[Text]) -> Timed:
        """Time each text alone."""
        with self.resumed():
            return self.requester.timed(self.server.grpc_address, self.server.models[0], texts)

    def max_rate(self, texts: Sequence[Text], config: MeasureConfig) -> Borne:
        """Find the highest rate within the objective."""
        address, model = self.server.grpc_address, self.server.models[0]
        with self.resumed():
            return self.requester.max_rate(address, model, texts, slo_ms=config.slo_ms, seconds=config.rate_seconds)

    def peak_rss_mb(self) -> float:
        """Peak memory of the process that holds the model, in MB. Raises :class:`ServerError` if it has ended."""
        try:
            return self.server.model_memory(self.server.models[0]).peak
        except (psutil.Error, ProcessLookupError) as exc:
            raise ServerError(
                f"The server of {self.server.models[0]} has ended by itself; expected it to run."
            ) from exc


@contextmanager
def paused(repository: Path, model: str, requester: Requester, target: Target = "cpu") -> Iterator[Endpoint]:
    """Start a server of one model of a repository, see that it answers, and pause it."""
    with (
        Server(repository, models=[model], settings=Settings(target=target)) as server,
        Classifier(server.grpc_address, model, timeout=REQUEST_TIMEOUT_S, retries=0) as client,
    ):
        client.describe()
        server.pause()
        yield Endpoint(server, client, requester)
