"""What is made of one model, and what each variant does: answers, one text at a time, and lists of texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from bantam.artifact import Artifact
from bantam.errors import BantamError
from bantam.report.schema import BASELINE
from bantam.run import builder
from bantam.run.worker import Worker, placed
from benchmarks.inference_times import of_length
from optimizer.data import load_dataset
from optimizer.evaluate import apart
from optimizer.load import resolve
from optimizer.recipe import load_recipe

DATA = "sms-spam"
ROWS = 64
"""Of the data, for what looks at texts while variants are made: the weights may be random."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    device: Literal["cpu", "cuda"]
    deadline: float
    """As :func:`time.monotonic` tells it: what is not begun by then is left out, and named."""
    tokens: tuple[int, ...] = (32, 128, 512)
    single: int = 100
    """Texts of each length that are timed one by one."""
    many: int = 256
    """Texts in one list."""
    seconds: float = 2.0
    """For how long lists are given, of each length."""


QUICK: dict[str, Any] = {"tokens": (16, 32), "single": 5, "many": 16, "seconds": 0.2}
"""A plan that only shows that it runs."""


def make(model: str, weights: bool, plan: Plan, folder: Path, only: Sequence[str]) -> builder.Builder:
    """Every variant of recipe ``gpu``, as ``make optimize`` makes them, or ``only`` these; what failed is noted.

    ``weights``: the model's own, with its classifier; else random ones of its architecture.
    """
    recipe = load_recipe("gpu").planned()
    if only:
        named = {*only, *(source for stage in recipe.stages if stage.name in only for source in stage.sources)}
        stages = tuple(stage for stage in recipe.stages if stage.name in named | {BASELINE})
        recipe = recipe.model_copy(update={"stages": stages})
    data = load_dataset(DATA)
    few = {name: replace(split, texts=split.texts[:ROWS], targets=split.targets[:ROWS])
           for name, split in data.splits.items()}  # fmt: skip
    checkpoint = resolve(model, random_init=not weights)
    with builder.locked(folder):
        return builder.run(
            recipe,
            replace(data, splits=few, digest=f"{data.digest}-{ROWS}"),
            {None: checkpoint},
            folder,
            device=plan.device,
        )


def measure(
    variants: dict[str, Artifact], plan: Plan, note: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A variant's name and figures, one after the other; each runs alone, in a process of its own.

    What fails, or is out of time, says so.
    """
    texts = drawn(variants[BASELINE], plan)
    expected: dict[int, np.ndarray] = {}
    for name, variant in variants.items():
        if time.monotonic() > plan.deadline:
            yield name, {"left_out": "no time was left"}
            continue
        device = placed(variant, plan.device)
        try:
            with Worker(variant, threads=None, micro_batch=8, device=device) as worker:
                figures = _figures(worker, texts, plan)
        except BantamError as exc:
            note(f"{name}: {exc}")
            yield name, {"failed": str(exc)}
            continue
        answers = figures.pop("answers")
        if name == BASELINE:
            expected = answers
        # None without a baseline to compare with.
        difference = max(
            (float(apart(known, answers[tokens]).max()) for tokens, known in expected.items()), default=None
        )
        found = {"device": device, "size_mb": round(variant.size_bytes / 1e6, 1), **figures,
                 "max_score_difference": difference}  # fmt: skip
        note(f"{name} on {device}: {found}")
        yield name, found


def drawn(variant: Artifact, plan: Plan) -> dict[int, list[str]]:
    """Texts of each length that the model reads, in tokens: ``plan.many`` of each."""
    tokenizer = Tokenizer.from_file(str(variant.folder / "tokenizer.json"))
    read = [tokens for tokens in plan.tokens if tokens <= variant.manifest.signature.max_length]
    own = load_dataset(DATA).splits["train"].single
    # Some have fewer words than others: as often as it takes.
    repeated = [*own] * (1 + plan.many * max(read) // len(own))
    return {tokens: [str(text) for text in of_length(repeated, tokens, tokenizer)[: plan.many]] for tokens in read}


def _figures(worker: Worker, texts: dict[int, list[str]], plan: Plan) -> dict[str, Any]:
    p50, rates, answers = {}, {}, {}
    for tokens, many in texts.items():
        answers[tokens] = worker.probabilities(many[: plan.single])
        worker.timed(many[: plan.single])  # warms up
        p50[tokens] = round(float(np.nanmedian(worker.timed(many[: plan.single]).latencies_ms)), 4)
        rates[tokens] = round(worker.throughput(many, plan.seconds), 1)
    return {"runs_on": worker.providers(), "p50_ms": p50, "texts_per_s": rates, "answers": answers}
