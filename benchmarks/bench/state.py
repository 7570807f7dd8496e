"""What one run of the bench was asked for, and what it knows so far."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench.ours import Ours
from benchmarks.bench.prepared import Prepared, Scores
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.results import Results, Row
from benchmarks.bench.workloads import Workload

Log = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    model: str = "minilm"
    data: str = "goemotions-ekman"
    profile: str = "quick"
    rounds: int = 6
    texts: int = 100
    seconds: float = 1.0
    """Of a throughput measurement of a server, in each round."""
    long_rounds: int = 2
    """Of texts of 32, 128 and 512 tokens."""
    only: tuple[str, ...] = ()
    """Parts of names; everyone if empty."""
    build: Path = Path("build")
    command: str = ""

    @property
    def root(self) -> Path:
        """Where the bench keeps what it makes."""
        return self.build / "bench"


@dataclass
class BenchRun:
    """One run: what it knows so far."""

    settings: Settings
    log: Log
    ours: Ours
    results: Results
    rows: dict[str, Row] = field(default_factory=dict)
    ready: dict[str, Prepared] = field(default_factory=dict)
    workloads: list[Workload] = field(default_factory=list)
    test_scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the checkpoint's order."""
        return self.ours.checkpoint.manifest.signature.labels

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what comes, and note how long it took."""
        self.log(f"== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.results.steps_s[name] = round(time.monotonic() - started, 1)
            self.log(f"== {name}: {self.results.steps_s[name]:.0f} s")

    def failed(self, name: str, failure: PeerFailed) -> None:
        """A contender is out; the others go on."""
        self.log(f"{name:<36} failed, {failure}")
        self.rows[name].fail(failure)
        self.ready.pop(name, None)
