"""Latency of all variants in one run, in process and served: interleaved, so that a noisy machine hits all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bantam.score import Scored
from bantam.worker import Worker
from optimizer.recipe import MeasureConfig, ServingConfig
from serving.client import Classifier
from serving.loadtest import closed_loop

Latencies = NDArray[np.float64]


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
    clients: Mapping[str, Classifier],
    texts: list[str],
    config: MeasureConfig,
    serving: ServingConfig,
    say: Callable[[str], None],
) -> dict[str, Measured]:
    """Time every text alone in each variant, in process and (where ``clients`` has the variant) through the server.

    The rounds go A B C A B C; every variant sees the same texts in the same order; one round before them warms up and
    is thrown away. Tokenization is part of both times.
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
            say(f"round {number} of {config.rounds}" if number else "warm-up round")
            for name, worker in workers.items():
                in_process = worker.latencies_ms(texts)
                served = _served_ms(clients[name], texts) if name in clients else np.empty(0)
                if number:
                    results[name].in_process_ms = np.append(results[name].in_process_ms, in_process)
                    results[name].served_ms = np.append(results[name].served_ms, served)
        for name, worker in workers.items():
            results[name].peak_rss_mb = worker.peak_rss_mb()
    return results


def _served_ms(client: Classifier, texts: list[str]) -> Latencies:
    return closed_loop(lambda text: client.scores([text]), texts, requests=len(texts), warmup=1).latencies_ms
