"""The scores of each contender, and what they are worth: thresholds from dev alone, the drop from PyTorch on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.bench import prepared, servers
from benchmarks.bench.contenders import Contender
from benchmarks.bench.prepared import Prepared, Scores
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.results import Quality
from benchmarks.bench.state import Bench
from optimizer.artifact import cache_key
from optimizer.evaluate import bootstrap_drop, one_hot, predict, quality, tune_thresholds

SAME_SCORES = 1e-3
"""An fp32 contender whose scores differ by more than this from PyTorch's does not compute the same."""
SERVED_TEXTS = 1000
"""Of the test split: on so many, Bantam's servers are held against their own variant in process."""


def score_in_process(run: Bench, peers: Sequence[Contender]) -> None:
    """The test split in each in-process contender; Bantam's own variants have their scores from the product."""
    root = run.settings.root
    for name, each in list(run.ready.items()):
        if each.ours is not None:
            scored = run.ours.variants[each.ours.manifest.name]
            judge(run, name, scored.test, scored.thresholds)
        elif each.contender.kind == "in-process":

            def score(slug: str, key: str, texts: Sequence[str], each: Prepared = each) -> Scores:
                return prepared.scored_in_process(slug, key, each, texts, len(run.labels), root, run.say)

            try:
                judge_peer(run, name, score)
            except PeerFailed as failure:
                run.failed(name, failure)


def judge_peer(run: Bench, name: str, score: Callable[[str, str, Sequence[str]], Scores]) -> None:
    """Score the test split. Below fp32, thresholds come from the contender's own scores of dev; else from PyTorch's.

    ``score`` gets a name and a key to keep the scores under. Raises :class:`PeerFailed`.
    """
    data, each = run.ours.data, run.ready[name]

    def on(split: str) -> Scores:
        key = cache_key(prepared=each.key, data=data.digest, split=split)
        return score(f"{each.contender.slug}-{split}", key, data.splits[split].texts)

    test, thresholds = on("test"), run.ours.baseline.thresholds
    if each.contender.precision != "fp32":
        thresholds = tune_thresholds(on("dev"), data.splits["dev"].targets)
    judge(run, name, test, thresholds)


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


def judge_served(run: Bench, name: str, server: servers.Running) -> None:
    """The scores of a peer through its server; of Bantam's variants, that the server answers as they do in process.

    The latter is tried anew in each run, so that scores which the product has kept are those of the code that serves.
    Raises :class:`PeerFailed`.
    """

    def score(slug: str, key: str, texts: Sequence[str]) -> Scores:
        shape = (len(texts), len(run.labels))
        return prepared.kept_scores(
            f"{slug}-served", key, shape, run.settings.root, lambda: servers.scored(server, texts), run.say
        )

    if run.ready[name].ours is None:
        judge_peer(run, name, score)
        return
    served = servers.scored(server, run.ours.data.splits["test"].texts[:SERVED_TEXTS])
    difference = float(np.abs(served - run.test_scores[name][: len(served)]).max())
    if difference > SAME_SCORES:
        run.rows[name].notes.append(f"served scores differ from those in process by up to {difference:.1e}")
