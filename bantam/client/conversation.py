"""What a client asks of a server, and what it makes of the answers; the same for both clients, which only wait in
different ways.

A model may be published anew while it is asked. Each answer names the version that gave it, and is read with the
labels and thresholds of that version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bantam.client.prediction import Description, Prediction
from bantam.client.retry import Attempts, Throttle
from bantam.client.texts import Row, width
from bantam.client.transport import Scores, Target, Transport
from bantam.errors import ClientError, InvalidInputError, ModelNotFoundError, UnavailableError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class Part(NamedTuple):
    """Some texts' scores, and the version that gave them."""

    scores: Scores
    """Columns as in ``description.labels``."""
    description: Description

    def predictions(self) -> list[Prediction]:
        """One a text, decided as this version has it."""
        return self.description.predictions(self.scores)


class Conversation:
    """All that one client asks of one model. Threads, or the coroutines of one event loop, may share it."""

    def __init__(self, transport: Transport, target: Target, retries: int, sleep: Sleep) -> None:
        """``sleep``: how to wait between tries, as the transport waits for answers."""
        self.transport = transport
        self._sleep = sleep
        self._target = target
        self._retries = retries
        self._throttle = Throttle()
        self._versions: dict[str, Description] = {}
        self._latest: Description | None = None
        self._labels: tuple[str, ...] = ()
        """As first read: the order of columns for the client's whole life."""
        self._lock = threading.Lock()

    async def describe(self) -> Description:
        """The version that answered last; before any answer, what the server says is served."""
        # No lock: were the server down, threads would wait here for each other's time-outs, one after the other.
        return self._latest or await self._read_anew()

    async def describe_for(self, rows: Sequence[Row]) -> Description:
        """The same for who is about to ask these. :class:`InvalidInputError` if the model reads pairs and these are
        single texts, or the other way round.
        """
        found = await self.describe()
        if rows and found.pair != (width(rows) == 2):
            found = await self._read_anew()  # another version may have come since
            if found.pair != (width(rows) == 2):
                raise self._target.reads_pairs() if found.pair else self._target.reads_texts()
        return found

    async def ask(self, texts: Sequence[Row]) -> list[Part]:
        """Scores of at most ``max_batch_size`` texts: one part, or several if a new version takes fewer at a time."""
        try:
            return [await self._answer(texts)]
        except InvalidInputError:
            if len(texts) == 1:
                raise
            most = (await self._read_anew()).max_batch_size
            if len(texts) <= most:
                raise
        return [part for fewer in split(list(texts), most) for part in await self.ask(fewer)]

    def matrix(self, parts: Sequence[Part]) -> Scores:
        """The scores of all parts, ``[texts, labels]``, in an array of the caller's own."""
        for part in parts:
            if part.description.labels != self._labels:
                raise ClientError(
                    f"The {self._target} has another version with the labels {', '.join(part.description.labels)}; the "
                    f"columns of this client are {', '.join(self._labels)}. Make a new client, or call this one: "
                    "predictions carry their labels."
                )
        return np.concatenate([part.scores for part in parts] or [np.empty((0, len(self._labels)), np.float32)])

    async def _answer(self, texts: Sequence[Row]) -> Part:
        attempts = self._attempts()
        while True:
            try:
                scores, version = await self.transport.infer(texts, attempts.left())
                description = await self._describe(version, attempts.left())
            except UnavailableError as exc:
                await self._sleep(attempts.pause(exc))
            else:
                self._throttle.answered()
                self._latest = description
                return Part(description.arrange(scores, self._target), description)

    async def _describe(self, version: str, timeout: float) -> Description:
        """The version that gave an answer. :class:`UnavailableError` if it is gone before it could be read."""
        known = self._versions.get(version)
        if known is not None:
            return known
        try:
            found = await self._read(version, timeout)
        except ModelNotFoundError as exc:
            raise self._target.replaced(version) from exc
        if found.version not in ("", version):
            raise self._target.replaced(version)
        return self._remember(replace(found, version=version), version)

    async def _read_anew(self) -> Description:
        attempts = self._attempts()
        while True:
            try:
                found = await self._read("", attempts.left())
            except UnavailableError as exc:
                await self._sleep(attempts.pause(exc))
            else:
                self._throttle.answered()
                self._latest = self._remember(found, found.version)
                return self._latest

    async def _read(self, version: str, timeout: float) -> Description:
        return Description.from_config(await self.transport.config(version, timeout), self._target)

    def _remember(self, description: Description, version: str) -> Description:
        with self._lock:
            self._labels = self._labels or description.labels
            self._versions[version] = arranged = description.in_order_of(self._labels)
        return arranged

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, self._target.timeout, self._throttle)


def split(texts: list[Row], size: int) -> list[list[Row]]:
    """Requests of at most ``size`` texts."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


async def sleep_blocking(seconds: float) -> None:
    """Wait in this thread."""
    time.sleep(seconds)


def blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose transport blocks: it never waits for an event loop, so it needs none."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("a blocking transport waited for an event loop")
