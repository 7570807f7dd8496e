"""What texts cost: from measured throughput, at prices an hour that the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from bantam.report.schema import Report, Variant

MACHINES: Mapping[Literal["cpu", "gpu"], str] = {"cpu": "CPU", "gpu": "GPU"}


def per_million(texts_per_s: float, price: float) -> float:
    """The cost of a million texts on a machine that does so many a second, at a price an hour."""
    return 1e6 / texts_per_s / 3600 * price


def places(report: Report) -> str | None:
    """Which variants were measured on the GPU; None if none was."""
    names = [variant.name for variant in report.ordered if variant.device == "gpu"]
    return f"Measured on the GPU: {', '.join(names)}; the others on the CPU beside it." if names else None


def against(report: Report) -> str | None:
    """'CPU against GPU': the variant of each that costs least; None if no price was given, or nothing was timed."""
    found = _cheapest(report.variants)
    if not found or not report.prices:
        return None
    said = " ".join(_said(variant, report.prices) for variant in found.values())
    if len(found) < len(MACHINES):
        return f"Cost of a million texts, least: {said}"
    costs = {device: variant.cost_per_million or 0.0 for device, variant in found.items()}
    least, most = sorted(costs, key=lambda device: costs[device])
    ratio = f"A text costs {costs[most] / costs[least]:.3g} times as much on the {MACHINES[most]}."
    return f"CPU against GPU, cost of a million texts, least: {said} {ratio}"


def _cheapest(variants: Iterable[Variant]) -> dict[Literal["cpu", "gpu"], Variant]:
    """By device, in the order of :data:`MACHINES`."""
    found: dict[Literal["cpu", "gpu"], Variant] = {}
    for device in MACHINES:
        costs = [each for each in variants if each.device == device and each.cost_per_million]
        if costs:
            found[device] = min(costs, key=lambda each: each.cost_per_million or 0.0)
    return found


def _said(variant: Variant, prices: Mapping[Literal["cpu", "gpu"], float]) -> str:
    device = variant.device or "cpu"
    timed = variant.in_process.batch_texts_per_s if variant.in_process else None
    return (
        f"{variant.name} on the {MACHINES[device]} {variant.cost_per_million:.3g} "
        f"({timed or 0:,.0f} texts/s at {prices[device]:g} an hour)."
    )
