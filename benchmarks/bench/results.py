"""What the bench found out, as bench.json has it, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bantam.files import write_text
from bantam.report.schema import percentile_fields
from benchmarks.bench.contenders import BASELINE, Contender
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.rounds import TimedContender
from benchmarks.bench.workloads import Workload

BUDGET_POINTS = 1.0
UPPER_END = 2
"""Wider than what Bantam publishes by: peers that were never asked to keep a budget are not to be out by chance."""
BARS = {"in_process": 2.5, "served": 3.0}
"""How many times faster than the best peer within the same budget our best is to be."""
SCHEMA = 1


@dataclass(frozen=True)
class Failure:
    """Where a contender failed, and the line that says why."""

    stage: str
    reason: str


@dataclass
class Figures:
    """Latency of single texts, throughput and memory of one contender, in process or served."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    samples: int
    texts_per_s: float
    """In process: batches of 32; served: 16 clients. The median of the rounds."""
    load_s: float | None
    """Until the first answer."""
    peak_rss_mb: float | None


@dataclass
class ContenderQuality:
    """On the test split; the drop is counted from PyTorch eager fp32, on the same rows."""

    macro_f1: float
    micro_f1: float
    drop_points: float
    drop_ci95: tuple[float, float]
    max_score_difference: float
    """The largest difference of any score from PyTorch's."""
    same_on: int | None = None
    """So many texts were scored, all as PyTorch does, whose quality this then is; None if it was all of the split."""


@dataclass
class Row:
    """One contender."""

    name: str
    ours: bool
    precision: str
    environment: str
    packages: dict[str, str]
    steps: str
    protocol: str
    prepare_s: float | None = None
    size_mb: float | None = None
    quality: ContenderQuality | None = None
    in_process: Figures | None = None
    served: Figures | None = None
    longer: dict[int, dict[str, Figures]] = field(default_factory=dict)
    """By tokens of the longer texts, then ``in_process`` or ``served``."""
    limit: dict[str, Any] | None = None
    """See :mod:`benchmarks.bench.limits`."""
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fail(self, failure: PeerFailed) -> None:
        """Record a failure, once."""
        found = Failure(failure.stage, failure.reason)
        if found not in self.failures:
            self.failures.append(found)

    @property
    def within_budget(self) -> bool:
        """Whether its drop on test is at most the budget, and the upper end of its interval at most twice that."""
        found = self.quality
        return (
            found is not None and found.drop_points <= BUDGET_POINTS and found.drop_ci95[1] <= UPPER_END * BUDGET_POINTS
        )


@dataclass(frozen=True)
class HeadToHead:
    """Our best against the best peer, both within the budget."""

    ours: str
    peer: str
    ours_ms: float
    peer_ms: float
    ratio: float
    bar: float
    met: bool


@dataclass(frozen=True)
class Witness:
    """What another load tester saw of a server right after the bench's own rounds; or why it did not."""

    name: str
    """The contender."""
    tester: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    answers_per_s: float | None = None
    """Of 16 clients."""
    reason: str = ""


@dataclass
class Results:
    """All of bench.json."""

    created: str
    command: str
    profile: str
    model: str
    data: str
    checkpoint: str
    """Digest of the fine-tuned model."""
    machine: dict[str, Any]
    threads: int
    rounds: int
    texts: int
    tokens: int
    """Of the median text, special ones included."""
    rates: dict[str, Any] = field(default_factory=dict)
    """What the machine reaches; see :mod:`benchmarks.bench.limits`."""
    rows: list[Row] = field(default_factory=list)
    verdict: dict[str, HeadToHead] = field(default_factory=dict)
    witness: list[Witness] = field(default_factory=list)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Versions of all packages, and the seconds that making it took, by environment."""
    steps_s: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA


def row(contender: Contender, ours: bool, versions: dict[str, str]) -> Row:
    """A row without figures yet."""
    packages = {name: versions[name] for name in contender.packages if name in versions}
    return Row(
        contender.name, ours, contender.precision, contender.environment, packages, contender.steps, contender.protocol
    )


def note(row: Row, where: str, work: Workload, timed: TimedContender) -> None:
    """What one workload found out about a contender, ``in_process`` or ``served``."""
    found = figures(timed)
    if work.tokens is None:
        setattr(row, where, found)
    elif found is not None:
        row.longer.setdefault(work.tokens, {})[where] = found
    if timed.failure is not None:
        row.fail(timed.failure)


def figures(timed: TimedContender) -> Figures | None:
    """The figures of all rounds; None if the contender failed."""
    if timed.failure is not None or not timed.latencies_ms:
        return None
    latency = percentile_fields(timed.latencies_ms)
    return Figures(
        latency["p50_ms"],
        latency["p95_ms"],
        latency["p99_ms"],
        latency["samples"],
        round(float(np.median(timed.texts_per_s)), 1),
        None if timed.load_s is None else round(timed.load_s, 1),
        None if timed.peak_rss_mb is None else round(timed.peak_rss_mb, 1),
    )


def compare(rows: Sequence[Row]) -> dict[str, HeadToHead]:
    """Our fastest variant within the budget, chosen in process, against the fastest peer, in process and served.

    An entry is absent if either side has no figure.
    """
    best = _fastest([each for each in rows if each.ours], "in_process")
    found = {}
    for where, bar in BARS.items():
        peer = _fastest([each for each in rows if not each.ours], where)
        mine: Figures | None = getattr(best, where) if best else None
        theirs: Figures | None = getattr(peer, where) if peer else None
        if best and peer and mine and theirs:
            ratio = theirs.p50_ms / mine.p50_ms
            found[where] = HeadToHead(best.name, peer.name, mine.p50_ms, theirs.p50_ms, ratio, bar, ratio >= bar)
    return found


def _fastest(rows: Sequence[Row], where: str) -> Row | None:
    timed = [each for each in rows if getattr(each, where) is not None and each.within_budget]
    return min(timed, key=lambda each: float(getattr(each, where).p50_ms), default=None)


def baseline(rows: Sequence[Row]) -> Row | None:
    """PyTorch eager fp32, if it took part."""
    return next((each for each in rows if each.name == BASELINE), None)


def write(results: Results, path: Path) -> None:
    """Write bench.json, whole or not at all."""
    write_text(path, json.dumps(asdict(results), indent=1, ensure_ascii=False) + "\n")
