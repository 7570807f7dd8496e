"""The table of docs/architectures.md: every text classifier of transformers, at toy size, through Bantam.

``python -m benchmarks.architectures [--only bert,t5]``. Each architecture has a process of its own with a time limit.
Results are kept as JSON lines, so that the command goes on where it was stopped; ``--only`` tries these ones again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.architectures.page import page
from benchmarks.architectures.processes import known, run


def architectures() -> list[str]:
    """Types of models that transformers has a text classifier for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return list(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def main() -> None:
    """Read the options, try what has no outcome yet, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    parser.add_argument("--only", default="", help="types of models, separated by commas, to be tried (again)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time, each on a core of its own")
    parser.add_argument("--seconds", type=float, default=600, help="most that one may take")
    parser.add_argument("--results", type=Path, default=Path("build/architectures.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/architectures.md"))
    asked = parser.parse_args()
    found = known(asked.results)
    only = [name for name in asked.only.split(",") if name]
    for outcome in run(
        only or [name for name in architectures() if name not in found],
        asked.results,
        jobs=asked.jobs,
        seconds=asked.seconds,
    ):
        print(
            f"{outcome.architecture:<24} {outcome.outcome:<16} {outcome.seconds:>6.1f} s  {outcome.why[:150]!r}",
            flush=True,
        )
    asked.page.write_text(page(known(asked.results), architectures()), encoding="utf-8")


if __name__ == "__main__":
    main()
