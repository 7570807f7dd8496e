"""The same computation in another format: PyTorch to ONNX, ONNX to OpenVINO IR, checked for parity."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer import logits, parity
from optimizer.artifact import Artifact, Manifest, seal
from optimizer.errors import StageError
from optimizer.export import onnx, openvino
from optimizer.recipe import ExportConfig
from optimizer.stage import RunContext

FORMATS: dict[str, Callable[[Artifact, Path, ExportConfig], dict[str, Any]]] = {
    "onnx": onnx.write,
    "openvino": openvino.write,
}
"""Format -> what writes it: from a parent into a folder; returns the manifest's details."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
MODEL = {"onnx": ("model.onnx", "model.onnx.data"), "openvino": ("model.xml", "model.bin")}


def run(parent: Artifact, config: ExportConfig, context: RunContext) -> Artifact:
    """Write ``parent`` in ``config.format`` and check that it still computes the same.

    A parent of format ``pytorch`` becomes ONNX, or OpenVINO IR by way of ONNX; one of format ``onnx`` becomes OpenVINO IR.
    Raises :class:`StageError` if it cannot be exported, :class:`ParityError` if the result computes something else.
    """
    started = time.monotonic()
    _check_possible(parent, config)
    details = FORMATS[config.format](parent, context.folder, config)
    for name in TOKENIZER:
        shutil.copyfile(parent.folder / name, context.folder / name)
    written = time.monotonic()
    origin = parent.manifest
    manifest = Manifest(
        name=config.name,
        stage=config.stage,
        key=context.key,
        format=config.format,
        precision=config.precision,
        signature=origin.signature,
        ships=(*(name for name in MODEL[config.format] if (context.folder / name).exists()), *TOKENIZER),
        lineage=(
            *origin.lineage,
            {"name": config.name, "stage": config.stage, "key": context.key, "config": config.model_dump(mode="json")},
        ),
        details=details,
        random_weights=origin.random_weights,
    )
    figures = parity.check(
        logits.of(parent.folder, origin, threads=context.threads),
        logits.of(context.folder, manifest, threads=context.threads),
        origin.signature,
        vocabulary=_vocabulary(parent.folder),
        precision=config.precision,
    )
    seconds = {"export_s": round(written - started, 1), "parity_s": round(time.monotonic() - written, 1)}
    manifest = Manifest(**{**manifest.__dict__, "metrics": {"parity": {"against": origin.name, **figures}, **seconds}})
    return Artifact(context.folder, seal(context.folder, manifest))


def _check_possible(parent: Artifact, config: ExportConfig) -> None:
    possible = {"onnx": ("pytorch",), "openvino": ("pytorch", "onnx")}[config.format]
    if parent.manifest.format not in possible or parent.manifest.precision != "fp32":
        raise StageError(
            f"Stage {config.name!r} exports to {config.format} from {parent.manifest.name!r}, which is "
            f"{parent.manifest.format} {parent.manifest.precision}. Expected a parent of format {' or '.join(possible)} in fp32."
        )
    if config.format == "onnx" and config.precision != "fp32":
        raise StageError(
            f"Stage {config.name!r} asks for ONNX in {config.precision}, expected fp32: ONNX Runtime's CPU kernels compute in "
            'fp32. Leave precision out, or use format = "openvino".'
        )


def _vocabulary(folder: Path) -> int:
    """Number of tokens that the tokenizer knows; their ids are 0 to this minus one."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size())
