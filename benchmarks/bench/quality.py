"""The scores of each contender, and what they are worth: thresholds from dev alone, the drop from PyTorch on test."""

from __future__ import annotations

from collections.abc import Sequence

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
