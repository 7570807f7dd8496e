"""A report of made-up figures, and one of a whole study made from it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from bantam.report.schema import Report

EXAMPLE = Path(__file__).resolve().parents[1] / "fixtures" / "example-report.json"


def changed(report: Report, **changes: Any) -> Report:
    """A validated copy with other top-level fields."""
    return Report.model_validate({**report.model_dump(), **changes})


def licensed(report: Report) -> Report:
    """A report of a model whose weights were quantized once, with a teacher whose licence counts for its students."""
    source = {**(report.model_source.model_dump() if report.model_source else {}), "quantization": "Q4_K_M"}
    terms = {"title": "Gemma Terms of Use", "url": "https://example.org/terms", "outputs": True}
    teacher = {"name": "gemma", "model": "gemma3-270m", **terms}
    return changed(report, model_source=source, licences=[{"name": "Apache-2.0", "model": "minilm"}, teacher])


def study(report: Report) -> Report:
    """A report of many variants: six models, each in two formats, the later the faster."""
    first = report.variant("onnx-fp32").model_dump()
    made = []
    for model, precision in itertools.product(range(6), ("fp32", "int8")):
        stages = [
            {"name": f"model-{model}", "stage": "distill"},
            {"name": f"model-{model}-onnx", "stage": "export"},
        ]
        p50 = (1.7 if precision == "fp32" else 1.1) - 0.1 * model
        timed = {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50}
        made.append(
            first
            | {"name": f"model-{model}-onnx-{precision}", "precision": precision, "stages": stages}
            | {"in_process": timed, "served": {"protocol": "grpc", **timed}}
        )
    variants = [*(variant.model_dump() for variant in report.variants), *made]
    return changed(report, variants=variants)
