"""The page that shows all outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from benchmarks.architectures.outcome import VARIANTS, Outcome

LIBRARIES = ("transformers", "torch", "onnxruntime", "openvino", "nncf")
SHOWN = 220
"""Characters of a message."""
KINDS = {
    "passed": "all of it works",
    "passed in part": "single variants could not be made, and are rows 'failed' of the report",
    "refused": "Bantam says so before training",
    "failed": "Bantam says so, but after training has begun",
    "not done": "not done within the time",
    "defect": "an exception that Bantam does not know",
    "not built": "transformers cannot build it so small, or not here",
}
MADE = """\
Each of the {types} types that transformers {transformers} has a text classifier for, built with 2 layers, width 32,
random weights and a small tokenizer.json, and taken through Bantam: the rehearsal; fine-tuning on 240 made-up texts of
three moods; ONNX with its parity check; dynamic int8; OpenVINO with its parity check; static int8 by NNCF; odd texts
through tokenizer and model, in transformers and as served."""
READ = """\
macro-F1 is that of the fine-tuned model on dev (0.33 is chance); seconds are from the start of the run to its end on
one core of a shared machine; of a refusal, to its message. A real checkpoint of a type that passes can still fail: with
its sizes, its settings, or its tokenizer, which some types have in Python only."""
HEADER = ("type", "outcome", "macro-F1", *VARIANTS, "texts differ by", "seconds", "why")


def page(outcomes: Mapping[str, Outcome], names: Sequence[str]) -> str:
    """The whole page in Markdown; ``names`` are all there are, those without an outcome are named at the end."""
    there = [outcomes[name] for name in names if name in outcomes]
    counts = Counter(outcome.outcome for outcome in there)
    ordered = sorted(there, key=lambda outcome: ([*KINDS].index(outcome.outcome), outcome.architecture))
    lacking = [name for name in names if name not in outcomes]
    return "\n".join(
        [
            "# Architectures",
            "",
            MADE.format(types=len(names), transformers=version("transformers")),
            f"Made by `python -m benchmarks.architectures` on {datetime.now(UTC):%Y-%m-%d} with "
            + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
            + ".",
            "",
            *(f"- {kind}: {counts[kind]} ({what})" for kind, what in KINDS.items() if counts[kind]),
            "",
            READ,
            "",
            *("| " + " | ".join(row) + " |" for row in (HEADER, ["---"] * len(HEADER), *map(_row, ordered))),
            "",
            *([f"Not run: {', '.join(lacking)}.", ""] if lacking else []),
        ]
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    reached = outcome.outcome.startswith("passed")
    variants = [("no" if name in outcome.failed else "yes") if reached else "" for name in VARIANTS]
    why = [outcome.why, *(f"{name}: {text}" for name, text in outcome.failed.items())]
    return (
        outcome.architecture,
        outcome.outcome,
        "" if outcome.macro_f1 is None else f"{outcome.macro_f1:.2f}",
        *variants,
        "" if outcome.text_difference is None else f"{outcome.text_difference:.0e}",
        f"{outcome.seconds:.0f}",
        _in_a_cell("; ".join(filter(None, why))),
    )


def _in_a_cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 3] + "..."
