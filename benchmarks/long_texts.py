"""The table of long texts in docs/quantization.md: p50 of each method at 32, 128 and 512 tokens, beside fp32 in ONNX.

``python -m benchmarks.long_texts FOLDER --data goemotions-ekman``: FOLDER is a fine-tuned or adopted model as a run
leaves it in its store (layout ``hf``). Variants are those of ``benchmarks.quantization_methods``; what is not in
``--work`` is made there. Each length is timed in rounds, A B C A B C, each text alone in process; the first round warms
up. A length that the model would cut is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bantam.artifact import Artifact, Text
from bantam.errors import StageError
from bantam.machine import describe_machine
from bantam.run.worker import Worker
from benchmarks.bench.workloads import LENGTHS
from benchmarks.bits_per_layer import make
from benchmarks.inference_times import of_length
from optimizer.data import load_dataset

FIRST = "onnx-fp32"
"""What the others are compared with, and made from."""
VARIANTS = (
    *("onnx-int8", "onnx-static-int8", "onnx-int4", "onnx-int4-int8", "onnx-mixed-6", "onnx-higgs-4"),
    *("onnx-higgs-3-int8", "openvino-fp32", "openvino-static-int8", "openvino-int8", "openvino-int8-exact"),
    *("openvino-int4", "openvino-int4-exact", "openvino-nf4"),
)


def main() -> None:
    """Make what there is not, time, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_texts", description=__doc__)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="made from ONNX, separated by commas")
    parser.add_argument("--texts", type=int, default=8, help="of each length, in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("build/quantization"))
    asked = parser.parse_args()
    data = load_dataset(asked.data)
    make(asked.baseline, FIRST, asked.work / FIRST, data, asked.threads)
    names = [FIRST, *asked.variants.split(",")]
    for name in names[1:]:
        try:
            make(asked.work / FIRST, name, asked.work / name, data, asked.threads)
        except StageError as exc:
            sys.exit(f"{name}: {exc}\nLeave it out of --variants.")
    variants = [Artifact.load(asked.work / name) for name in names]
    tokenizer = Tokenizer.from_file(str(variants[0].folder / "tokenizer.json"))
    read = variants[0].manifest.signature.max_length
    texts = list(data.splits["test"].texts)
    texts = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))]
    chosen = {tokens: of_length(texts, tokens, tokenizer)[: asked.texts] for tokens in LENGTHS if tokens <= read}
    print(f"{describe_machine().cpu}, {asked.threads} threads, {asked.texts} texts in {asked.rounds} rounds\n")
    print(*table(variants, times(variants, chosen, asked.rounds, asked.threads)), sep="\n")


def times(
    variants: Sequence[Artifact], texts: dict[int, list[Text]], rounds: int, threads: int
) -> dict[int, NDArray[np.float64]]:
    """Milliseconds from a text to its scores, by tokens: ``[variants, rounds, texts]``."""
    found = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(variant, threads=threads, micro_batch=8)) for variant in variants]
        for tokens, chosen in texts.items():
            turns = [[worker.timed(chosen).latencies_ms for worker in workers] for _ in range(rounds + 1)]
            found[tokens] = np.array(turns[1:]).transpose(1, 0, 2)
    return found


def table(variants: Sequence[Artifact], found: dict[int, NDArray[np.float64]]) -> Iterator[str]:
    """Lines of Markdown: the median of rounds; in brackets how many times faster than the first, with its range."""
    yield f"| variant | MB | {' | '.join(f'{tokens} tokens' for tokens in found)} |"
    yield "|" + " --- |" * (2 + len(found))
    for number, variant in enumerate(variants):
        cells = [_cell(np.median(each, axis=2), number) for each in found.values()]
        yield f"| {variant.name} | {variant.size_bytes / 1e6:.1f} | {' | '.join(cells)} |"


def _cell(rounds: NDArray[np.float64], number: int) -> str:
    """Of medians ``[variants, rounds]``."""
    faster = rounds[0] / rounds[number]
    return f"{np.median(rounds[number]):.2f} ms ({np.median(faster):.2f}, {faster.min():.2f} to {faster.max():.2f})"


if __name__ == "__main__":
    main()
