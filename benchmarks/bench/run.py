"""The bench, step by step: checkpoint, environments, preparation, scores, latency in process, servers, limits."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bantam.measure import draw_texts
from benchmarks.bench import environments, limits, ours, prepared, rounds, servers
from benchmarks.bench.contenders import CONTENDERS, OURS, Contender
from benchmarks.bench.driver import Job
from benchmarks.bench.ours import Ours
from benchmarks.bench.prepared import Prepared, Scores
from benchmarks.bench.process import PeerFailed, pause
from benchmarks.bench.results import Quality, Results, Row, compare, figures, row
from optimizer import pipeline
from optimizer.artifact import cache_key
from optimizer.errors import UserError
from optimizer.evaluate import bootstrap_drop, one_hot, predict, quality, tune_thresholds
from serving.backend.engine import usable_cores
from serving.machine import describe_machine

CALIBRATION_TEXTS = 300
BATCHED_TEXTS = 320
"""Texts of a throughput measurement in process: ten batches."""
SAME_SCORES = 1e-3
"""An fp32 contender whose scores differ by more than this from PyTorch's does not compute the same."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    model: str = "minilm"
    data: str = "goemotions-ekman"
    profile: str = "quick"
    rounds: int = 3
    texts: int = 200
    seconds: float = 3.0
    """Of a throughput measurement of a server, in each round."""
    only: tuple[str, ...] = ()
    """Parts of names; everyone if empty."""
    build: Path = Path("build")
    command: str = ""

    @property
    def root(self) -> Path:
        """Where the bench keeps what it makes."""
        return self.build / "bench"


@dataclass
class Bench:
    """One run: what it knows so far."""

    settings: Settings
    say: Say
    ours: Ours
    results: Results
    rows: dict[str, Row] = field(default_factory=dict)
    ready: dict[str, Prepared] = field(default_factory=dict)
    test_scores: dict[str, Scores] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the checkpoint's order."""
        return self.ours.checkpoint.manifest.signature.labels

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what comes, and note how long it took."""
        self.say(f"== {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.results.steps_s[name] = round(time.monotonic() - started, 1)
            self.say(f"== {name}: {self.results.steps_s[name]:.0f} s")

    def failed(self, name: str, failure: PeerFailed) -> None:
        """A contender is out; the others go on."""
        self.say(f"{name:<36} failed, {failure}")
        self.rows[name].fail(failure)
        self.ready.pop(name, None)


def bench(settings: Settings, say: Say) -> Results:
    """Run all steps; what took long and does not depend on the moment is kept, measurements are made anew.

    Raises :class:`UserError` for options that cannot be met, and what making Bantam's own variants raises. A contender
    that fails is a row with the reason.
    """
    peers = select(CONTENDERS, settings.only)
    settings.root.mkdir(parents=True, exist_ok=True)
    with pipeline.locked(settings.root):
        prepared.discard(settings.root)
        started = time.monotonic()
        made = ours.make(settings.model, settings.data, settings.profile, settings.build, say)
        if made.data.task != "multi_label":
            raise UserError(f"Got {settings.data}, one label a text; the peers' files expect several. Choose another.")
        run = Bench(settings, say, made, _results(settings, made))
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
        if not any(word.lower() in name.lower() for name in (*(each.name for each in contenders), ours.NAME)):
            names = ", ".join(each.name for each in contenders)
            raise UserError(f"Got --only {word!r}, no part of any contender's name. Expected parts of: {names}.")
    return [each for each in contenders if chosen(each.name, only)]


def chosen(name: str, only: Sequence[str]) -> bool:
    """Whether a contender takes part."""
    return not only or any(word.lower() in name.lower() for word in only)


def _results(settings: Settings, made: Ours) -> Results:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made.checkpoint.folder / "tokenizer.json"))
    texts = draw_texts(made.data.splits["test"].texts, settings.texts)
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


def make_environments_and_prepare(run: Bench, peers: Sequence[Contender]) -> None:
    """The environment of each peer, and what it makes of the checkpoint; Bantam's variants are there already."""
    folder = run.settings.root / "env"
    job = Job(
        threads=run.results.threads,
        calibration=draw_texts(run.ours.data.splits["train"].texts, CALIBRATION_TEXTS),
        labels=list(run.labels),
        task=run.ours.data.task,
        max_length=run.ours.checkpoint.manifest.signature.max_length,
    )
    there: dict[str, environments.Environment | PeerFailed] = {}
    for name in dict.fromkeys((OURS, *(peer.environment for peer in peers))):
        try:
            there[name] = found = environments.make(name, folder, run.say)
            run.results.environments[name] = {"seconds": found.seconds, "versions": found.versions}
        except PeerFailed as failure:
            there[name] = failure
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
                peer, environment, run.ours.checkpoint, job, run.settings.root, run.say
            )
        except PeerFailed as failure:
            run.failed(peer.name, failure)
    for name, each in run.ready.items():
        run.rows[name].size_mb, run.rows[name].prepare_s = round(each.size_mb, 2), each.seconds


def score_in_process(run: Bench, peers: Sequence[Contender]) -> None:
    """Dev and test in each in-process contender; thresholds come from dev alone."""
    data, root = run.ours.data, run.settings.root
    for name, each in list(run.ready.items()):
        if each.ours is not None:
            scored = run.ours.variants[each.ours.manifest.name]
            judge(run, name, scored.test, scored.thresholds)
        elif each.contender.kind == "in-process":
            texts = [*data.splits["dev"].texts, *data.splits["test"].texts]
            try:
                scores = prepared.scored_in_process(each, texts, len(run.labels), data.digest, root, run.say)
            except PeerFailed as failure:
                run.failed(name, failure)
                continue
            dev = len(data.splits["dev"].texts)
            judge(run, name, scores[dev:], tune_thresholds(scores[:dev], data.splits["dev"].targets))


def judge(run: Bench, name: str, test: Scores, thresholds: tuple[float, ...] | None) -> None:
    """Quality of a contender's scores of the test split, and its drop from PyTorch."""
    split, base, found = run.ours.data.splits["test"], run.ours.baseline, run.rows[name]
    before, after = predict(base.test, base.thresholds), predict(test, thresholds)
    drop, low, high = bootstrap_drop(before, after, one_hot(split.targets, len(run.labels)))
    measured = quality(test, split.targets, thresholds)
    difference = float(np.abs(test - base.test).max())
    found.quality = Quality(measured["macro_f1"], measured["micro_f1"], drop, (low, high), difference)
    run.test_scores[name] = test
    same_weights = found.precision == "fp32" and not found.ours
    if same_weights and difference > SAME_SCORES:
        found.notes.append(f"does not compute what PyTorch does: scores differ by up to {difference:.1e}")


def time_in_process(run: Bench, peers: Sequence[Contender]) -> None:
    """Interleaved rounds of all in-process contenders."""
    split, settings = run.ours.data.splits["test"].texts, run.settings
    racing = {
        name: each for name, each in run.ready.items() if each.contender.kind == "in-process" and name in run.rows
    }
    texts, many = draw_texts(split, settings.texts), draw_texts(split, BATCHED_TEXTS, seed=1)
    for name, timed in rounds.in_process(racing, texts, many, settings.rounds, run.say).items():
        run.rows[name].in_process = figures(timed)
        if timed.failure:
            run.rows[name].fail(timed.failure)


def serve_all(run: Bench, peers: Sequence[Contender]) -> None:
    """Each served contender started, scored through the server, and timed; those that wait are stopped meanwhile."""
    served = {name: each for name, each in run.ready.items() if each.contender.protocol}
    running: dict[str, servers.Running] = {}
    start_s: dict[str, float] = {}
    with ExitStack() as stack:
        for name, each in served.items():
            try:
                running[name], start_s[name] = servers.start(each, run.labels, run.settings.root, stack)
                pause(running[name].pid)
                judge_served(run, name, each, running[name])
            except PeerFailed as failure:
                running.pop(name, None)
                run.failed(name, failure)
        texts = draw_texts(run.ours.data.splits["test"].texts, run.settings.texts)
        timings = servers.timed(running, texts, run.settings.rounds, run.settings.seconds, run.say)
        for name, timed in timings.items():
            timed.load_s = start_s[name]
            run.rows[name].served = figures(timed)
            if timed.failure:
                run.rows[name].fail(timed.failure)


def judge_served(run: Bench, name: str, each: Prepared, server: servers.Running) -> None:
    """Scores of the test split through the server. Below fp32, thresholds of its own from dev; else PyTorch's."""
    data, root = run.ours.data, run.settings.root

    def through(split: str) -> Scores:
        texts, slug = data.splits[split].texts, f"{each.contender.slug}-served-{split}"
        key = cache_key(prepared=each.key, data=data.digest, split=split)
        shape = (len(texts), len(run.labels))
        return prepared.kept_scores(slug, key, shape, root, lambda: servers.scored(server, texts), run.say)

    test = through("test")
    if name in run.test_scores:
        difference = float(np.abs(test - run.test_scores[name]).max())
        if difference > SAME_SCORES:
            run.rows[name].notes.append(f"served scores differ from those in process by up to {difference:.1e}")
        return
    thresholds = run.ours.baseline.thresholds
    if each.contender.precision != "fp32":
        thresholds = tune_thresholds(through("dev"), data.splits["dev"].targets)
    judge(run, name, test, thresholds)


def find_limits(run: Bench, peers: Sequence[Contender]) -> None:
    """What the machine reaches, and how far from it each contender stays."""
    run.results.rates = rates = limits.measure(run.results.threads)
    for name, each in run.ready.items():
        found = run.rows[name]
        if found.in_process is not None:
            found.limit = limits.of(each, run.results.tokens, rates, found.in_process.p50_ms)


STEPS: dict[str, Callable[[Bench, Sequence[Contender]], None]] = {
    "environments and preparation": make_environments_and_prepare,
    "scores": score_in_process,
    "latency in process": time_in_process,
    "servers": serve_all,
    "limits of this machine": find_limits,
}
