"""Which variants lead, which are on the front, and which are one model."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bantam.report.file import read_report
from bantam.report.ranking import leading, model_of, on_front, pareto_front, waiting_ms
from bantam.report.schema import Report, Variant
from tests.plugins.reports import EXAMPLE


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


def timed(name: str, p50: float | None, f1: float | None = None, **fields: Any) -> Variant:
    inside = None if p50 is None else {"p50_ms": p50, "p95_ms": p50, "p99_ms": p50}
    quality = None if f1 is None else {"split": "test", "rows": 1, "macro_f1": f1}
    return Variant.model_validate(
        {"name": name, "format": "onnx", "precision": "fp32", "in_process": inside, "quality": quality, **fields}
    )


def of(report: Report, *variants: Variant, chosen: str) -> Report:
    return Report.model_validate({**report.model_dump(), "variants": variants, "chosen": chosen})


def test_leading_are_the_baseline_the_chosen_and_the_fastest_in_the_reports_order(report: Report) -> None:
    found = of(
        report,
        timed("slow", 9.0),
        timed("chosen", 5.0),
        timed("untimed", None),
        timed("fast", 1.0),
        timed("baseline", 20.0),
        timed("middle", 3.0),
        chosen="chosen",
    )

    def names(most: int) -> list[str]:
        return [variant.name for variant in leading(found, most)]

    assert names(3) == ["baseline", "chosen", "fast"]
    assert names(4) == ["baseline", "chosen", "fast", "middle"]
    assert names(1) == ["baseline", "chosen"], "these two are never left out"
    assert names(99) == [variant.name for variant in found.ordered]


def test_what_a_user_waits_is_the_served_time(report: Report) -> None:
    chosen = report.variant(report.chosen)
    assert chosen.served is not None
    assert waiting_ms(chosen) == chosen.served.p50_ms
    assert waiting_ms(timed("inside", 2.0)) == 2.0
    assert waiting_ms(timed("untimed", None)) is None


def test_pareto_front() -> None:
    assert pareto_front([(3, 0.6), (1, 0.5), (2, 0.4), (4, 0.6), (1, 0.45)]) == [(1, 0.5), (3, 0.6)]
    assert pareto_front([]) == []


def test_nothing_beats_what_is_on_the_front_and_something_beats_all_else() -> None:
    rng = random.Random(0)
    points = {f"v{n}": (rng.choice(range(1, 30)), rng.choice(range(30)) / 30) for n in range(60)}
    front = on_front([timed(name, latency, f1) for name, (latency, f1) in points.items()])
    for name, (latency, f1) in points.items():
        beaten = any(x <= latency and y >= f1 and (x, y) != (latency, f1) for x, y in points.values())
        assert (name in front) != beaten
    assert on_front([timed("untimed", None, 0.9), timed("unscored", 1.0)]) == set()


def test_exported_and_quantized_are_one_model() -> None:
    steps = [{"name": name, "stage": stage} for name, stage in (("fine", "finetune"), ("cut", "prune"))]
    engine = [{"name": "onnx", "stage": "export"}, {"name": "int8", "stage": "quantize"}]
    assert model_of(timed("int8", 1.0, stages=[*steps, *engine])) == "cut"
    assert model_of(timed("fine", 1.0, stages=steps[:1])) == "fine"
    assert model_of(timed("alone", 1.0)) == "alone"
