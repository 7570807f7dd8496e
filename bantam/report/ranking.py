"""Which variants stand out: the fastest, those that no other one beats, and which of them are one model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from bantam.report.schema import BASELINE, Report, Variant

Cost = Literal["latency", "size"]
MADE_FOR_AN_ENGINE = ("export", "quantize")
"""Stages that write another form of a model, not another model."""


def waiting_ms(variant: Variant) -> float | None:
    """Median milliseconds that a user waits: served, or in process if it is not served; None if neither was timed."""
    timed = variant.served or variant.in_process
    return timed.p50_ms if timed else None


def leading(report: Report, most: int) -> tuple[Variant, ...]:
    """At most ``most`` variants, in the report's order: the baseline, the chosen one and the fastest others.

    The fastest, because the chosen variant is the fastest within the budget: what is slower can only have lost to it.
    """
    others = [variant for variant in report.ordered if variant.name not in (BASELINE, report.chosen)]
    others.sort(key=lambda variant: waiting_ms(variant) or float("inf"))
    names = {BASELINE, report.chosen}
    names.update(variant.name for variant in others[: max(0, most - len(names))])
    return tuple(variant for variant in report.ordered if variant.name in names)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (latency, quality) points that no other one beats in both, from the fastest to the best."""
    front: list[tuple[float, float]] = []
    for latency, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((latency, quality))
    return front


def trade_off(variant: Variant, cost: Cost = "latency") -> tuple[float, float] | None:
    """In-process p50 in milliseconds, or MB, and quality where all variants have it; None if one was not measured."""
    paid = variant.size_mb if cost == "size" else variant.in_process and variant.in_process.p50_ms
    if not paid or variant.on_dev is None or variant.on_dev.figure is None:
        return None
    return paid, variant.on_dev.figure


def on_front(variants: Sequence[Variant], cost: Cost = "latency") -> set[str]:
    """Names of the variants that no other one beats both in that cost and in quality."""
    found = {variant.name: point for variant in variants if (point := trade_off(variant, cost))}
    front = set(pareto_front(found.values()))
    return {name for name, point in found.items() if point in front}


def front(report: Report) -> list[Variant]:
    """The variants that are on either front, the best first."""
    names = on_front(report.variants) | on_front(report.variants, "size")
    found = [variant for variant in report.variants if variant.name in names]
    return sorted(found, key=lambda variant: -((variant.on_dev and variant.on_dev.figure) or 0))


def model_of(variant: Variant) -> str:
    """The model that a variant runs: the name of the last stage of its lineage that changed weights or layers."""
    made = [step.name for step in variant.stages if step.stage not in MADE_FOR_AN_ENGINE]
    return made[-1] if made else variant.name
