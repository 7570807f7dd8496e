"""The same computation in another format: PyTorch to ONNX, ONNX to OpenVINO IR, checked for parity."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bantam.artifact import Artifact, Manifest, seal
from bantam.errors import ParityError, StageError
from optimizer import logits, parity
from optimizer.config import ExportConfig
from optimizer.export import onnx, openvino
from optimizer.stage import RunContext


class Writer(Protocol):
    """Writes a parent's model into a folder in another format; returns the manifest's details."""

    def __call__(self, parent: Artifact, folder: Path, config: ExportConfig, *, fuse: bool) -> dict[str, Any]:
        """Without ``fuse``, attention is left as torch wrote it. Raises :class:`StageError` if it cannot be written."""
        ...


FORMATS: dict[str, Writer] = {"onnx": onnx.write, "openvino": openvino.write}

FILES = {"onnx": ("model.onnx", "model.onnx.data"), "openvino": ("model.xml", "model.bin")}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def run(parent: Artifact, config: ExportConfig, context: RunContext) -> Artifact:
    """Write ``parent`` in ``config.format`` and check that it still computes the same.

    A parent of format ``pytorch`` becomes ONNX, or OpenVINO IR by way of ONNX; one of format ``onnx`` becomes OpenVINO
    IR. Raises :class:`StageError` if it cannot be exported, :class:`ParityError` if the result computes something else.
    """
    _check_possible(parent, config)
    for name in TOKENIZER:
        shutil.copyfile(parent.folder / name, context.folder / name)
    try:
        manifest = _write(parent, config, context, fuse=True)
    except ParityError as exc:
        if parent.manifest.format != "pytorch":
            raise
        context.log(f"{config.name}: again without fused attention, which changed what it computes")
        manifest = _write(parent, config, context, fuse=False)
        manifest.metrics["fusion_failed"] = str(exc).splitlines()[0]
    return Artifact(context.folder, seal(context.folder, manifest))


def _write(parent: Artifact, config: ExportConfig, context: RunContext, *, fuse: bool) -> Manifest:
    started = time.monotonic()
    details = FORMATS[config.format](parent, context.folder, config, fuse=fuse)
    written = time.monotonic()
    origin = parent.manifest
    manifest = Manifest(
        name=config.name,
        stage=config.stage,
        key=context.key,
        format=config.format,
        precision=config.precision,
        signature=origin.signature,
        deployable=(*(name for name in FILES[config.format] if (context.folder / name).exists()), *TOKENIZER),
        lineage=context.lineage(config, parent),
        details=details,
        random_weights=origin.random_weights,
    )
    try:
        exported = logits.of(context.folder, manifest, threads=context.threads)
    except StageError as exc:
        raise ParityError(str(exc)) from exc
    figures = parity.check(
        logits.of(parent.folder, origin, threads=context.threads),
        exported,
        origin.signature,
        vocabulary=logits.vocabulary(parent.folder),
        precision=config.precision,
    )
    metrics = {
        "export_s": round(written - started, 1),
        "parity_s": round(time.monotonic() - written, 1),
        "parity": {"against": origin.name, **figures},
    }
    return replace(manifest, metrics=metrics)


def _check_possible(parent: Artifact, config: ExportConfig) -> None:
    possible = {"onnx": ("pytorch",), "openvino": ("pytorch", "onnx")}[config.format]
    if parent.manifest.format not in possible or parent.manifest.precision != "fp32":
        raise StageError(
            f"Stage {config.name!r} exports to {config.format} from {parent.manifest.name!r}, which is "
            f"{parent.manifest.format} {parent.manifest.precision}. "
            f"Expected a parent of format {' or '.join(possible)} in fp32."
        )
    if config.format == "onnx" and config.precision != "fp32":
        raise StageError(
            f"Stage {config.name!r} asks for ONNX in {config.precision}. Expected fp32, in which its CPU kernels "
            'compute. Leave precision out, or use format = "openvino".'
        )
