"""What variants are worth on dev: scores in process, a server's answers, time. Test is looked at once, at the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import TOKENIZER_FILES, Artifact, cache_key
from bantam.files import writing
from bantam.memory import MemoryWatch
from bantam.report.schema import BASELINE
from bantam.run.endpoint import Endpoint, paused
from bantam.run.latency import Anchors, Bench, draw_texts, measure
from bantam.run.noise import sample
from bantam.run.score import score, scores_on, with_test
from bantam.run.state import Log, Run
from bantam.run.text_threads import alone
from bantam.run.timing import Timing
from bantam.run.worker import Lister, Requester, Worker, placed
from optimizer.data.dataset import Split
from optimizer.recipe import ServingConfig
from optimizer.slices import tokens_of
from optimizer.stage import RunContext
from serving.backend.cores import TextThreads, usable_cores
from serving.repository import publish


def score_dev(run: Run, names: Iterable[str], log: Log) -> None:
    """Score variants on dev, or keep the scores that are there."""
    for name in names:
        found = score(run.artifacts[name], run.data, context(run, log), run.recipe.serving, run.thresholds)
        run.scored[name] = found
    _tokenize(run, "dev")


def score_test(run: Run, names: Iterable[str], log: Log) -> None:
    """Score variants on test too."""
    for name in names:
        run.scored[name] = with_test(run.scored[name], run.data, context(run, log), run.recipe.serving)
    _tokenize(run, "test")


GLANCE = "glance"
"""What some rows of dev are called among the scores of a run."""


def glance_rows(run: Run, count: int) -> NDArray[np.int64]:
    """Numbers of ``count`` rows of dev, or of all, drawn with a fixed seed: a file may be sorted by label."""
    rows = len(run.data.splits["dev"].texts)
    return np.sort(np.random.default_rng(0).choice(rows, min(count, rows), replace=False))


def glance(run: Run, name: str, rows: NDArray[np.int64], log: Log) -> NDArray[np.float32]:
    """Scores of a variant on these ``rows`` of dev, in process, ``[rows, labels]``; kept as those of all are."""
    dev = run.data.splits["dev"]
    drawn = Split(tuple(dev.texts[row] for row in rows), dev.targets[rows])
    digest = cache_key(data=run.data.digest, rows=rows.tolist())
    data = replace(run.data, splits=MappingProxyType({GLANCE: drawn}), digest=digest)
    return scores_on(GLANCE, run.artifacts[name], data, context(run, log), run.recipe.serving)


def _tokenize(run: Run, split: str) -> None:
    """See how the baseline's tokenizer cuts the texts of a split."""
    baseline = run.artifacts[BASELINE]
    if split not in run.tokens:
        longest, texts = baseline.manifest.signature.max_length, run.data.splits[split].texts
        run.tokens[split] = tokens_of(baseline.folder / TOKENIZER_FILES[0], longest, texts)


def measure_variants(run: Run, names: Iterable[str], memory: MemoryWatch, log: Log) -> None:
    """Serve those of ``names`` that can be served from a throw-away repository; time all, the baseline among them."""
    names = list(dict.fromkeys([BASELINE, *names]))
    candidates = run.folder / "candidates"
    try:
        with writing(run.folder):
            _measure(run, names, candidates, memory, log)
    finally:
        shutil.rmtree(candidates, ignore_errors=True)


def time_variants(
    run: Run, names: Iterable[str], texts: int, rounds: int, memory: MemoryWatch, log: Log, *, lists: bool = False
) -> dict[str, Timing]:
    """Time variants in process alone, beside the baseline, on so many texts in so many rounds.

    With ``lists``, all texts are one list, and a time is that of the list divided by how many they are: one figure a
    round, so that there are :data:`LIST_ROUNDS` times as many rounds.
    """
    variants = {name: run.artifacts[name] for name in dict.fromkeys([BASELINE, *names])}
    threads = {name: found and found.text_threads for name in names for found in [alone(run, variants[name])]}
    kind = Lister if lists else Worker
    bench = Bench(
        worker=in_processes(variants, run.recipe.serving, threads, run.request.device, kind),
        endpoint=None,
        quiet=memory.paused,
        noise=partial(sample, usable_cores()),
        log=log,
    )
    config = run.recipe.measure.model_copy(update={"rounds": rounds * (LIST_ROUNDS if lists else 1)})
    return measure(
        variants, Anchors(BASELINE, BASELINE), draw_texts(run.data.splits["dev"].texts, texts), config, bench
    )


LIST_ROUNDS = 5


def in_processes(
    variants: Mapping[str, Artifact],
    serving: ServingConfig,
    text_threads: Mapping[str, TextThreads | None],
    device: Literal["cpu", "cuda"] = "cpu",
    kind: type[Worker] = Worker,
) -> Callable[[str], Worker]:
    """Opens variants in processes of their own, which run as they are served, of a run on ``device``."""
    return lambda name: kind(
        variants[name],
        threads=serving.threads,
        micro_batch=serving.micro_batch,
        text_threads=text_threads.get(name),
        device=placed(variants[name], device),
    )


def _measure(run: Run, names: list[str], candidates: Path, memory: MemoryWatch, log: Log) -> None:
    variants = {name: run.scored[name].artifact for name in names}
    served = [name for name in names if variants[name].servable]
    text_threads: dict[str, TextThreads | None] = {}
    for name in served:
        options = run.recipe.serving.model_dump()
        found = alone(run, variants[name])
        options["text_threads"] = text_threads[name] = found and found.text_threads
        publish(variants[name], candidates, name, thresholds=run.scored[name].thresholds, link=True, **options)
    log(f"serving {', '.join(served)}")
    anchors = Anchors(BASELINE, run.safe if run.safe in served else served[0])
    # Not of test: what is chosen depends on these times.
    texts = draw_texts(run.data.splits["dev"].texts, run.recipe.measure.texts)
    with Requester() as requester:
        bench = Bench(
            worker=in_processes(variants, run.recipe.serving, text_threads, run.request.device),
            endpoint=lambda name: paused(candidates, name, requester, run.request.target),
            served=lambda name, endpoint: _score_served(run, name, endpoint, log),
            quiet=memory.paused,
            throughput=bool(run.request.prices),
            noise=partial(sample, usable_cores()),
            log=log,
        )
        run.measured |= measure(variants, anchors, texts, run.recipe.measure, bench)


def _score_served(run: Run, name: str, endpoint: Endpoint, log: Log) -> None:
    """Score all of dev through the server."""
    run.isolated_because = run.isolated_because or endpoint.isolated_because
    run.answers[name, "dev"] = endpoint.client.probabilities(run.data.splits["dev"].texts)
    log(f"{name:<24} dev scored through the server, largest difference {run.difference(name, 'dev'):.1e}")


def context(run: Run, log: Log) -> RunContext:
    """What a stage of this run gets, for what is kept like an artifact."""
    return RunContext(
        folder=run.folder,
        scratch=run.folder,
        key="",
        data=run.data,
        checkpoint=run.checkpoint,
        shared=run.folder,
        device=run.request.device,
        log=log,
        threads=usable_cores(),
    )
