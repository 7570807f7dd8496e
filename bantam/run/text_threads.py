"""How many threads a text that runs alone is to have, and how long the longest takes: measured where a version is
published, in a process of its own.

Threads win the more, the more a text computes. So the length is sought from which several pay, by short runs of one
thread and of several in turns, at more and more tokens, again and again. Rounds in which cores were taken away do not
count, for threads that share a run suffer most; and what is chosen comes from a line through all lengths, not from one
ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bantam.artifact import Artifact, Text
from bantam.errors import StageError
from bantam.run.state import Run
from bantam.run.worker import Child, placed
from serving.backend.cores import TextThreads, usable_cores
from serving.triton_config import LIMIT_MS

if TYPE_CHECKING:
    from serving.backend.manifest import ModelManifest

LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens."""
ROUNDS = 10
"""Quiet ones, in turns over all lengths."""
FEWEST = 3
"""With fewer quiet ones, nothing was measured."""
SECONDS = 1.2
"""For all rounds together."""
WAITED = 0.02
"""The most of a round's time that the process's threads may wait for a core: in a quiet one."""
GAIN = 0.8
"""The most that the longest text may take of the time of one thread. Where it takes more, the cores were not there: a
host that runs two virtual ones on one of its own tells nobody, and for seconds no length gains by threads."""
RUNS = 3
"""Of a length by a count of threads in a round, after one that is not timed."""
MARGIN = 0.04
"""The share of its time that a text has to win for more threads to be chosen."""
LONGEST = 512
"""Tokens of the longest text that is timed."""
WAITS = 64
"""How many of the longest texts the limit of the served model's queue is: who has 32 clients that send such texts and
wait, refused beyond half of it, is not overloaded."""


class Measured(NamedTuple):
    """What was measured of a model on this machine."""

    text_threads: TextThreads | None
    """None where there is nothing to choose: a GPU, one core, or a runtime or size of model that has one way to run."""
    longest_ms: float
    """Of a text of as many tokens as the model can take, at most ``LONGEST``."""

    @property
    def limit_ms(self) -> int | None:
        """How long a request to the served model may wait, a multiple of 100; None if the usual limit will do."""
        limit = 100 * round(WAITS * self.longest_ms / 100)
        return limit if limit > LIMIT_MS else None

    @property
    def options(self) -> dict[str, Any]:
        """Both as :func:`serving.repository.stage` takes them."""
        return {"text_threads": self.text_threads, "limit_ms": self.limit_ms}


def measured(artifact: Artifact, threads: int | None, device: Literal["cpu", "cuda"] = "cpu") -> Measured | None:
    """Measure a model that can be served, where it will run; None where it cannot be run here."""
    with suppress(StageError), _Timer(artifact.name, _Timing, artifact.folder, threads, device) as timer:
        return timer.measured()
    return None


def alone(run: Run, artifact: Artifact) -> Measured | None:
    """What was measured of a variant in this run, or is now."""
    if artifact.name not in run.alone:
        device = placed(artifact, run.request.device)
        run.alone[artifact.name] = measured(artifact, run.recipe.serving.threads, device)
    return run.alone[artifact.name]


def choose(ratios: Mapping[int, Sequence[tuple[int, float]]], cores: int) -> TextThreads:
    """The choice that follows from times of several threads over that of one.

    ``ratios``: count of threads -> (tokens, ratio) at increasing lengths. Of several counts, the one whose texts of
    these lengths are fastest on the whole; more threads have to win ``MARGIN`` over fewer.
    """
    best, least = TextThreads(1, 1, cores), 1.0
    for count, found in sorted(ratios.items()):
        tokens = pays_from(found)
        mean = float(np.exp(np.mean([np.log(ratio) if length >= tokens else 0.0 for length, ratio in found])))
        if mean < least * (1 - MARGIN):
            best, least = TextThreads(count, tokens, cores), mean
    return best


def pays_from(ratios: Sequence[tuple[int, float]]) -> int:
    """Tokens from which on several threads win ``MARGIN``: where a line through the logarithms of both says so."""
    lengths, found = np.log(np.array(ratios, dtype=np.float64)).T
    wanted = np.log(1 - MARGIN)
    slope, start = np.polyfit(lengths, found, 1) if len(ratios) > 1 else (0.0, found[0])
    if slope >= 0:
        return 1 if found.mean() <= wanted else ratios[-1][0] + 1
    return max(1, int(np.ceil(np.exp(min((wanted - start) / slope, lengths[-1] + 1)))))


class _Timer(Child):
    """A process that times a model."""

    def measured(self) -> Measured:
        """What :func:`measured` returns."""
        found: Measured = self._ask("measured")
        return found


class _Timing:
    """The job of a :class:`_Timer`."""

    def __init__(self, folder: Path, threads: int | None, device: Literal["cpu", "cuda"] = "cpu") -> None:
        from serving.backend.manifest import read_manifest

        self._folder, self._manifest, self._threads = folder, read_manifest(folder), threads or usable_cores()
        self._device = device

    def measured(self) -> Measured:
        from serving.backend.engine import Engine
        from serving.backend.onnx_program import held_once

        chosen = None
        on_cpu = self._device == "cpu" and self._manifest.layout == "onnx"
        if on_cpu and self._threads > 1 and not held_once(self._folder):
            ratios = self._ratios()
            chosen = choose(ratios, self._threads) if ratios else None
        given = chosen._asdict() if chosen else None
        engine = Engine(self._folder, device=self._device, threads=self._threads, text_threads=given)
        words = "a " * min(LONGEST, self._manifest.max_length)
        text: Text = (words, words) if self._manifest.pair else words
        return Measured(chosen, 1e3 * min(_seconds(partial(engine.probabilities, [text])) for _ in range(2)))

    def _ratios(self) -> dict[int, list[tuple[int, float]]]:
        """Times of several threads over that of one, by count and length; empty if it was never quiet."""
        from serving.backend.onnx_program import session

        counts = [2**power for power in range(self._threads.bit_length()) if 2**power < self._threads]
        sessions = {count: session(self._folder / "model.onnx", count) for count in (*counts, self._threads)}
        lengths = [tokens for tokens in LENGTHS if tokens <= self._manifest.max_length] or [self._manifest.max_length]
        quiet: list[np.ndarray] = []
        started = time.perf_counter()
        while len(quiet) < ROUNDS and time.perf_counter() < started + SECONDS:
            begun, waited = time.perf_counter(), _waited()
            found = []
            for tokens in lengths:
                feeds = _feeds(self._manifest, tokens)
                found.append([_time(each, feeds) for each in sessions.values()])
                if time.perf_counter() - begun > SECONDS / ROUNDS:
                    break
            lengths = lengths[: len(found)]
            alone = _waited() - waited < WAITED * (time.perf_counter() - begun)
            if alone and min(found[-1][1:]) < GAIN * found[-1][0]:
                quiet.append(np.array(found))
        if len(quiet) < FEWEST:
            return {}
        times = np.min([each[: len(lengths)] for each in quiet], axis=0)  # whatever comes between only takes time
        ratios = times / times[:, :1]
        return {n: [*zip(lengths, ratios[:, at].tolist(), strict=True)] for at, n in enumerate(sessions) if n > 1}


def _waited() -> float:
    """Seconds for which this process's threads have waited for a core, where the system tells (Linux)."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError):
            total += int(path.read_text(encoding="ascii").split()[1])
    return total / 1e9


def _feeds(manifest: ModelManifest, tokens: int) -> dict[str, np.ndarray]:
    feeds = {name: np.ones((1, tokens), dtype=np.int64) for name in manifest.inputs}
    return feeds | {"token_type_ids": np.zeros((1, tokens), dtype=np.int64)} if "token_type_ids" in feeds else feeds


def _time(session: Any, feeds: dict[str, np.ndarray]) -> float:
    """Seconds of a run, the least of a few, once the weights are in the caches and the threads awake."""
    run = partial(session.run, ["logits"], feeds)
    run()
    return min(_seconds(run) for _ in range(RUNS))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
