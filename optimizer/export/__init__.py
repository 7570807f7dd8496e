"""The same computation in another format: PyTorch to ONNX, ONNX to OpenVINO IR, checked for parity."""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bantam.artifact import LAYOUTS, TOKENIZER_FILES, Artifact, Compute, Manifest, Numbers, deployable_files, seal
from bantam.errors import ParityError, StageError
from bantam.files import write_text
from bantam.memory import give_back
from optimizer import logits, parity
from optimizer.config import ExportConfig
from optimizer.stage import RunContext


class Writer(Protocol):
    """Writes a parent's model into a folder in another format; returns the manifest's details."""

    def __call__(self, parent: Artifact, folder: Path, config: ExportConfig, *, fuse: bool) -> dict[str, Any]:
        """Without ``fuse``, attention is left as torch wrote it. Raises :class:`StageError` if it cannot be written."""


def _writer(format_: str) -> Writer:
    """Imported when it is used: who makes ONNX alone needs no OpenVINO."""
    if format_ == "openvino":
        from optimizer.export import openvino

        return openvino.write
    from optimizer.export import onnx

    return onnx.write


COMPUTED = {
    "fp32": Compute(),
    # OpenVINO's kernels for other shapes round otherwise.
    "bf16": Compute(activations=Numbers("bfloat", 16), batch_invariant=False),
    # Batched on a GPU too, though a text's scores may differ by the shape there: one by one it would be no gain.
    "fp16": Compute(Numbers("float", 16), Numbers("float", 16), devices=("cpu", "cuda")),
}
"""By ``config.precision``. How far a text's probabilities alone and among others or padding are apart (MiniLM): ONNX
7.5e-7, OpenVINO 3e-6, in bf16 1.6e-2."""
SEEN = 64
"""Training texts on which a model in fp16 is looked through for what overflows."""
LARGE = 3_000_000_000
"""Bytes of a model that is compared on few rows at a time."""


def run(parent: Artifact, config: ExportConfig, context: RunContext) -> Artifact:
    """Write ``parent`` in ``config.format`` and check that it still computes the same.

    A parent in layout ``hf`` becomes ONNX, or OpenVINO IR by way of ONNX; one in layout ``onnx`` becomes OpenVINO IR.
    Raises :class:`StageError` if it cannot be exported, :class:`ParityError` if the result computes something else.
    """
    _check_possible(parent, config)
    for name in TOKENIZER_FILES:
        _shipped(parent.folder / name, context.folder / name)
    answers = functools.cache(functools.partial(_answers, parent, context))
    try:
        manifest = _write(parent, config, context, answers, fuse=config.fuse_attention)
    except ParityError as exc:
        if not LAYOUTS[parent.manifest.layout].trainable or not config.fuse_attention:
            raise
        failed = str(exc).splitlines()[0]  # and not the error, which would keep the first attempt in memory
    else:
        return Artifact(context.folder, seal(context.folder, manifest))
    context.log(f"{config.name}: again without fused attention, which changed what it computes")
    manifest = _write(parent, config, context, answers, fuse=False)
    manifest.metrics["fusion_failed"] = failed
    return Artifact(context.folder, seal(context.folder, manifest))


def _shipped(source: Path, target: Path) -> None:
    """Copy a file of JSON without its indentation, which is a third of a tokenizer's bytes."""
    content = json.loads(source.read_text(encoding="utf-8"))
    write_text(target, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _answers(parent: Artifact, context: RunContext) -> list[parity.Answered]:
    return parity.answers(
        logits.of(parent, threads=context.threads),
        parent.manifest.signature,
        vocabulary=logits.vocabulary(parent.folder),
        rows=parity.FEW if parent.size_bytes > LARGE else parity.LARGEST,
    )


def _write(
    parent: Artifact,
    config: ExportConfig,
    context: RunContext,
    answers: Callable[[], list[parity.Answered]],
    *,
    fuse: bool,
) -> Manifest:
    """Write the model and check it. Of the model being written, its source and the result, one is in memory at a time.

    Raises as :func:`run` does.
    """
    started = time.monotonic()
    details = _writer(config.format)(parent, context.folder, config, fuse=fuse)
    if config.precision == "fp16":
        details |= _halve(parent, config, context)
    give_back()
    written = time.monotonic()
    expected = answers()
    give_back()
    origin = parent.manifest
    computed = COMPUTED[config.precision]
    manifest = Manifest(
        stage=config.stage,
        key=context.key,
        layout=config.format,
        compute=replace(computed, batch_invariant=origin.compute.batch_invariant and computed.batch_invariant),
        signature=origin.signature,
        deployable=deployable_files(context.folder, config.format),
        lineage=context.lineage(config, parent),
        details=details,
        random_weights=origin.random_weights,
        licences=context.licences,
        quantization=context.quantization,
    )
    try:
        exported = logits.of(Artifact(context.folder, manifest, config.name), threads=context.threads)
    except StageError as exc:
        raise ParityError(str(exc)) from exc
    figures = parity.check(expected, exported, precision=config.precision)
    metrics = {
        "export_s": round(written - started, 1),
        "parity_s": round(time.monotonic() - written, 1),
        "parity": figures,
    }
    # What padding changes is run without: one text at a time.
    alone = manifest.compute.batch_invariant and not figures["padding_matters"]
    return replace(manifest, metrics=metrics, compute=replace(manifest.compute, batch_invariant=alone))


def _halve(parent: Artifact, config: ExportConfig, context: RunContext) -> dict[str, Any]:
    """Make the graph that was written one in fp16; what of it stays in fp32 is for the manifest."""
    from optimizer.export import half, onnx

    texts = [*context.data.splits["train"].texts]
    drawn = random.Random(0).sample(texts, min(len(texts), SEEN))  # files may be in the order of their labels
    batches = logits.encode(parent.folder, parent.manifest.signature, drawn)
    kept = half.halve(context.folder, onnx.LARGEST_FILE, batches, threads=context.threads)
    if kept:
        context.log(f"{config.name}: fp16 may overflow in {len(kept)} nodes, which stay in fp32")
    return {"fp32_nodes": kept} if kept else {}


def _check_possible(parent: Artifact, config: ExportConfig) -> None:
    if config.format not in LAYOUTS[parent.manifest.layout].exports_to or not parent.manifest.is_fp32:
        possible = [layout.format for layout in LAYOUTS.values() if config.format in layout.exports_to]
        raise StageError(
            f"Stage {config.name!r} exports to {config.format} from {parent.name!r}, which is "
            f"{parent.manifest.kind}. "
            f"Expected a parent of format {' or '.join(possible)} in fp32."
        )
