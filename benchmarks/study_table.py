"""The tables of docs/study.md and docs/decoders.md: ``python -m benchmarks.study_table build/<run>/report.json``."""

from __future__ import annotations

import sys
from pathlib import Path

from bantam.report.file import read_report
from bantam.report.schema import BASELINE, Report, Variant, gain

HEADER = (
    "variant",
    "macro-F1 on dev",
    "drop in points (95% interval)",
    "in process p50 / p95 / p99",
    "speed-up",
    "served p50 / p95 / p99",
    "peak memory MB",
    "size MB",
    "smaller",
    "training min",
)


def table(report: Report) -> str:
    """Markdown: a row for each variant, in the recipe's order; latencies in ms, training in minutes."""
    by_name = {variant.name: variant for variant in report.variants}
    rows = [_row(variant, by_name[BASELINE]) for variant in report.variants]
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *rows))


def _row(variant: Variant, baseline: Variant) -> list[str]:
    quality, inside, served = variant.on_dev, variant.in_process, variant.served
    drop = ""
    if quality and quality.drop_points is not None and quality.drop_ci95:
        low, high = quality.drop_ci95
        drop = f"{quality.drop_points:.2f} ({low:.2f} to {high:.2f})"
    speedup = gain(baseline.in_process.p50_ms, inside.p50_ms) if inside and baseline.in_process else None
    smaller = gain(baseline.size_mb, variant.size_mb)
    return [
        variant.name,
        f"{quality.macro_f1:.3f}" if quality and quality.macro_f1 is not None else "",
        drop,
        f"{inside.p50_ms:.3g} / {inside.p95_ms:.3g} / {inside.p99_ms:.3g}" if inside else "",
        f"{speedup:.1f}x" if speedup else "",
        f"{served.p50_ms:.3g} / {served.p95_ms:.3g} / {served.p99_ms:.3g}" if served else "",
        f"{variant.peak_rss_mb:,.0f}" if variant.peak_rss_mb else "",
        f"{variant.size_mb:.1f}" if variant.size_mb else "",
        f"{smaller:.1f}x" if smaller else "",
        f"{variant.train_s / 60:.0f}" if variant.train_s else "",
    ]


if __name__ == "__main__":
    print(table(read_report(Path(sys.argv[1]))))
