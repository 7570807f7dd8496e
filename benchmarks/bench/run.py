"""The bench, step by step: checkpoint, environments, preparation, scores, latency in process, servers, limits."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from bantam.errors import UserError
from bantam.machine import describe_machine
from bantam.run import builder as pipeline
from bantam.run.latency import draw_texts
from benchmarks.bench import environments, limits, ours, prepared, rounds, servers, witness, workloads
from benchmarks.bench.contenders import CONTENDERS, OURS, Contender
from benchmarks.bench.driver import Job
from benchmarks.bench.guardian import Guardian
from benchmarks.bench.ours import Ours
from benchmarks.bench.process import PeerFailed, pause
from benchmarks.bench.quality import judge_served, score_in_process
from benchmarks.bench.results import Results, compare, note, row
from benchmarks.bench.state import BenchRun, Log, Settings
from benchmarks.bench.workloads import Workload
from serving.backend.cores import usable_cores

CALIBRATION_TEXTS = 300


def bench(settings: Settings, log: Log) -> Results:
    """Run all steps; what took long and does not depend on the moment is kept, measurements are made anew.

    Raises :class:`UserError` for options that cannot be met, and what making Bantam's own variants raises. A contender
    that fails is a row with the reason.
    """
    peers = select(CONTENDERS, settings.only)
    settings.root.mkdir(parents=True, exist_ok=True)
    with pipeline.locked(settings.root):
        prepared.discard(settings.root)
        started = time.monotonic()
        made = ours.make(settings.model, settings.data, settings.profile, settings.build, log)
        if made.data.task != "multi_label":
            raise UserError(f"Got {settings.data}, one label a text; the peers' files expect several. Choose another.")
        run = BenchRun(settings, log, made, _results(settings, made))
        run.results.steps_s["checkpoint and Bantam's variants"] = round(time.monotonic() - started, 1)
        for name, step in STEPS.items():
            with run.step(name):
                step(run, peers)
        run.results.rows = list(run.rows.values())
        run.results.verdict = compare(run.results.rows)
    return run.results


def select(contenders: Sequence[Contender], only: Sequence[str]) -> list[Contender]:
    """Those whose name holds one of the words. Raises :class:`UserError` if a word fits none."""
    for word in only:
        known = word.lower().startswith(ours.NAME.lower()) or any(chosen(each.name, [word]) for each in contenders)
        if not known:
            names = ", ".join(each.name for each in contenders)
            raise UserError(
                f"Got --only {word!r}, no part of any contender's name. Expected parts of: {names}, {ours.NAME}."
            )
    return [each for each in contenders if chosen(each.name, only)]


def chosen(name: str, only: Sequence[str]) -> bool:
    """Whether a contender takes part."""
    return not only or any(word.lower() in name.lower() for word in only)


def _results(settings: Settings, made: Ours) -> Results:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made.checkpoint.folder / "tokenizer.json"))
    texts = draw_texts(made.data.splits["test"].single, settings.texts)
    return Results(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=settings.command,
        profile=settings.profile,
        model=settings.model,
        data=settings.data,
        checkpoint=made.checkpoint.digest,
        machine=describe_machine().model_dump(mode="json"),
        threads=usable_cores(),
        rounds=settings.rounds,
        texts=len(texts),
        tokens=int(np.median([len(tokenizer.encode(text)) for text in texts])),
    )


def make_environments_and_prepare(run: BenchRun, peers: Sequence[Contender]) -> None:
    """The environment of each peer, and what it makes of the checkpoint; Bantam's variants are there already."""
    there = _environments(run, peers)
    job = Job(
        threads=run.results.threads,
        calibration=draw_texts(run.ours.data.splits["train"].single, CALIBRATION_TEXTS),
        labels=list(run.labels),
        task=run.ours.data.task,
        max_length=run.ours.checkpoint.manifest.signature.max_length,
    )
    own = there[OURS]
    assert isinstance(own, environments.Environment)
    for contender, scored in ours.contenders(run.ours, run.results.threads):
        if chosen(contender.name, run.settings.only):
            run.rows[contender.name] = row(contender, True, own.versions)
            run.ready[contender.name] = prepared.own(contender, own, scored.artifact, job, run.settings.root)
    for peer in peers:
        environment = there[peer.environment]
        if isinstance(environment, PeerFailed):
            run.rows[peer.name] = row(peer, False, {})
            run.failed(peer.name, environment)
            continue
        run.rows[peer.name] = row(peer, False, environment.versions)
        try:
            run.ready[peer.name] = prepared.prepare(
                peer, environment, run.ours.checkpoint, job, run.settings.root, run.log
            )
        except PeerFailed as failure:
            run.failed(peer.name, failure)
    for name, each in run.ready.items():
        run.rows[name].size_mb, run.rows[name].prepare_s = round(each.size_mb, 2), each.seconds


def _environments(run: BenchRun, peers: Sequence[Contender]) -> dict[str, environments.Environment | PeerFailed]:
    """Each environment that takes part, or why it is not there. One at a time on each core, for pip works on one."""

    def attempt(name: str) -> environments.Environment | PeerFailed:
        try:
            return environments.make(name, run.settings.root / "env", run.log)
        except PeerFailed as failure:
            return failure

    names = tuple(dict.fromkeys((OURS, *(peer.environment for peer in peers))))
    with ThreadPoolExecutor(usable_cores()) as pool:
        there = dict(zip(names, pool.map(attempt, names), strict=True))
    for name, found in there.items():
        if isinstance(found, environments.Environment):
            run.results.environments[name] = {"seconds": found.seconds, "versions": found.versions}
    return there


def choose_texts(run: BenchRun, peers: Sequence[Contender]) -> None:
    """The texts that all are timed on, and what PyTorch answers to the longer ones."""
    from tokenizers import Tokenizer

    split, settings, checkpoint = run.ours.data.splits["test"].single, run.settings, run.ours.checkpoint
    texts, many = draw_texts(split, settings.texts), draw_texts(split, workloads.BATCHED_TEXTS, seed=1)
    run.workloads = [Workload(texts, many, settings.rounds, settings.seconds)]
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    tokenizer.no_truncation()
    most = checkpoint.manifest.signature.max_length
    run.workloads += [
        workloads.longer(
            split, tokens, settings.long_rounds, lambda text: len(tokenizer.encode(text)),
            lambda made: workloads.known_scores(checkpoint.folder, made, most),
        )
        for tokens in workloads.LENGTHS if tokens <= most
    ]  # fmt: skip


def _check(run: BenchRun, name: str, work: Workload, score: Callable[[list[str]], Any]) -> None:
    """Raises :class:`PeerFailed` if a peer answers longer texts not as PyTorch does; Bantam's own may be students."""
    if work.known is not None and not run.rows[name].ours:
        workloads.check(work, np.asarray(score(work.many)), run.rows[name].precision)


def time_in_process(run: BenchRun, peers: Sequence[Contender]) -> None:
    """Interleaved rounds of all in-process contenders."""
    racing = {name: each for name, each in run.ready.items() if each.contender.kind == "in-process"}
    found = rounds.in_process(racing, run.workloads, partial(_check, run), run.log)
    for work, timings in zip(run.workloads, found, strict=True):
        for name, timed in timings.items():
            note(run.rows[name], "in_process", work, timed)


def serve_all(run: BenchRun, peers: Sequence[Contender]) -> None:
    """Each served contender started, scored through the server, and timed; those that wait are stopped meanwhile."""
    served = {name: each for name, each in run.ready.items() if each.contender.protocol}
    running: dict[str, servers.Running] = {}
    start_s: dict[str, float] = {}
    with Guardian() as guardian, ExitStack() as stack:
        for name, each in served.items():
            try:
                running[name], start_s[name] = servers.start(each, run.labels, run.settings.root, stack, guardian)
                pause(running[name].pid)
                judge_served(run, name, running[name])
            except PeerFailed as failure:
                running.pop(name, None)
                run.log(f"{name:<36} failed, {failure}")
                run.rows[name].fail(failure)
        timings = servers.timed(running, run.workloads, partial(_check, run), run.log)
        for name, timed in timings[0].items():
            timed.load_s = start_s[name]
        for work, found in zip(run.workloads, timings, strict=True):
            for name, timed in found.items():
                note(run.rows[name], "served", work, timed)
        run.results.witness = witness.ask(run, running)


def find_limits(run: BenchRun, peers: Sequence[Contender]) -> None:
    """What the machine reaches, and how far from it each contender stays."""
    run.results.rates = rates = limits.measure(run.results.threads)
    for name, each in run.ready.items():
        found = run.rows[name]
        if found.in_process is not None:
            try:
                found.limit = limits.of(each, run.results.tokens, rates, found.in_process.p50_ms)
            except (ValueError, RuntimeError, OSError) as exc:  # a format or an operator that only the peer can read
                found.notes.append(f"its multiply-adds could not be counted: {str(exc).splitlines()[-1]}")


STEPS: dict[str, Callable[[BenchRun, Sequence[Contender]], None]] = {
    "environments and preparation": make_environments_and_prepare,
    "texts": choose_texts,
    "scores": score_in_process,
    "latency in process": time_in_process,
    "servers": serve_all,
    "limits of this machine": find_limits,
}
