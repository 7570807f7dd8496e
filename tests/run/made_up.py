"""A run whose scores, answers and times are made up: what the choice and the report do with them is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, Compute, Manifest, Numbers, Signature
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored
from bantam.run.state import Run
from bantam.run.timing import Compared, Timing
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset, Split
from optimizer.evaluate import tune_thresholds
from optimizer.recipe import load_recipe
from serving.version_folder import Identity

LABELS = ("a", "b", "c")
ROWS = 600
"""Of dev and of test, unless told otherwise."""
RECIPE = """
description = "made up"
max_drop_points = 2.0
metric = "{metric}"
[[stages]]
stage = "finetune"
name = "baseline"
[[stages]]
stage = "export"
name = "fp32"
parent = "baseline"
format = "onnx"
[[stages]]
stage = "quantize"
name = "int8"
parent = "fp32"
method = "onnx-dynamic-int8"
"""
INT8 = Compute(
    weights=Numbers("int", 8, "symmetric", "channel"), activations=Numbers("int", 8, "asymmetric", "tensor", True)
)
MS = {"baseline": 10.0, "fp32": 4.0, "int8": 2.0}
TEXTS = np.random.default_rng(0).uniform(0.8, 1.2, (2, 20))


def timing(name: str, p50_ms: float | None = None) -> Timing:
    """Times around ``p50_ms``, without noise; of the baseline in process only."""
    anchor, own = TEXTS * MS["baseline"], TEXTS * (p50_ms or MS[name])
    found = Compared(own, anchor, 0, float(np.median(anchor)))
    return Timing(found, None if name == "baseline" else found, peak_rss_mb=100.0)


def targets(rows: int, seed: int) -> NDArray[np.uint8]:
    """Labels, of which each row has some."""
    return (np.random.default_rng(seed).random((rows, len(LABELS))) < 0.4).astype(np.uint8)


def scores(wanted: NDArray[np.uint8], wrong: float, seed: int) -> NDArray[np.float32]:
    """Probabilities that are right but for a share ``wrong`` of them."""
    flipped = np.random.default_rng(seed).random(wanted.shape) < wrong
    return np.where(wanted.astype(bool) ^ flipped, 0.9, 0.1).astype(np.float32)


def artifact(folder: Path, name: str, layout: str, compute: Compute, *steps: tuple[str, str]) -> Artifact:
    """One whose lineage is ``steps`` of name and stage, the last one itself."""
    lineage = tuple({"stage": stage, "key": f"key of {step}"} for step, stage in steps)
    manifest = Manifest(
        stage=steps[-1][1],
        key=f"key of {name}",
        layout=layout,
        compute=compute,
        signature=Signature("multi_label", LABELS, ("input_ids",), 64),
        files={"model": {"sha256": f"hash of {name}", "bytes": 4_000_000}},
        deployable=("model",),
        lineage=lineage,
        details={"parameters": 1000},
    )
    return Artifact(folder / name, manifest, name)


def make_run(
    tmp_path: Path,
    *,
    dev: tuple[float, float] = (0.0, 0.0),
    test: tuple[float, float] = (0.0, 0.0),
    rows: int = ROWS,
    metric: str = "macro-f1",
    off: float = 0.0,
    random_weights: bool = False,
) -> Run:
    """Scored on dev and served: ``dev`` and ``test`` are the shares of wrong labels of the baseline and of int8.

    ``off``: by how much the server's answers for int8 differ from its scores.
    """
    (tmp_path / "made-up.toml").write_text(RECIPE.format(metric=metric), encoding="utf-8")
    request = OptimizeRequest(repository=tmp_path / "repo", build=tmp_path, name="it")
    wanted = {"train": targets(10, 1), "dev": targets(rows, 2), "test": targets(rows, 3)}
    splits = {
        split: Split(tuple(f"{split} {'word ' * (i % 30)}" for i in range(len(rights))), rights)
        for split, rights in wanted.items()
    }
    data = Dataset("made-up", "multi_label", LABELS, MappingProxyType(splits), "0" * 64, "none", "none", ())
    checkpoint = Checkpoint("it", tmp_path, "nowhere", "local", "none", "0" * 64, random_weights=random_weights)
    recipe, identity = load_recipe(str(tmp_path / "made-up.toml")), Identity("it", "1", "made-up", "2")
    run = Run(request, recipe, data, checkpoint, {None: checkpoint}, tmp_path, "it", identity, peak_rss_mb=100.0)
    base, export, quantize = ("baseline", "finetune"), ("fp32", "export"), ("int8", "quantize")
    run.artifacts = {
        "baseline": artifact(tmp_path, "baseline", "hf", Compute(), base),
        "fp32": artifact(tmp_path, "fp32", "onnx", Compute(), base, export),
        "int8": artifact(tmp_path, "int8", "onnx", INT8, base, export, quantize),
    }
    for name, made in run.artifacts.items():
        which = name == "int8"
        found = {s: scores(wanted[s], share[which], 7) for s, share in (("dev", dev), ("test", test))}
        run.scored[name] = Scored(made, found["dev"], tune_thresholds(found["dev"], wanted["dev"]), found["test"])
        run.measured[name] = timing(name)
        if name != "baseline":
            run.answers[name, "dev"] = found["dev"] + np.float32(off if which else 0)
    return run


def with_data(run: Run, **changes: Any) -> Run:
    """The same run on other data, whose metric nobody has chosen."""
    run.data = replace(run.data, **changes)
    run.recipe = run.recipe.model_copy(update={"metric": None})
    return run


def unlabelled(tmp_path: Path, dev: tuple[float, float] = (0.1, 0.0)) -> Run:
    """The baseline is wrong on a tenth of what nobody knows, and int8 decides ``dev[1]`` of it otherwise."""
    run = make_run(tmp_path, dev=dev, test=dev, rows=ROWS)
    splits = {name: replace(split, targets=np.zeros_like(split.targets)) for name, split in run.data.splits.items()}
    run.thresholds = (0.5,) * len(LABELS)
    run.scored = {name: replace(scored, thresholds=run.thresholds) for name, scored in run.scored.items()}
    return with_data(run, labelled=False, splits=MappingProxyType(splits))


def regression(tmp_path: Path, noise: float, *, labelled: bool = True) -> Run:
    """Numbers from 1 to 5, which the baseline meets but for noise, and int8 but for more of it."""
    run = make_run(tmp_path, rows=ROWS)
    rng = np.random.default_rng(5)
    splits = {}
    for name, split in run.data.splits.items():
        wanted = rng.uniform(1, 5, len(split.texts)).astype(np.float32)
        splits[name] = replace(split, targets=wanted if labelled else np.full_like(wanted, np.nan))
        base = wanted + rng.normal(0, 0.3, len(wanted)).astype(np.float32)
        worse = base + rng.normal(0, noise, len(wanted)).astype(np.float32)
        for variant, scored in run.scored.items():
            said = (worse if variant == "int8" else base)[:, None]
            dev, test = (said if name == split else scored.on(split) for split in ("dev", "test"))
            run.scored[variant] = replace(scored, thresholds=None, dev=dev, test=test)
            if name == "dev" and variant != "baseline":
                run.answers[variant, "dev"] = said
    return with_data(
        run, task="regression", labels=("relatedness",), labelled=labelled, splits=MappingProxyType(splits)
    )
