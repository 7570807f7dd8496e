"""One architecture through Bantam: rehearsal, fine-tuning, ONNX, OpenVINO, int8 of both, and the same texts in both."""

from __future__ import annotations

import time
from pathlib import Path

from bantam.errors import BantamError
from bantam.report.schema import BASELINE
from bantam.run import builder, evaluator, text_parity
from bantam.run.prepare import prepare
from bantam.run.rehearse import rehearse
from bantam.run.request import OptimizeRequest
from benchmarks.architectures import tiny, toy
from benchmarks.architectures.outcome import VARIANTS, Outcome

TRAINED = """
description = "What any classifier can be made into."
max_drop_points = 5.0

[[stages]]
stage = "finetune"
name = "baseline"
epochs = 10
patience = 5
evaluations_per_epoch = 1
batch_size = 16
learning_rate = 3e-3
dropout = 0.0
freeze_embeddings = false
precision = "fp32"
"""
OPENVINO_FP32 = """
[[stages]]
stage = "export"
name = "openvino-fp32"
parent = "onnx-fp32"
format = "openvino"
"""
RECIPE = TRAINED + toy.ONNX_FP32 + toy.ONNX_INT8 + OPENVINO_FP32 + toy.OPENVINO_INT8
ROWS = 400
"""Of the data set: 240 to train on, 40 for dev, 120 for test."""


def attempt(model_type: str, folder: Path, rows: int = ROWS) -> Outcome:
    """Take this architecture through Bantam in ``folder``, an empty one; whatever happens is in the outcome."""
    outcome = Outcome(model_type)
    try:
        checkpoint = tiny.write_checkpoint(folder / model_type, model_type)
    except Exception as exc:  # noqa: BLE001 transformers' models check their sizes in ways of their own
        outcome.why = f"{type(exc).__name__}: {exc}"
        return outcome
    started = time.monotonic()
    try:
        _through(checkpoint, tiny.write_data(folder / "moods.csv", rows), outcome)
    except BantamError as exc:
        outcome.outcome, outcome.why = "failed" if outcome.outcome == "training" else "refused", str(exc)
    except Exception as exc:  # noqa: BLE001 a defect of Bantam is what this looks for
        outcome.outcome, outcome.why = "defect", f"{type(exc).__name__}: {exc}"
    outcome.seconds = round(time.monotonic() - started, 1)
    if outcome.outcome == "refused":
        outcome.refused_s = outcome.seconds
    return outcome


def _through(checkpoint: Path, data: Path, outcome: Outcome) -> None:
    folder = data.parent
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    request = OptimizeRequest(
        *(str(checkpoint), str(data), str(recipe)), name="it", build=folder / "build", repository=folder / "repository"
    )
    run = prepare(request, _silent)
    with builder.locked(run.folder):
        outcome.foretold = sorted(rehearse(run, _silent))
        outcome.outcome = "training"
        built = builder.run(run.recipe, run.data, run.checkpoints, run.folder, log=_silent)
        outcome.macro_f1 = built.artifacts[BASELINE].manifest.metrics["dev"]["macro_f1"]
        outcome.failed = {name: str(exc) for name, exc in built.failed.items()}
        context = evaluator.context(run, _silent)
        outcome.text_difference = text_parity.check(built.artifacts[BASELINE], built.artifacts[VARIANTS[0]], context)
    outcome.outcome = "passed in part" if outcome.failed else "passed"


def _silent(line: str) -> None:
    """What happens on the way is in the outcome."""
