"""Variants measured in groups, against all of them together: is memory kept, and are the figures the same?

``python -m benchmarks.latency_groups`` makes three small classifiers with random weights (6, 3 and 1 layers, in ONNX),
takes each four times, so that there are twelve variants, and times them with :func:`bantam.run.latency.measure`: three
of them; all in groups of the size that those three take; and all twelve at once. It prints the peak memory of the
measuring phase (all processes, shared pages counted once for each), and by how much the ratios to the anchor differ, as
medians of three runs. What was made is kept in ``build/latency-groups``, so that a second call only measures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bantam.artifact import Artifact
from bantam.machine import describe_machine
from bantam.memory import MemoryWatch
from bantam.run.endpoint import paused
from bantam.run.evaluator import in_processes
from bantam.run.latency import Anchors, Bench, draw_texts, measure, server_mb, worker_mb
from bantam.run.timing import Timing
from bantam.run.worker import Requester
from optimizer.data import Dataset, load_dataset
from optimizer.recipe import MeasureConfig, ServingConfig
from serving.repository import publish

FOLDER = Path("build/latency-groups")
ROWS = 64
LAYERS = (6, 3, 1)
VARIANTS = {f"onnx-{layers}-{copy}": f"onnx-{layers}" for copy in range(1, 5) for layers in LAYERS}
"""Name of a variant -> the stage that makes it."""
FEW = tuple(VARIANTS)[: len(LAYERS)]
ANCHORS = Anchors("baseline", FEW[0])
MEMORY_BAR, RATIO_BAR = 1.2, 0.1


def make() -> None:
    """Make the variants, or keep them."""
    from bantam.run import builder
    from optimizer.load import resolve
    from optimizer.recipe import Recipe

    stages = [{"stage": "finetune", "name": "baseline", "epochs": 1}]
    for layers in LAYERS:
        parent = "baseline" if layers == max(LAYERS) else f"cut-{layers}"
        if layers < max(LAYERS):
            cut = {"method": "layers", "layers": list(range(layers))}
            stages.append({"stage": "prune", "name": parent, "parent": "baseline", **cut})
        stages.append({"stage": "export", "name": f"onnx-{layers}", "parent": parent, "format": "onnx"})
    recipe = Recipe.model_validate({"name": "latency-groups", "description": "twelve small variants", "stages": stages})
    checkpoint = resolve("minilm", random_init=True)
    with builder.locked(FOLDER):
        builder.run(recipe, few_rows(), {None: checkpoint}, FOLDER, device="cpu", log=print)


def few_rows() -> Dataset:
    """A data set with so few rows that training takes no time: what the variants answer does not matter here."""
    data = load_dataset("goemotions-ekman")
    few = {part: replace(split, texts=split.texts[:ROWS], targets=split.targets[:ROWS])
           for part, split in data.splits.items()}  # fmt: skip
    return replace(data, splits=few, digest=f"{data.digest}-{ROWS}")


def artifacts(names: Iterable[str]) -> dict[str, Artifact]:
    """The anchor and variants by name."""
    stages = {ANCHORS.in_process: ANCHORS.in_process} | {name: VARIANTS[name] for name in names}
    return {name: Artifact.load(FOLDER / stage) for name, stage in stages.items()}


def timed(names: Sequence[str], texts: Sequence[str], rounds: int, limit_mb: float) -> tuple[dict[str, Timing], float]:
    """Measure variants within a limit; also the peak memory in MB while that went on."""
    variants = artifacts(names)
    repository = FOLDER / "repository"
    config = MeasureConfig(texts=len(texts), rounds=rounds, rate_seconds=0.2, memory_mb=limit_mb)
    with MemoryWatch(interval_s=0.2) as memory, Requester() as requester:
        bench = Bench(
            worker=in_processes(variants, ServingConfig(), {}),
            endpoint=lambda name: paused(repository, name, requester),
            quiet=memory.paused,
        )
        return measure(variants, ANCHORS, texts, config, bench), memory.peak_mb


def ratios(runs: Sequence[Mapping[str, Timing]]) -> dict[str, float]:
    """Phase and variant -> the median over the runs of its ratio to the anchor."""
    found = {}
    for name in VARIANTS:
        for phase in ("in_process", "served"):
            compared = [getattr(run[name], phase) for run in runs]
            found[f"{phase} {name}"] = float(np.median([each.ratio.value for each in compared]))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--make", action="store_true", help="only make the variants")
    options = parser.parse_args()
    if options.make:
        make()
        return
    # In a process of its own: the libraries that make variants would count as memory of the measuring phase.
    subprocess.run([sys.executable, "-m", "benchmarks.latency_groups", "--make"], check=True)
    known = artifacts(VARIANTS)
    for name in VARIANTS:
        publish(known[name], FOLDER / "repository", name, thresholds=None, link=True)
    texts = draw_texts(load_dataset("goemotions-ekman").splits["test"].single, options.texts)
    few = [worker_mb(known[ANCHORS.in_process]), *(f(known[n]) for n in FEW for f in (worker_mb, server_mb))]
    limit_mb = sum(few) + 1.0  # sums of floats may differ in their last digit
    peaks: dict[str, list[float]] = {"three": [], "groups": [], "together": []}
    runs: dict[str, list[dict[str, Timing]]] = {how: [] for how in peaks}
    for number in range(options.runs):
        plans = {"groups": (tuple(VARIANTS), limit_mb), "together": (tuple(VARIANTS), float("inf"))}
        if not number:  # memory is the same each time, and nothing else is looked at here
            plans = {"three": (FEW, limit_mb), **plans}
        for how, (names, limit) in plans.items():
            found, peak = timed(names, texts, options.rounds, limit)
            runs[how].append(found)
            peaks[how].append(round(peak))
            print(f"run {number + 1} of {options.runs}: {how}, peak {peak:,.0f} MB", flush=True)
    apart, together = ratios(runs["groups"]), ratios(runs["together"])
    off = {name: apart[name] / together[name] - 1 for name in apart}
    worst = max(off, key=lambda name: abs(off[name]))
    memory = float(np.median(peaks["groups"]) / np.median(peaks["three"]))
    result = {
        "limit_mb": round(limit_mb),
        "groups": 1 + max(timing.in_process.group for timing in runs["groups"][0].values() if timing.in_process),
        "peak_mb": peaks,
        "peak_of_twelve_by_three": {"found": round(memory, 3), "bar": MEMORY_BAR, "kept": memory <= MEMORY_BAR},
        "ratios": {name: [round(apart[name], 3), round(together[name], 3)] for name in apart},
        "largest_difference": {"of": worst, "found": round(off[worst], 3), "bar": RATIO_BAR,
                               "kept": abs(off[worst]) <= RATIO_BAR},
        "errors": sum(timing.failed for each in runs.values() for run in each for timing in run.values()),
        "machine": describe_machine().model_dump(exclude_none=True),
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
