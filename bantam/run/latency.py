"""Latency of all variants in one run, in process and served: interleaved, so that a noisy machine hits all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bantam.client.classifier import Classifier
from bantam.loadtest.closed_loop import closed_loop
from bantam.run.score import Scored
from bantam.run.worker import Worker
from optimizer.recipe import MeasureConfig, ServingConfig
from serving.server import Server

Latencies = NDArray[np.float64]
WAKE_UP = 5
"""Requests to a server that was just resumed, before those that count."""


@dataclass(frozen=True)
class Endpoint:
    """A variant in a server of its own, so that all others can be paused when it is measured."""

    server: Server
    client: Classifier


@dataclass
class Measured:
    """Milliseconds of each measured text over all rounds; and the peak memory of the process that ran the variant."""

    in_process_ms: Latencies = field(default_factory=lambda: np.empty(0))
    served_ms: Latencies = field(default_factory=lambda: np.empty(0))
    peak_rss_mb: float = 0.0


def draw_texts(texts: tuple[str, ...], count: int, *, seed: int = 0) -> list[str]:
    """``count`` texts of a split, drawn with a fixed seed: real texts at their real lengths."""
    chosen = np.random.default_rng(seed).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[i] for i in chosen]


def measure(
    variants: Mapping[str, Scored],
    endpoints: Mapping[str, Endpoint],
    texts: list[str],
    config: MeasureConfig,
    serving: ServingConfig,
    log: Callable[[str], None],
) -> dict[str, Measured]:
    """Time every text alone in each variant, in process and (where ``endpoints`` has it) through its server.

    The rounds go A B C A B C; every variant sees the same texts in the same order; one round before them warms up and
    is thrown away. Tokenization is part of both times. The servers are paused, and run when it is their turn.
    """
    results = {name: Measured() for name in variants}
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(variant.artifact, threads=serving.threads, micro_batch=serving.micro_batch)
            )
            for name, variant in variants.items()
        }
        for number in range(config.rounds + 1):
            log(f"round {number} of {config.rounds}" if number else "warm-up round")
            for name, worker in workers.items():
                in_process = worker.latencies_ms(texts)
                served = _served_ms(endpoints[name], texts) if name in endpoints else np.empty(0)
                if number:
                    results[name].in_process_ms = np.append(results[name].in_process_ms, in_process)
                    results[name].served_ms = np.append(results[name].served_ms, served)
        for name, worker in workers.items():
            results[name].peak_rss_mb = worker.peak_rss_mb()
    return results


def _served_ms(endpoint: Endpoint, texts: list[str]) -> Latencies:
    with endpoint.server.resumed():
        ask = endpoint.client.scores
        return closed_loop(lambda text: ask([text]), texts, requests=len(texts), warmup=WAKE_UP).latencies_ms
