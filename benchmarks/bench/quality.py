"""The scores of each contender, and what they are worth: thresholds from dev alone, the drop from PyTorch on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bantam.artifact import cache_key
from benchmarks.bench import prepared, servers
from benchmarks.bench.contenders import Contender
from benchmarks.bench.prepared import Prepared, Scores
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.results import ContenderQuality
from benchmarks.bench.state import BenchRun
from optimizer.evaluate import bootstrap_drop, one_hot, predict, quality, tune_thresholds
from optimizer.metric import Metric

SAME_SCORES = 1e-3
"""An fp32 contender whose scores differ by more than this from PyTorch's does not compute the same."""
KNOWN_TEXTS = 1000
"""Of the test split: on so many, a contender is held against scores that are known."""


def score_in_process(run: BenchRun, peers: Sequence[Contender]) -> None:
    """The scores of each in-process contender; Bantam's own variants have theirs from the product."""
    for name, each in list(run.ready.items()):
        if each.ours is not None:
            scored = run.ours.variants[each.ours.name]
            judge(run, name, scored.on("test"), scored.thresholds)
        elif each.contender.kind == "in-process":
            try:
                with prepared.scorer(each) as score:
                    judge_peer(run, name, Kept(run, each, score))
            except PeerFailed as failure:
                run.failed(name, failure)


def judge_served(run: BenchRun, name: str, server: servers.Running) -> None:
    """The quality of a contender behind its server. Bantam's variants have theirs, and must answer the same.

    Raises :class:`PeerFailed`.
    """
    each = run.ready[name]
    if each.ours is None:
        judge_peer(run, name, Kept(run, each, lambda texts: servers.scored(server, texts), "-served"))
        return
    # Asked in each run: the scores in process are the product's, which keeps them; the code that serves may be new.
    few = run.ours.data.splits["test"].single[:KNOWN_TEXTS]
    difference = float(np.abs(servers.scored(server, few) - run.test_scores[name][: len(few)]).max())
    if difference > SAME_SCORES:
        run.rows[name].notes.append(f"served scores differ from those in process by up to {difference:.1e}")


@dataclass(frozen=True)
class Kept:
    """Scores texts with ``compute``, or takes what an earlier run has kept. Raises :class:`PeerFailed`."""

    run: BenchRun
    prepared: Prepared
    compute: Callable[[Sequence[str]], Any]
    suffix: str = ""

    def __call__(self, what: str, texts: Sequence[str]) -> Scores:
        """Scores ``[texts, labels]``; ``what`` the texts are is part of the name that they are kept under."""
        return prepared.kept_scores(
            f"{self.prepared.contender.slug}-{what}{self.suffix}",
            cache_key(prepared=self.prepared.key, texts=texts),
            (len(texts), len(self.run.labels)),
            self.run.settings.root,
            lambda: self.compute(texts),
            self.run.log,
        )


def judge_peer(run: BenchRun, name: str, score: Kept) -> None:
    """The quality of a peer's scores.

    One in fp32 is asked some texts first: where each score is PyTorch's, its quality is too. If not, and below fp32,
    the whole test split is scored; below fp32 with thresholds from the peer's own scores of dev, else with PyTorch's.
    Raises :class:`PeerFailed`.
    """
    splits, base, found = run.ours.data.splits, run.ours.baseline, run.rows[name]
    thresholds = base.thresholds
    if found.precision == "fp32":
        few = splits["test"].single[:KNOWN_TEXTS]
        difference = float(np.abs(score("sample", few) - base.on("test")[: len(few)]).max())
        if difference <= SAME_SCORES:
            judge(run, name, base.on("test"), thresholds)
            assert found.quality is not None
            found.quality.max_score_difference, found.quality.same_on = difference, len(few)
            return
    test = score("test", splits["test"].single)
    if found.precision != "fp32":
        thresholds = tune_thresholds(score("dev", splits["dev"].single), splits["dev"].targets)
    judge(run, name, test, thresholds)


def judge(run: BenchRun, name: str, test: Scores, thresholds: tuple[float, ...] | None) -> None:
    """Quality of a contender's scores of the test split, and its drop from PyTorch."""
    split, base, found = run.ours.data.splits["test"], run.ours.baseline, run.rows[name]
    known, actual = base.on("test"), one_hot(split.targets, len(run.labels))
    before, after = (
        Metric().on(scores, predict(scores, tuned), actual, run.labels)
        for scores, tuned in ((known, base.thresholds), (test, thresholds))
    )
    drop, low, high = bootstrap_drop(before, after, len(split.texts))
    measured = quality(test, split.targets, thresholds)
    difference = float(np.abs(test - known).max())
    found.quality = ContenderQuality(measured["macro_f1"], measured["micro_f1"], drop, (low, high), difference)
    run.test_scores[name] = test
    same_weights = found.precision == "fp32" and not found.ours
    if same_weights and difference > SAME_SCORES:
        found.notes.append(f"does not compute what PyTorch does: scores differ by up to {difference:.1e}")
