"""Latency of variants, in process and served: in groups that fit in memory, each around the same anchor.

Within a group the rounds are interleaved, so that a noisy machine hits all alike; between groups the ratios to the
anchor compare (:mod:`bantam.run.timing`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from bantam.artifact import Artifact, Text
from bantam.errors import BantamError, StageError
from bantam.memory import available_mb
from bantam.run.endpoint import Endpoint
from bantam.run.noise import Noise, Sample
from bantam.run.timing import Compared, Latencies, Phase, Timing, enough
from bantam.run.worker import Timed, Worker
from optimizer.recipe import MeasureConfig
from serving.backend import onnx_program

SHARE = 0.25
"""Of the memory that is available when measuring begins: what a group may take if the recipe does not say."""
LEAST_TEXTS = 20
"""How many texts are timed however long they take."""


@dataclass(frozen=True)
class Anchors:
    """Names of the two variants that every group has in it."""

    in_process: str
    """What the in-process latencies of all variants are compared with: the baseline."""
    served: str
    """What served ones are compared with: something servable, such as the unquantized export of the baseline."""


@dataclass(frozen=True)
class Bench:
    """How variants are opened, and what happens around them; tests put other things in its place."""

    worker: Callable[[str], AbstractContextManager[Worker]]
    endpoint: Callable[[str], AbstractContextManager[Endpoint]] | None
    """Of servable variants only; None: in process is all that is timed."""
    served: Callable[[str, Endpoint], object] = lambda name, endpoint: None
    """Called once for each servable variant while its server is up, with the server running."""
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered for as long as something is timed: what else this process does has to wait."""
    throughput: bool = False
    """Whether each variant is also given all texts in one list."""
    noise: Callable[[], Sample] | None = None
    """Does a fixed piece of work before each pass that counts; not asked for if None."""
    log: Callable[[str], None] = lambda line: None


AnyText = TypeVar("AnyText", bound=Text)


def draw_texts(texts: Sequence[AnyText], count: int, *, seed: int = 0) -> list[AnyText]:
    """``count`` texts of a split, drawn with a fixed seed: real texts at their real lengths."""
    chosen = np.random.default_rng(seed).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[i] for i in chosen]


def measure(
    variants: Mapping[str, Artifact], anchors: Anchors, texts: Sequence[Text], config: MeasureConfig, bench: Bench
) -> dict[str, Timing]:
    """Time every text alone in each variant, in process and, where it can be served, through its server.

    Only one group's processes and servers are there at a time. In a group the rounds go A B C A B C; every variant sees
    the same texts in the same order; one round before them warms up and is thrown away. Tokenization is part of both
    times. The servers are paused, and run when it is their turn. Then each is asked for the rate that it bears.

    Where the in-process anchor takes longer than ``config.pass_seconds`` for all texts, only the first of them that it
    can do in that time are timed, but at least :data:`LEAST_TEXTS`.

    Requests are sent once. Those that fail are counted, all of a variant whose process or server ends;
    :class:`StageError` if it is the anchor that does not answer.
    """
    limit_mb = config.memory_mb or SHARE * available_mb()
    groups = grouped(variants, anchors, limit_mb, served=bench.endpoint is not None)
    logs = {name: _Log() for name in variants}
    texts = list(texts)
    for number, group in enumerate(groups):
        if len(groups) > 1:
            bench.log(f"group {number + 1} of {len(groups)}, within {limit_mb:,.0f} MB: {', '.join(group)}")
        texts = _measure_group(number, group, variants, anchors, texts, config, bench, logs)
    return _timings(logs, anchors)


def grouped(
    variants: Mapping[str, Artifact], anchors: Anchors, limit_mb: float, *, served: bool = True
) -> list[list[str]]:
    """All variants but the in-process anchor, in their order, in groups that fit in ``limit_mb`` beside the anchors.

    At least one in each group, whatever it takes. ``served``: whether each has a server too.
    """
    servers_mb = {name: server_mb(variant) if served else 0.0 for name, variant in variants.items()}
    anchors_mb = worker_mb(variants[anchors.in_process]) + servers_mb[anchors.served]
    groups: list[list[str]] = []
    left = 0.0
    for name, variant in variants.items():
        if name == anchors.in_process:
            continue
        need = worker_mb(variant) + (0.0 if name == anchors.served else servers_mb[name])
        if not groups or need > left:
            groups.append([])
            left = limit_mb - anchors_mb
        groups[-1].append(name)
        left -= need
    return groups or [[]]


def worker_mb(variant: Artifact) -> float:
    """An estimate of the memory of a process that runs the variant, from its size."""
    return LIBRARIES_MB["runtime" if variant.servable else "torch"] + _model_mb(variant)


def server_mb(variant: Artifact) -> float:
    """An estimate of the memory of a server of the variant alone; 0 if it cannot be served."""
    if not variant.servable:
        return 0.0
    return LIBRARIES_MB["server"] + _model_mb(variant)


def _model_mb(variant: Artifact) -> float:
    model: int = variant.manifest.details.get("memory_bytes", variant.size_bytes)
    twice = variant.manifest.layout == "onnx" and model <= onnx_program.LARGE
    return FACTOR["two sessions" if twice else "one"] * model / 1e6


FACTOR = {"one": 1.5, "two sessions": 2.5}
"""Memory by the size of the model, once weights are restored: those of each session, and what a runtime makes of them
while it loads. The slope between two sizes of MiniLM in ONNX, 24 and 92 MB: after 64 texts, alone and as a list, the
engine's process had peaked at 56 and 155 MB above its imports with one session, at 87 and 257 with two (2 virtual
cores, 2026-11-28)."""
LIBRARIES_MB = {"torch": 400.0, "runtime": 125.0, "server": 130.0}
"""Memory of processes with the smallest of models, supervisor of the server included."""


@dataclass
class _Log:
    """What came in for one variant."""

    passes: dict[Phase, list[tuple[int, Latencies]]] = field(default_factory=lambda: {"in_process": [], "served": []})
    """The group's number and the milliseconds ``[texts]`` of each pass."""
    noise: list[tuple[Sample, ...]] = field(default_factory=list)
    """Of each round that counts."""
    errors: dict[Phase, Counter[str]] = field(default_factory=dict)
    max_rate: float | None = None
    batch_texts_per_s: float | None = None
    peak_rss_mb: float = 0.0
    server_peak_rss_mb: float | None = None

    def count(self, phase: Phase, errors: Counter[str]) -> None:
        """Add what failed."""
        if errors:
            self.errors[phase] = self.errors.get(phase, Counter()) + errors


def _measure_group(
    number: int,
    group: list[str],
    variants: Mapping[str, Artifact],
    anchors: Anchors,
    texts: list[Text],
    config: MeasureConfig,
    bench: Bench,
    logs: dict[str, _Log],
) -> list[Text]:
    """Open the group's processes and servers, run the rounds, find the rates, close all.

    Returns the texts that were timed. The first group finds out how many they are, when its anchor warms up.
    """
    with ExitStack() as stack:
        members = dict.fromkeys([anchors.in_process, *group, anchors.served])
        workers = {
            name: stack.enter_context(bench.worker(name)) for name in members if name in (anchors.in_process, *group)
        }
        served = [name for name in members if variants[name].servable]
        endpoints = {name: stack.enter_context(bench.endpoint(name)) for name in served if bench.endpoint}
        for turn in range(config.rounds + 1):
            bench.log(f"round {turn} of {config.rounds}" if turn else "warm-up round")
            heard = []
            for name in members:
                if turn and bench.noise:
                    with bench.quiet():
                        heard.append(bench.noise())
                if name in workers:
                    took = _one_pass("in_process", workers[name], texts, logs[name], bench, number if turn else None)
                    if name == anchors.in_process and turn == number == 0:
                        texts = texts[: _affordable(took, config.pass_seconds)]
                if name in endpoints:
                    _one_pass("served", endpoints[name], texts, logs[name], bench, number if turn else None)
            for name in members if heard else ():
                logs[name].noise.append(tuple(heard))
        for name, worker in workers.items():
            _throughput_and_memory(worker, texts, logs[name], config, bench)
        asked = [*group, anchors.in_process] if number == 0 else group  # everyone once
        for name in (name for name in endpoints if name in asked):
            _answers_and_rate(name, endpoints[name], texts, logs[name], config, bench)
    return texts


def _answers_and_rate(
    name: str, endpoint: Endpoint, texts: Sequence[Text], log: _Log, config: MeasureConfig, bench: Bench
) -> None:
    with _counting("served", log, bench), endpoint.resumed():
        bench.served(name, endpoint)
    with _counting("rate", log, bench):
        with bench.quiet():
            borne = endpoint.max_rate(texts, config)
        log.count("rate", borne.errors)
        log.max_rate, log.server_peak_rss_mb = borne.rate, endpoint.peak_rss_mb()


def _throughput_and_memory(
    worker: Worker, texts: Sequence[Text], log: _Log, config: MeasureConfig, bench: Bench
) -> None:
    """What a process is asked once, after the rounds."""
    if bench.throughput:
        with _counting("in_process", log, bench), bench.quiet():
            log.batch_texts_per_s = worker.throughput(texts, config.rate_seconds)
    with _counting("in_process", log, bench):
        log.peak_rss_mb = max(log.peak_rss_mb, worker.peak_rss_mb())


def _affordable(latencies_ms: Latencies, seconds: float) -> int:
    """How many texts can be done in that time, by the median; all if none was answered."""
    if not enough(latencies_ms):
        return len(latencies_ms)
    return max(LEAST_TEXTS, int(1000 * seconds / np.nanmedian(latencies_ms)))


def _one_pass(
    phase: Phase, subject: Worker | Endpoint, texts: list[Text], log: _Log, bench: Bench, group: int | None
) -> Latencies:
    """Time all texts once, ``[texts]``; of the warm-up (no group) only what failed is noted."""
    found = Timed(np.full(len(texts), np.nan))
    with _counting(phase, log, bench), bench.quiet():
        found = subject.timed(texts)
    log.count(phase, found.errors)
    if group is not None:
        log.passes[phase].append((group, found.latencies_ms))
    return found.latencies_ms


@contextmanager
def _counting(phase: Phase, log: _Log, bench: Bench) -> Iterator[None]:
    """A variant that ends instead of answering is one that failed, counted and said, and not the end of the run."""
    try:
        yield
    except BantamError as exc:
        log.count(phase, Counter([type(exc).__name__]))
        bench.log(str(exc))


def _timings(logs: Mapping[str, _Log], anchors: Anchors) -> dict[str, Timing]:
    return {
        name: Timing(
            in_process=_compared(name, anchors.in_process, "in_process", logs),
            served=_compared(name, anchors.served, "served", logs),
            errors=log.errors,
            max_rate=log.max_rate,
            batch_texts_per_s=log.batch_texts_per_s,
            peak_rss_mb=log.peak_rss_mb,
            server_peak_rss_mb=log.server_peak_rss_mb,
            noise=Noise(tuple(log.noise)) if log.noise else None,
        )
        for name, log in logs.items()
    }


def _compared(name: str, anchor: str, phase: Phase, logs: Mapping[str, _Log]) -> Compared | None:
    """A variant's passes next to those of the anchor in the same group."""
    passes, beside = logs[name].passes[phase], logs[anchor].passes[phase]
    if not passes:
        return None
    everything = np.stack([latencies for _, latencies in beside])
    groups = {group for group, _ in passes}
    own = np.stack([latencies for _, latencies in passes])
    same = own if name == anchor else np.stack([latencies for group, latencies in beside if group in groups])
    if not enough(same):
        raise StageError(
            f"{anchor}, which all others are compared with, failed on most texts: {dict(logs[anchor].errors)}. "
            "Expected answers; 'bantam serve' with that model shows what it says."
        )
    return Compared(own, same, min(groups), float(np.nanmedian(everything))) if enough(own) else None
