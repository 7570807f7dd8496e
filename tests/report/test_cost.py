"""What a million texts cost, and the CPU against the GPU."""

from __future__ import annotations

from typing import Literal

import pytest

from bantam.report.cost import against, per_million
from bantam.report.file import read_report
from bantam.report.page import render
from bantam.report.schema import InProcess, Report, Variant
from bantam.report.text import columns
from tests.plugins.reports import EXAMPLE
from tests.report.test_text import printed


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


LATENCY = {"p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0}


def variant(name: str, device: Literal["cpu", "gpu"], rate: float, cost: float | None) -> Variant:
    timed = InProcess(**LATENCY, batch_texts_per_s=rate)
    return Variant(name=name, format="onnx", precision="fp16", device=device, in_process=timed, cost_per_million=cost)


def priced(report: Report, *variants: Variant, **prices: float) -> Report:
    base = report.model_copy(update={"variants": (*report.variants, *variants), "prices": prices or None})
    return Report.model_validate(base.model_dump(by_alias=True))


def test_a_million_texts_at_a_price_an_hour() -> None:
    assert per_million(1000, 3.6) == pytest.approx(1.0)
    assert per_million(500, 0.10) == pytest.approx(0.0556, abs=1e-4)


def test_each_machine_s_cheapest_against_the_other(report: Report) -> None:
    many = (
        variant("cpu-slow", "cpu", 100, 0.2778),
        variant("cpu-fast", "cpu", 1000, 0.02778),
        variant("gpu-fast", "gpu", 50_000, 0.005),
        variant("gpu-slow", "gpu", 5_000, 0.05),
    )
    found = priced(report, *many, cpu=0.10, gpu=0.90)
    assert against(found) == (
        "CPU against GPU, cost of a million texts, least: cpu-fast on the CPU 0.0278 (1,000 texts/s at 0.1 an hour). "
        "gpu-fast on the GPU 0.005 (50,000 texts/s at 0.9 an hour). A text costs 5.56 times as much on the CPU."
    )
    assert "CPU against GPU, cost of a million texts" in printed(found, 400)
    assert "CPU against GPU, cost of a million texts" in render(found)
    assert "Measured on the GPU: gpu-fast, gpu-slow; the others on the CPU beside it." in printed(found, 400)
    assert "ONNX fp16 on the GPU" in render(found)
    (column,) = (each for each in columns(found) if each.title == "Per million")
    assert [column.text(found, each) for each in found.variants[-4:]] == ["0.278", "0.0278", "0.005", "0.05"]


def test_of_a_cpu_alone_it_says_what_that_costs(report: Report) -> None:
    found = priced(report, variant("cpu-fast", "cpu", 1000, 0.02778), cpu=0.10)
    assert against(found) == (
        "Cost of a million texts, least: cpu-fast on the CPU 0.0278 (1,000 texts/s at 0.1 an hour)."
    )


def test_without_a_price_nothing_is_said(report: Report) -> None:
    assert against(report) is None
    assert against(priced(report, variant("cpu-fast", "cpu", 1000, None))) is None
    assert "Per million" not in [column.title for column in columns(report)]
    assert "million texts" not in render(report)
