"""What a search has found out, as records of report.json; and the recipe that makes the chosen variant again, alone."""

from __future__ import annotations

import shlex
from dataclasses import replace

import tomli_w

from bantam.files import write_text
from bantam.report.provenance import RungRecord, SearchRecord
from bantam.report.schema import BASELINE, Dropped
from bantam.run.choose import Choice
from bantam.run.state import Run, Rung
from bantam.run.timing import Timing

CHOSEN = "chosen.toml"
"""File of a run's folder: the recipe of the chosen variant alone."""


def search_record(run: Run) -> SearchRecord | None:
    """How the chosen variant was found; None for a recipe that does not search."""
    if run.recipe.search is None:
        return None
    return SearchRecord(
        variants=len(run.recipe.servable),
        confidence=1 - 0.05 / run.budget.tries,
        rungs=tuple(map(_rung_record, run.rungs)),
        again=_again(run),
    )


def _rung_record(rung: Rung) -> RungRecord:
    """With the texts and rounds that were timed: of a slow baseline, fewer texts than the recipe asks for."""
    timed = rung.timings[BASELINE].in_process
    rounds, texts = timed.own_ms.shape if timed else (0, 0)
    return RungRecord(texts=texts, rounds=rounds, variants=tuple(name for name in rung.timings if name != BASELINE))


def dropped(run: Run, choice: Choice) -> tuple[Dropped, ...]:
    """Why each other variant was dropped, and at which step of a search."""
    reasons = {name: left.reason for name, left in run.left.items()} | choice.dropped
    steps = {name: left.step for name, left in run.left.items()}
    return tuple(
        Dropped(name=name, reason=reason, step=steps.get(name))
        for name, reason in reasons.items()
        if name != choice.chosen
    )


def timing(run: Run, name: str) -> Timing:
    """What was timed of a variant: in full, else in the last rung that it was in, brought to the baseline's time."""
    baseline = run.measured[BASELINE].in_process
    for rung in reversed(run.rungs if name not in run.measured and baseline else []):
        found = rung.timings.get(name)
        if found and found.in_process and baseline and not rung.lists:
            return replace(found, in_process=replace(found.in_process, anchor_p50_ms=baseline.anchor_p50_ms))
    return run.measured.get(name, Timing(None, None))


def write_chosen(run: Run, name: str) -> None:
    """Write the recipe that makes the chosen variant, beside the baseline, and nothing else."""
    recipe = run.recipe.making([BASELINE, name])
    write_text(run.folder / CHOSEN, tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)))


def _again(run: Run) -> str:
    """What the user typed, with that recipe in place of the search's."""
    words, kept = shlex.split(run.request.command or f"bantam optimize {shlex.quote(run.request.model)}"), list[str]()
    while words:
        word = words.pop(0)
        if word == "--recipe":
            words = words[1:]
        elif not word.startswith("--recipe="):
            kept.append(word)
    return shlex.join([*kept, "--recipe", str(run.folder / CHOSEN)])
