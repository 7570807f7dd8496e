"""The model and its baseline as their server has them: who is there, and what each says of a text."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bantam.client.classifier import Classifier
from bantam.client.prediction import Description, Prediction
from bantam.client.texts import Text
from bantam.errors import ClientError, ModelNotFoundError
from serving.repository import baseline_of

LOOK_S = 1.0
"""A server that has not answered within this is down."""
ANSWER_S = 10.0
REQUESTS, ENOUGH_S = 5, 0.1
"""How often a text is sent to each model to be timed, and after how long it is not sent again."""


@dataclass(frozen=True)
class Status:
    """What was found at the address a moment ago."""

    labels: tuple[str, ...] = ()
    """The model's; none if it does not answer."""
    task: str = ""
    pair: bool = False
    """Whether the model reads pairs of texts."""
    baseline: bool = False
    """Whether the baseline answers, and with the same labels, to the same kind of texts."""
    problem: str = ""
    """Why the model, or the baseline, is not there."""

    @property
    def up(self) -> bool:
        """Whether the model answers."""
        return bool(self.labels)


@dataclass(frozen=True)
class TimedPrediction:
    """What one model says of a text, and how long it took."""

    prediction: Prediction
    latencies_ms: tuple[float, ...]
    """Of each request, around the client's call."""

    @property
    def p50_ms(self) -> float:
        """The median."""
        return median(self.latencies_ms)


@dataclass(frozen=True)
class SideBySide:
    """The answers to one text; the baseline's is None if it is not served."""

    task: str
    model: TimedPrediction
    baseline: TimedPrediction | None

    @property
    def speedup(self) -> float | None:
        """The baseline's latency divided by the model's."""
        return self.baseline.p50_ms / self.model.p50_ms if self.baseline else None


@dataclass(frozen=True)
class ServedPair:
    """Where a model and its baseline are served.

    Clients are made for each use: a model that was published again, with other labels, is seen at once.
    """

    address: str
    model: str

    @property
    def baseline(self) -> str:
        """The baseline's name."""
        return baseline_of(self.model)

    def client(self, name: str, timeout: float = ANSWER_S) -> Classifier:
        """A client that does not retry: whoever is at the page is to see that the server is down."""
        return Classifier(self.address, name, timeout=timeout, retries=0)

    def look(self) -> Status:
        """Ask the server for both; never raises."""
        try:
            with self.client(self.model, LOOK_S) as client:
                found = client.describe()
        except ClientError as exc:
            return Status(problem=str(exc))
        try:
            with self.client(self.baseline, LOOK_S) as client:
                same = alike(client.describe(), found)
        except ClientError as exc:
            return Status(found.labels, found.task, found.pair, problem=str(exc))
        problem = "" if same else f"{self.baseline} has other labels: it is the baseline of another model."
        return Status(found.labels, found.task, found.pair, baseline=same, problem=problem)

    def compare(self, text: Text) -> SideBySide:
        """Send a text, or a pair, to both models in turn, a few times, so that both are timed alike.

        Raises the :class:`ClientError` of the model; a baseline that is not served, or is another model's, is left out.
        """
        with ExitStack() as stack:
            clients = {self.model: stack.enter_context(self.client(self.model))}
            found = clients[self.model].describe()
            baseline = stack.enter_context(self.client(self.baseline))
            try:
                if alike(baseline.describe(), found):
                    clients = {self.baseline: baseline, **clients}
            except ModelNotFoundError:
                pass  # the page says so
            answers = _in_turn(clients, text)
        return SideBySide(found.task, answers[self.model], answers.get(self.baseline))


def alike(one: Description, other: Description) -> bool:
    """Whether two models can be compared: both say the same of the same kind of text."""
    return (one.labels, one.task, one.pair) == (other.labels, other.task, other.pair)


def _in_turn(clients: dict[str, Classifier], text: Text) -> dict[str, TimedPrediction]:
    # Not timed: after a pause, the first one finds cores asleep and caches cold, in whichever model comes first.
    predictions = {name: client(text) for name, client in clients.items()}
    latencies: dict[str, list[float]] = {name: [] for name in clients}
    began = time.perf_counter()
    for number in range(REQUESTS):
        if number and time.perf_counter() - began > ENOUGH_S:
            break
        for name, client in clients.items():
            sent = time.perf_counter()
            client(text)
            latencies[name].append(1e3 * (time.perf_counter() - sent))
    return {name: TimedPrediction(predictions[name], tuple(latencies[name])) for name in clients}
