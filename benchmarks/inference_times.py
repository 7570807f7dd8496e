"""Inference times of a run's variants side by side: mean, standard deviation, least, quartiles and most.

``python -m benchmarks.inference_times build/RUN --variants baseline,bf16,int4 [--texts 100]``: each test text alone, in
process, in turns: every variant takes one text before any takes the next. The baseline is PyTorch in fp32.
With ``--tokens 32`` each text is as long as that, of test texts one after another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bantam.artifact import Artifact, Text
from bantam.machine import describe_machine
from bantam.report.file import read_report
from bantam.run.worker import Worker
from optimizer.data import load_dataset

WARM_UP = 10
"""Texts before those that count."""


def main() -> None:
    """Read the options, time, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference_times", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="the run's data, whose test texts are timed")
    parser.add_argument(
        "--variants", default="", help="of the run, separated by commas; all that were measured if absent"
    )
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--tokens", type=int, help="of each text; the data's own texts if absent")
    asked = parser.parse_args()
    report = read_report(asked.run)
    threads = report.conditions.threads if report.conditions else None
    names = [name for name in asked.variants.split(",") if name] or [variant.name for variant in report.variants]
    variants = [Artifact.load(asked.run / name) for name in names]
    texts = list(load_dataset(asked.data).splits["test"].texts)
    texts = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))]
    if asked.tokens:
        texts = of_length(texts, asked.tokens, Tokenizer.from_file(str(variants[0].folder / "tokenizer.json")))
    chosen = texts[: WARM_UP + asked.texts]
    print(f"{describe_machine().cpu}, {threads or 'all'} threads, {len(chosen) - WARM_UP} texts\n")
    print(*table(variants, times(variants, chosen, threads)), sep="\n")


def of_length(texts: Sequence[Text], tokens: int, tokenizer: Tokenizer) -> list[Text]:
    """Texts of that many tokens, special ones included: as many of ``texts`` in a row as it takes, the last one cut."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    made: list[Text] = []
    row = ""
    for text in texts:
        row = f"{row} {text}".strip()
        offsets = tokenizer.encode(row, add_special_tokens=False).offsets
        if len(offsets) >= words:
            made.append(row[: offsets[words - 1][1]])
            row = ""
    return made


def times(variants: Sequence[Artifact], texts: Sequence[Text], threads: int | None) -> NDArray[np.float64]:
    """Milliseconds from a text to its scores, ``[variants, texts]``, without the first ones."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(variant, threads=threads, micro_batch=8)) for variant in variants]
        found = [[worker.timed([text]).latencies_ms[0] for worker in workers] for text in texts]
    return np.array(found).T[:, WARM_UP:]


def table(variants: Sequence[Artifact], latencies: NDArray[np.float64]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| variant | MB | mean ms | std | min | 25% | 50% | 75% | max |"
    yield "|" + " --- |" * 9
    for variant, row in zip(variants, latencies, strict=True):
        figures = (row.mean(), row.std(ddof=1), *np.percentile(row, [0, 25, 50, 75, 100]))
        shown = " | ".join(f"{figure:.1f}" for figure in figures)
        yield f"| {variant.name} | {variant.size_bytes / 1e6:.0f} | {shown} |"


if __name__ == "__main__":
    main()
