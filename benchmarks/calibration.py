"""The table of calibrations in docs/quantization.md: what static int8 costs by how its ranges are found.

``python -m benchmarks.calibration RUN --data goemotions-ekman``: RUN is the folder of a run with the stage
``onnx-fp32``. Each variant is made and scored on dev; the one of each runtime that loses least there is scored on
test. ``--memory`` measures instead the peak memory of processes that quantize with few and with many texts
(:data:`TEXTS`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bantam.artifact import Artifact
from optimizer import quantize
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset, load_dataset
from optimizer.evaluate import cross_fitted, one_hot, quality, quality_of, tune_thresholds
from optimizer.kinds import read_stage
from optimizer.quantize.numerics import ESTIMATORS
from optimizer.quantize.openvino_static import MOST_TEXTS
from optimizer.stage import RunContext
from serving.backend.engine import Engine

ONNX, OPENVINO = "onnx-static-int8", "openvino-static-int8"
ALPHA = {ONNX: 0.9, OPENVINO: 0.95}
TEXTS = {ONNX: (500, 5000), OPENVINO: (500, MOST_TEXTS)}


def variants() -> Iterator[dict[str, Any]]:
    """The keys of each variant's stage. OpenVINO, which takes several times as long, gets one change at a time."""
    yield {"method": "onnx-dynamic-int8"}
    yield {"method": "onnx-dynamic-int8", "smooth": ALPHA[ONNX]}
    for smooth in (False, ALPHA[ONNX]):
        for scheme in ("asymmetric", "symmetric"):
            for calibration in ESTIMATORS:
                keys = {"calibration": calibration, "activations": scheme, "weights": "channel", "smooth": smooth}
                yield {"method": ONNX, **keys}
    for calibration in ("min-max", "mse"):
        keys = {"calibration": calibration, "activations": "asymmetric", "weights": "tensor", "smooth": False}
        yield {"method": ONNX, **keys}
    for calibration in ("mean", "min-max", "percentile", "mse"):
        yield {"method": OPENVINO, "calibration": calibration}
    no = {"smooth": False}
    for change in ({"activations": "symmetric"}, no, {"smooth": 0.5}, {"weights": "tensor", **no}):
        yield {"method": OPENVINO, **change}


def make(run: Path, keys: dict[str, Any], folder: Path, data: Dataset) -> Artifact:
    """The variant in ``folder``, made if it is not there."""
    if not (folder / "manifest.json").exists():
        for path in (folder, scratch := folder.with_name(f"{folder.name}-scratch")):
            path.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint("benchmark", run, "benchmark", "local", "", "")
        context = RunContext(folder, scratch, "0" * 64, data, checkpoint, scratch)
        stage = read_stage({"stage": "quantize", "name": "variant", **keys})
        quantize.run(Artifact.load((run / "onnx-fp32").resolve()), stage, context)
    return Artifact.load(folder)


def scores(folder: Path, data: Dataset, split: str, work: Path) -> np.ndarray:
    """Probabilities ``[rows, labels]``, each text alone; two at a time. Kept in ``work``."""
    path = work / f"{folder.name}-{split}.npy"
    if not path.exists():
        engine = Engine(folder, threads=2)
        with ThreadPoolExecutor(2) as pool:
            answers = pool.map(lambda text: engine.probabilities([text]), data.splits[split].texts)
            np.save(path, np.concatenate([*answers]))
    return np.asarray(np.load(path))


def on_dev(folder: Path, data: Dataset, work: Path) -> float:
    """Macro-F1 with thresholds from one half of the rows for the other."""
    found, targets = scores(folder, data, "dev", work), data.splits["dev"].targets
    return quality_of(found, cross_fitted(found, targets), one_hot(targets, len(data.labels)))["macro_f1"]


def on_test(folder: Path, data: Dataset, work: Path) -> float:
    """Macro-F1 with thresholds from dev."""
    thresholds = tune_thresholds(scores(folder, data, "dev", work), data.splits["dev"].targets)
    return quality(scores(folder, data, "test", work), data.splits["test"].targets, thresholds)["macro_f1"]


def losses(asked: argparse.Namespace, data: Dataset) -> list[dict[str, Any]]:
    """A row a variant: its keys, how far its logits are off, and the points lost on dev."""
    path = asked.work / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    before = on_dev((asked.run / "onnx-fp32").resolve(), data, asked.work)
    for keys in variants():
        if any(row["keys"] == keys for row in rows):
            continue
        made = make(asked.run, keys, asked.work / "-".join(map(str, keys.values())), data)
        figures = made.manifest.metrics["logits"]
        lost = 100 * (before - on_dev(made.folder, data, asked.work))
        off = 100 * figures["mean_difference"] / figures["reference_std"]
        rows.append({"keys": keys, "folder": str(made.folder), "off": off, "lost": lost})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(described(rows[-1]), flush=True)
    return rows


def described(row: dict[str, Any]) -> str:
    """A line of Markdown."""
    keys = row["keys"]
    method = keys["method"].removesuffix("-int8")
    told = [keys.get(key, "") for key in ("calibration", "activations", "weights", "smooth")]
    return f"| {method} | {' | '.join(map(str, told))} | {row['off']:.2f}% | {row['lost']:+.2f} |"


def peak(method: str, texts: int, asked: argparse.Namespace) -> float:
    """MB, the peak of a process of its own that makes a variant calibrated with so many texts."""
    command = [sys.executable, "-m", "benchmarks.calibration", str(asked.run), "--data", asked.data]
    work = asked.work / f"memory-{method}-{texts}"
    told = subprocess.run(
        [*command, "--peak", method, str(texts), "--work", str(work)], check=True, capture_output=True
    )
    return float(told.stdout.split()[-1])


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--work", type=Path, default=Path("build/calibration"))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "TEXTS"), help="make one variant, print its peak in MB")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    data = load_dataset(asked.data)
    if asked.peak:
        method, texts = asked.peak
        keys: dict[str, Any] = {"method": method, "calibration": "mse", "smooth": ALPHA[method]}
        make(asked.run, {**keys, "calibration_rows": int(texts)}, asked.work, data)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
        return
    if asked.memory:
        for method in (ONNX, OPENVINO):
            few, many = (peak(method, texts, asked) for texts in TEXTS[method])
            told = " and ".join(map(str, TEXTS[method]))
            print(f"{method}: {few:.0f} and {many:.0f} MB with {told} texts, {many / few:.2f} times")
        return
    rows = losses(asked, data)
    before = on_test((asked.run / "onnx-fp32").resolve(), data, asked.work)
    for method in (ONNX, OPENVINO):
        best = min((row for row in rows if row["keys"]["method"] == method), key=lambda row: float(row["lost"]))
        lost = 100 * (before - on_test(Path(best["folder"]), data, asked.work))
        print(f"{described(best)} on test: {lost:+.2f} of {100 * before:.2f}")


if __name__ == "__main__":
    main()
