"""Interleaved rounds: A B C A B C, the same texts in the same order, all but one of the contenders stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.bench.prepared import Prepared
from benchmarks.bench.process import PeerFailed, PeerProcess, pause, resumed
from benchmarks.bench.workloads import Workload

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


Check = Callable[[str, Workload, Callable[[list[str]], Any]], None]
"""Raises :class:`PeerFailed` if a contender, by its name, does not answer the workload's texts with the right scores;
what it is given last asks it."""
Turn = Callable[[], tuple[Sequence[float], float]]
"""One contender's turn in a round: latencies of the texts in milliseconds, and texts a second."""


def interleave(turns: Mapping[str, Turn], results: Mapping[str, TimedContender], work: Workload, log: Log) -> None:
    """Let each contender have its turn in each round; the first round warms up and is thrown away.

    A contender that fails is out from then on, with the reason in its result and no figures.
    """
    for number in range(work.rounds + 1):
        log(f"{work.name}: round {number} of {work.rounds}" if number else f"{work.name}: warm-up round")
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


def checked(
    name: str, work: Workload, score: Callable[[list[str]], Any], check: Check, result: TimedContender, log: Log
) -> None:
    """Note who fails the check: it is not timed."""
    try:
        check(name, work, score)
    except PeerFailed as failure:
        log(f"{name:<36} failed, {failure}")
        result.failure = failure


def in_process(
    contenders: Mapping[str, Prepared], workloads: Sequence[Workload], check: Check, log: Log
) -> list[dict[str, TimedContender]]:
    """Time every text of each workload alone in each contender, and its others in batches.

    The peak of memory is that of the first workload. One that fails at a workload is out from then on.
    """
    results = [{name: TimedContender() for name in contenders} for _ in workloads]
    with ExitStack() as stack:
        processes: dict[str, PeerProcess] = {}
        for name, prepared in contenders.items():
            try:
                process = stack.enter_context(prepared.process("run"))
                results[0][name].load_s = float(process.answer("load")["load_s"])
                processes[name] = process
                pause(process.pid)
            except PeerFailed as failure:
                log(f"{name:<36} failed, {failure}")
                results[0][name].failure = failure

        def turn(process: PeerProcess, work: Workload) -> tuple[Sequence[float], float]:
            with resumed(process.pid):
                latencies_ms: list[float] = process.ask("latency", "latencies_ms", work.texts)
                return latencies_ms, float(process.ask("latency", "texts_per_s", work.many))

        for work, found in zip(workloads, results, strict=True):
            for name, process in processes.items():
                with resumed(process.pid):
                    checked(name, work, partial(process.ask, "scores", "scores"), check, found[name], log)
            turns = {name: partial(turn, process, work) for name, process in processes.items()}
            interleave(turns, found, work, log)
            processes = {name: each for name, each in processes.items() if found[name].failure is None}
            if found is results[0]:
                for name, process in processes.items():
                    with resumed(process.pid):
                        found[name].peak_rss_mb = float(process.ask("latency", "peak_rss_mb"))
    return results
