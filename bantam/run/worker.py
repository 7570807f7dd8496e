"""A variant in a process of its own: scores texts, times single texts, knows its own peak memory.

A process each, because PyTorch, ONNX Runtime and OpenVINO in one process share thread pools and caches, and no memory
figure would belong to anyone. The worker ends when its pipe closes, so it cannot outlive us, however we end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact
from bantam.errors import StageError
from bantam.memory import peak_rss_mb


class Runner(Protocol):
    """What runs a variant in process: the PyTorch reference, or the engine that also runs inside the server."""

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities float32 ``[texts, labels]``."""


def open_runner(artifact: Artifact, *, threads: int | None, micro_batch: int) -> Runner:
    """Load a variant to run it in this process."""
    if artifact.manifest.layout == "hf":
        from optimizer.reference import Reference

        return Reference.load(artifact.folder, threads=threads)
    from serving.backend.engine import Engine

    return Engine(artifact.folder, threads=threads, micro_batch=micro_batch)


class Worker:
    """A variant in a child process; a context manager.

    Raises :class:`StageError` with the child's message if it fails or dies.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None, micro_batch: int) -> None:
        self.name = artifact.name
        # spawn, the only start method that all platforms and threaded parents have.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, artifact.folder, threads, micro_batch), name=f"bantam-{self.name}", daemon=True
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

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities float32 ``[texts, labels]``."""
        return np.asarray(self._ask("scores", list(texts)))

    def latencies_ms(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Milliseconds that each text takes alone, from text to probabilities: float64 ``[texts]``."""
        return np.asarray(self._ask("latencies_ms", list(texts)))

    def peak_rss_mb(self) -> float:
        """The most memory (10^6 bytes, resident) that this process has had."""
        return float(self._ask("peak_rss_mb", []))

    def _ask(self, job: str, texts: list[str]) -> Any:
        try:
            self._connection.send((job, texts))
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


def _serve(connection: Connection, folder: Path, threads: int | None, micro_batch: int) -> None:
    # Ctrl-C goes to the whole process group; the parent ends us by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    runner: Runner | None = None
    while True:
        try:
            job, texts = connection.recv()
        except EOFError:
            return
        try:
            runner = runner or open_runner(Artifact.load(folder), threads=threads, micro_batch=micro_batch)
            connection.send((True, _JOBS[job](runner, texts)))
        except BrokenPipeError:
            return
        except Exception as exc:  # noqa: BLE001 whatever it is, the parent is to know and to raise it
            connection.send((False, f"{type(exc).__name__}: {exc}"))


def _latencies_ms(runner: Runner, texts: list[str]) -> NDArray[np.float64]:
    result = np.empty(len(texts))
    for i, text in enumerate(texts):
        start = time.perf_counter()
        runner.scores([text])
        result[i] = time.perf_counter() - start
    return result * 1e3


_JOBS: dict[str, Callable[[Runner, list[str]], Any]] = {
    "scores": lambda runner, texts: runner.scores(texts),
    "latencies_ms": _latencies_ms,
    "peak_rss_mb": lambda runner, texts: peak_rss_mb(),
}
