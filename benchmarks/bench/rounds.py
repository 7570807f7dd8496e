"""Interleaved rounds: A B C A B C, the same texts in the same order, all but one of the contenders stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from benchmarks.bench.prepared import Prepared
from benchmarks.bench.process import PeerFailed, PeerProcess, pause, resumed

Log = Callable[[str], None]


@dataclass
class TimedContender:
    """What one contender took, over all rounds but the first."""

    latencies_ms: list[float] = field(default_factory=list)
    texts_per_s: list[float] = field(default_factory=list)
    """One figure a round."""
    load_s: float | None = None
    """From the start of loading to the first answer that is not a warm-up."""
    peak_rss_mb: float | None = None
    failure: PeerFailed | None = None


Turn = Callable[[], tuple[Sequence[float], float]]
"""One contender's turn in a round: latencies of the texts in milliseconds, and texts a second."""


def interleave(turns: Mapping[str, Turn], results: Mapping[str, TimedContender], rounds: int, log: Log) -> None:
    """Let each contender have its turn in each round; the first round warms up and is thrown away.

    A contender that fails is out from then on, with the reason in its result and no figures.
    """
    for number in range(rounds + 1):
        log(f"round {number} of {rounds}" if number else "warm-up round")
        for name, turn in turns.items():
            result = results[name]
            if result.failure is not None:
                continue
            try:
                latencies_ms, texts_per_s = turn()
            except PeerFailed as failure:
                log(f"{name:<36} failed, {failure}")
                result.failure, result.latencies_ms, result.texts_per_s = failure, [], []
                continue
            if number:
                result.latencies_ms += latencies_ms
                result.texts_per_s.append(texts_per_s)


def in_process(
    contenders: Mapping[str, Prepared], texts: list[str], many: list[str], rounds: int, log: Log
) -> dict[str, TimedContender]:
    """Time every text alone in each contender, and ``many`` in batches."""
    results = {name: TimedContender() for name in contenders}
    with ExitStack() as stack:
        processes: dict[str, PeerProcess] = {}
        for name, prepared in contenders.items():
            try:
                process = stack.enter_context(prepared.process("run"))
                results[name].load_s = float(process.answer("load")["load_s"])
                processes[name] = process
                pause(process.pid)
            except PeerFailed as failure:
                log(f"{name:<36} failed, {failure}")
                results[name].failure = failure

        def turn(process: PeerProcess) -> tuple[Sequence[float], float]:
            with resumed(process.pid):
                latencies_ms: list[float] = process.ask("latency", "latencies_ms", texts)
                return latencies_ms, float(process.ask("latency", "texts_per_s", many))

        turns = {name: partial(turn, process) for name, process in processes.items()}
        interleave(turns, results, rounds, log)
        for name, process in processes.items():
            if results[name].failure is None:
                with resumed(process.pid):
                    results[name].peak_rss_mb = float(process.ask("latency", "peak_rss_mb"))
    return results
