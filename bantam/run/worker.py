"""Processes that do one thing each: run a variant, or ask a server; and time it, with nothing beside that in them.

Variants have a process each, because PyTorch, ONNX Runtime and OpenVINO in one process share thread pools and caches,
and no memory figure would belong to anyone. Servers are asked from a process too, because the main one has threads that
would delay requests. A process ends when its pipe closes, so it cannot outlive us, however we end.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, Text
from bantam.errors import StageError
from bantam.memory import peak_rss_mb
from serving.backend.cores import TextThreads

WAKE_UP = 5
"""Requests to a server that was just resumed, before those that count."""
REQUEST_TIMEOUT_S = 60.0
LIST_SECONDS = 0.1


@dataclass(frozen=True)
class Timed:
    """One pass over texts, each alone."""

    latencies_ms: NDArray[np.float64]
    """Milliseconds from a text to its probabilities, ``[texts]``; NaN where that failed."""
    errors: Counter[str] = field(default_factory=Counter)
    """Name of an exception, how many texts failed with it."""


@dataclass(frozen=True)
class Borne:
    """What a server bears."""

    rate: float | None
    """Requests per second within the objective; None if it held at no rate."""
    errors: Counter[str] = field(default_factory=Counter)


class Child:
    """A process that does the jobs of a class, of which it makes one; a context manager.

    Raises :class:`StageError` with the child's message if a job fails or the process dies.
    """

    def __init__(self, name: str, make: Callable[..., object], *arguments: object) -> None:
        self.name = name
        # spawn, the only start method that all platforms and threaded parents have.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, arguments), name=f"bantam-{name}", daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def peak_rss_mb(self) -> float:
        """The most memory (10^6 bytes, resident) that this process has had."""
        return float(self._ask("peak_rss_mb"))

    def _ask(self, job: str, *arguments: object) -> Any:
        try:
            self._connection.send((job, arguments))
            ok, answer = self._connection.recv()
        except (EOFError, OSError) as exc:
            self._process.join(timeout=5)
            raise StageError(
                f"The process that runs {self.name} ended with exit code {self._process.exitcode}. "
                "Expected an answer; -9 is usually a lack of memory."
            ) from exc
        if not ok:
            raise StageError(f"{self.name} failed while running in process: {answer}")
        return answer


class Worker(Child):
    """A variant in a process of its own; loaded when it is first asked something."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None,
        micro_batch: int,
        text_threads: TextThreads | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        """``micro_batch``: on a CPU; on a GPU the engine's own."""
        most = micro_batch if device == "cpu" else None
        super().__init__(artifact.name, _Running, artifact.folder, threads, most, text_threads, device)

    def probabilities(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Probabilities float32 ``[texts, labels]``."""
        return np.asarray(self._ask("probabilities", list(texts)))

    def timed(self, texts: Sequence[Text]) -> Timed:
        """Time each text alone, from text to probabilities; a text that fails is counted, not raised."""
        found: Timed = self._ask("timed", list(texts))
        return found

    def providers(self) -> tuple[str, ...]:
        """What of its runtime runs the variant."""
        return tuple(self._ask("runs_on"))

    def throughput(self, texts: Sequence[Text], seconds: float) -> float:
        """Texts a second of these texts in one list, again and again for about so long."""
        return float(self._ask("throughput", list(texts), seconds))


class Lister(Worker):
    """A variant that is given all texts in one list, for about :data:`LIST_SECONDS`, where a worker gets them alone."""

    def timed(self, texts: Sequence[Text]) -> Timed:
        """Each text has its share of the time of a list."""
        return Timed(np.full(len(texts), 1e3 / self.throughput(texts, LIST_SECONDS)))


def placed(artifact: Artifact, device: Literal["cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Where a run on ``device`` runs a variant: on the CPU what was made for it alone. PyTorch runs anywhere."""
    anywhere = artifact.manifest.layout == "hf"
    return device if anywhere or device in artifact.manifest.compute.devices else "cpu"


class Requester(Child):
    """A process that sends requests to servers, without retries; connected anew for each call."""

    def __init__(self) -> None:
        super().__init__("the client", _Asking)

    def timed(self, address: str, model: str, texts: Sequence[Text]) -> Timed:
        """Send each text alone, after some to wake the server up, whose errors count too."""
        found: Timed = self._ask("timed", address, model, list(texts))
        return found

    def max_rate(self, address: str, model: str, texts: Sequence[Text], *, slo_ms: float, seconds: float) -> Borne:
        """The highest rate that keeps 99% within ``slo_ms``; see :func:`bantam.loadtest.search.max_rate_within_slo`."""
        found: Borne = self._ask("max_rate", address, model, list(texts), slo_ms, seconds)
        return found


def timed(send: Callable[[Text], object], texts: Sequence[Text]) -> Timed:
    """Call ``send`` with one text after the other; the one loop for all figures, in process and served.

    No garbage is collected meanwhile: a collection takes milliseconds, and would hit whichever text is due.
    """
    latencies, errors = np.full(len(texts), np.nan), Counter[str]()
    gc.collect()
    gc.disable()
    try:
        for i, text in enumerate(texts):
            start = time.perf_counter()
            try:
                send(text)
            except Exception as exc:  # noqa: BLE001 whatever fails is a result, counted by its kind
                errors[type(exc).__name__] += 1
            else:
                latencies[i] = time.perf_counter() - start
    finally:
        gc.enable()
    return Timed(latencies * 1e3, errors)


class _Running:
    """The jobs of a :class:`Worker`: the PyTorch reference, or the engine that also runs inside the server."""

    def __init__(
        self,
        folder: Path,
        threads: int | None,
        micro_batch: int | None,
        text_threads: TextThreads | None,
        device: Literal["cpu", "cuda"],
    ) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self.probabilities: Callable[[list[Text]], NDArray[np.float32]]
        if Artifact.load(folder).servable:
            from serving.backend.engine import Engine

            given = text_threads._asdict() if text_threads else None
            engine = Engine(folder, device=device, threads=threads, micro_batch=micro_batch, text_threads=given)
            self.probabilities, self._runs_on = engine.probabilities, engine.providers
        else:
            from optimizer.reference import Reference

            self.probabilities = Reference.load(folder, threads=threads, device=device).probabilities
            self._runs_on = (f"PyTorch on {device}",)

    def timed(self, texts: list[Text]) -> Timed:
        return timed(lambda text: self.probabilities([text]), texts)

    def runs_on(self) -> tuple[str, ...]:
        return self._runs_on

    def throughput(self, texts: list[Text], seconds: float) -> float:
        self.probabilities(texts)  # shapes that single texts do not have
        started, done = time.perf_counter(), 0
        while (took := time.perf_counter() - started) < seconds:
            self.probabilities(texts)
            done += len(texts)
        return done / took


class _Asking:
    """The jobs of a :class:`Requester`."""

    def timed(self, address: str, model: str, texts: list[Text]) -> Timed:
        with _sender(address, model) as send:
            woken = timed(send, texts[:WAKE_UP])
            found = timed(send, texts)
        return Timed(found.latencies_ms, found.errors + woken.errors)

    def max_rate(self, address: str, model: str, texts: list[Text], slo_ms: float, seconds: float) -> Borne:
        from bantam.loadtest.search import max_rate_within_slo

        failed: list[str] = []  # appended to from many threads: that is atomic, a counter is not

        with _sender(address, model) as send:

            def counted(text: Text) -> None:
                try:
                    send(text)
                except Exception as exc:
                    failed.append(type(exc).__name__)
                    raise

            try:
                rate = max_rate_within_slo(
                    counted, texts, slo_ms=slo_ms, seconds=seconds, step_seconds=seconds / 5
                ).rate
            except Exception:
                if not failed:
                    raise
                rate = None  # not even the requests before the search were answered: counted, as all are
        return Borne(rate, Counter(failed))


@contextmanager
def _sender(address: str, model: str) -> Iterator[Callable[[Text], object]]:
    from bantam.client.classifier import Classifier

    with Classifier(address, model, timeout=REQUEST_TIMEOUT_S, retries=0) as client:
        yield lambda text: client.probabilities([text])


def _serve(connection: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    # Ctrl-C goes to the whole process group; the parent ends us by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs: object | None = None
    while True:
        try:
            job, given = connection.recv()
        except EOFError:
            return
        try:
            if job == "peak_rss_mb":
                connection.send((True, peak_rss_mb()))
                continue
            jobs = jobs or make(*arguments)
            connection.send((True, getattr(jobs, job)(*given)))
        except BrokenPipeError:
            return
        except Exception as exc:  # noqa: BLE001 whatever it is, the parent is to know and to raise it
            connection.send((False, f"{type(exc).__name__}: {exc}"))
