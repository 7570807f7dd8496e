"""Fake processes and servers to measure: who is open, what was asked in which order, what each claims to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bantam.artifact import Artifact, Compute, Manifest, Signature
from bantam.client.classifier import Classifier
from bantam.errors import StageError
from bantam.run.endpoint import Endpoint
from bantam.run.latency import Anchors, Bench, measure, server_mb, worker_mb
from bantam.run.noise import Sample
from bantam.run.timing import Timing
from bantam.run.worker import Borne, Timed
from optimizer.recipe import MeasureConfig

TEXTS = ["a", "b", "c", "d"]
ANCHORS = Anchors("baseline", "fp32")
SIGNATURE = Signature("single_label", ("no", "yes"), ("input_ids",), 64)


def artifact(name: str, layout: str = "onnx", mb: int = 0) -> Artifact:
    """One of a size that is only said."""
    files = {"weights": {"bytes": mb * 10**6, "sha256": "0"}} if mb else {}
    manifest = Manifest("export", "k", layout, SIGNATURE, Compute(), deployable=tuple(files), files=files)
    return Artifact(Path(name), manifest)


def variants(*names: str) -> dict[str, Artifact]:
    """The anchors and others."""
    return {"baseline": artifact("baseline", "hf"), **{name: artifact(name) for name in ("fp32", *names)}}


class Rig:
    """Fake processes and servers: who is open, what was asked in which order, and how long each claims to take."""

    def __init__(self, **ms: float) -> None:
        self.ms = ms
        self.open: set[str] = set()
        self.together: list[set[str]] = []
        self.asked: list[str] = []
        self.texts: list[list[str]] = []
        self.fails: dict[str, str] = {}
        self.passes = Counter[str]()
        self.timing = False
        self.slower: dict[frozenset[str], float] = {}
        self.heard: dict[frozenset[str], Sample] = {}

    def bench(self) -> Bench:
        return Bench(
            worker=self._worker, endpoint=self._endpoint, served=self._served, quiet=self._quiet, noise=self._noise
        )

    def _noise(self) -> Sample:
        assert self.timing, "nothing else of this process runs meanwhile"
        return self.heard.get(frozenset(self.open), Sample(5.0, 0.0))

    def pass_over(self, name: str, texts: Sequence[str]) -> Timed:
        assert self.timing
        assert name in self.open
        self.asked.append(name)
        self.texts.append(list(texts))
        self.passes[name] += 1
        self.check(name)
        if name in self.fails:
            return Timed(np.full(len(texts), np.nan), Counter({self.fails[name]: len(texts)}))
        # The first pass is slow, as first passes are.
        each = self.ms.get(name.partition(" ")[0], 1.0) * (100 if self.passes[name] == 1 else 1)
        each *= self.slower.get(frozenset(self.open), 1.0)
        return Timed(np.full(len(texts), each))

    def check(self, name: str) -> None:
        """Raise what asking a process raises that has ended."""
        if self.fails.get(name) == "end":
            raise StageError("it has ended")

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        if self.fails.get(name) == "start":
            raise StageError("it does not start")
        self.open.add(name)
        self.together.append(set(self.open))
        try:
            yield Fake(self, name)
        finally:
            self.open.remove(name)

    def _worker(self, name: str) -> Any:
        return self._opened(name)

    def _endpoint(self, name: str) -> Any:
        return self._opened(f"{name} served")

    def _served(self, name: str, endpoint: Endpoint) -> None:
        assert not self.timing
        self.check(f"{name} served")
        self.asked.append(f"{name} answers")

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self.timing = True
        try:
            yield
        finally:
            self.timing = False


class Fake:
    """A worker or an endpoint of a :class:`Rig`."""

    isolated_because = ""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name

    @property
    def client(self) -> Classifier:
        raise AssertionError("nobody asks for answers here")

    @contextmanager
    def resumed(self) -> Iterator[None]:
        yield

    def timed(self, texts: Sequence[str]) -> Timed:
        return self.rig.pass_over(self.name, texts)

    def throughput(self, texts: Sequence[str], seconds: float) -> float:
        self.rig.check(self.name)
        self.rig.asked.append(f"{self.name} list")
        return len(texts) / seconds

    def max_rate(self, texts: Sequence[str], config: MeasureConfig) -> Borne:
        self.rig.check(self.name)
        self.rig.asked.append(f"{self.name} rate")
        kind = self.rig.fails.get(f"{self.name} rate")
        return Borne(None if kind else 40.0, Counter({kind: 3}) if kind else Counter())

    def peak_rss_mb(self) -> float:
        self.rig.check(self.name)
        return 7.0


def config(memory_mb: float = 1e6, rounds: int = 2, pass_seconds: float = 1e6) -> MeasureConfig:
    return MeasureConfig(rounds=rounds, memory_mb=memory_mb, pass_seconds=pass_seconds)


def run(rig: Rig, *names: str, **options: Any) -> dict[str, Timing]:
    return measure(variants(*names), ANCHORS, TEXTS, config(**options), rig.bench())


def room_for(count: int) -> float:
    """MB that the anchors and ``count`` of the smallest variants take."""
    known = variants("a")
    anchors = worker_mb(known["baseline"]) + server_mb(known["fp32"])
    return anchors + count * (worker_mb(known["a"]) + server_mb(known["a"]))
