"""The best of many variants without measuring all of them in full: cheap looks first, then successive halving.

A plain loop and no Optuna: all variants are known beforehand, so there is nothing to sample. Each is looked at on some
rows of dev, then on all of it; what holds the budgets is timed in rungs, in process, the better half of each with more
texts and rounds in the next (sequential halving, Karnin et al. 2013, algorithm 3; Jamieson and Talwalkar 2016); the
last few are served and measured like the variants of any recipe. A variant whose interval overlaps that of the best one
is never left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bantam.artifact import cache_key
from bantam.errors import BantamError, StageError
from bantam.machine import describe_machine
from bantam.memory import MemoryWatch
from bantam.report.schema import BASELINE
from bantam.run import closure, evaluator, judge
from bantam.run.choose import broken_untimed
from bantam.run.kept_times import KeptTimes, Times
from bantam.run.state import Left, Log, Run, Rung
from bantam.run.timing import Estimate, joined
from optimizer.recipe_tables import SearchConfig

TIMES = "rungs"
"""Beginning of the names of files in a run's folder with the times of a search that goes on."""


def glance(run: Run, config: SearchConfig, names: Sequence[str], log: Log) -> list[str]:
    """The variants, the baseline scored among them, without those that are hopeless on some rows of dev.

    Hopeless: even the lower end of the drop's interval, which holds for all tries, is beyond the budget. What cannot
    run here is no further looked at either.
    """
    rows = evaluator.glance_rows(run, config.glance_rows)
    hopeful = []
    for name in names:
        if name in (BASELINE, run.safe) or not run.artifacts[name].servable:
            hopeful.append(name)
            continue
        try:
            drop = judge.glance(run, rows, evaluator.glance(run, name, rows, log))
        except StageError as exc:
            run.failed[name] = str(exc)
            log(f"{name:<24} failed: {exc}")
            continue
        if drop is None or drop.low <= run.budget.points:
            hopeful.append(name)
            continue
        reason = (
            f"loses {drop.points:.2f} points on them, and at least {drop.low:.2f} (lower end of the interval, which "
            f"holds for {run.budget.tries} tries), the budget is {run.budget.points:g}"
        )
        _leave(run, name, f"{len(rows)} rows of dev", reason, log)
    return hopeful


def measure(run: Run, config: SearchConfig, memory: MemoryWatch, log: Log) -> None:
    """Time what holds the budgets on dev in rungs, and measure the last few in full, the safe choice beside them.

    Only what was measured in full can be chosen. If all of the last few answer otherwise when they are served, or take
    too long, those that were left before them are measured after all, the best first: a slower median may have a
    shorter tail. What rungs have shown to be too late is not among those.
    """
    able = [name for name in run.scored if run.artifacts[name].servable and name != run.safe]
    always = [name for name in run.scored if name not in able]
    clock = _Clock(run, KeptTimes(run.folder / TIMES), memory, log)
    finalists, others = _halved(clock, config, _within(run, able, log))
    clock.in_full([*always, *finalists])
    # Of random weights there is no safe choice: then the first one that was served is what times are compared with.
    again = always if run.safe in always else [*always, *finalists[:1]]
    while others and all(_stopped(run, name) for name in finalists):
        finalists, others = others[: config.finalists], others[config.finalists :]
        for name in finalists:
            del run.left[name]
        clock.in_full([*again, *finalists])


@contextmanager
def keeping_times(run: Run) -> Iterator[None]:
    """Times of finished rungs outlive a kill alone: at its end a run has reported them, or may have failed by them."""
    try:
        yield
    except BantamError:
        KeptTimes(run.folder / TIMES).forget()
        raise
    KeptTimes(run.folder / TIMES).forget()


def _within(run: Run, names: Sequence[str], log: Log) -> list[str]:
    """Those that hold every budget that dev and the files tell of."""
    found = []
    for name in names:
        if broken := broken_untimed(judge.candidate(run, name), run.budget):
            _leave(run, name, "dev", "; ".join(one.reason for one in broken), log)
        else:
            found.append(name)
    return found


def _halved(clock: _Clock, config: SearchConfig, names: list[str]) -> tuple[list[str], list[str]]:
    """The variants to measure in full, and the others that may still be, the best first of each."""
    run, log, others = clock.run, clock.log, list[str]()
    if run.budget.aim == "throughput" and run.budget.p99_ms is not None and len(names) > config.finalists:
        for texts, rounds in config.rungs[:1]:  # lists do not tell how long a text takes alone
            alone = clock.rung("one by one", names, texts, rounds)
            names = _in_time(run, alone, _ordered(run, alone, names), "one by one", log)
    for number, (texts, rounds) in enumerate(config.rungs, 1):
        if len(names) <= config.finalists:
            break
        # Sizes are known: time is asked for where it can be too long.
        step, timed = f"rung {number}", run.budget.aim != "size" or run.budget.p99_ms is not None
        rung = clock.rung(step, names, texts, rounds, lists=run.budget.aim == "throughput") if timed else None
        in_time = _in_time(run, rung, _ordered(run, rung, names), step, log)
        half = math.ceil(len(in_time) / 2) if number < len(config.rungs) else 0
        best, most = _cost(run, rung, in_time[0]), max(config.finalists, half)
        names = [n for i, n in enumerate(in_time) if i < most or _cost(run, rung, n).low <= best.high]
        behind = [name for name in in_time if name not in names]
        for name in behind:
            reason = f"{_figure(run, rung, name)}, {in_time[0]} {_figure(run, rung, in_time[0])}"
            _leave(run, name, step, reason, log)
        others = [*behind, *others]
    return names, others


def _ordered(run: Run, rung: Rung | None, names: Sequence[str]) -> list[str]:
    """The best first."""
    return sorted(names, key=lambda name: _cost(run, rung, name))


def _in_time(run: Run, rung: Rung | None, ordered: list[str], step: str, log: Log) -> list[str]:
    """Those that may hold their limit of time, or else the best alone; the others are left."""
    late = {name: reason for name in ordered if rung and (reason := _late(run, rung, name))}
    kept = [name for name in ordered if name not in late] or ordered[:1]
    for name in (name for name in ordered if name not in kept):
        _leave(run, name, step, late[name], log)
    return kept


def _cost(run: Run, rung: Rung | None, name: str) -> Estimate:
    """What the objective wants to be little, with its interval; figures of one rung compare."""
    if run.budget.aim == "size" or rung is None:
        return Estimate(*[run.artifacts[name].size_bytes / 1e6] * 3)
    timed = rung.timings[name].in_process
    return timed.ratio if timed else Estimate(*[math.inf] * 3)


def _figure(run: Run, rung: Rung | None, name: str) -> str:
    """The same for a reader."""
    if run.budget.aim == "size" or rung is None:
        return f"ships {run.artifacts[name].size_bytes / 1e6:.2f} MB"
    timed = rung.timings[name].in_process
    what = "a text of a list" if rung.lists else "in process"
    return f"takes {timed.p50_ms.value:.2f} ms {what}" if timed else "failed on most texts"


def _late(run: Run, rung: Rung, name: str) -> str | None:
    """Why a variant cannot hold its limit of time: it is beyond it without a server already."""
    timed, limit = rung.timings[name].in_process, run.budget.p99_ms
    if timed is None or limit is None or rung.lists or timed.p99_ms.low <= limit:
        return None
    least = timed.p99_ms.low
    return f"its p99 is at least {least:.2f} ms in process (lower end of the interval), the budget is {limit:g} ms"


def _stopped(run: Run, name: str) -> bool:
    """Whether what was measured in full cannot be chosen, whatever else can."""
    served, limit = run.measured[name].served, run.budget.p99_ms
    late = limit is not None and (served is None or served.p99_ms.high > limit)
    return late or judge.problem(run, name) is not None


def _leave(run: Run, name: str, step: str, reason: str, log: Log) -> None:
    run.left[name] = Left(step, reason)
    log(f"{name:<24} left ({step}): {reason}")


class _Clock:
    """What times the variants of a run, or knows their times from before it was killed."""

    def __init__(self, run: Run, kept: KeptTimes, memory: MemoryWatch, log: Log) -> None:
        self.run, self.log, self._kept, self._memory = run, log, kept, memory

    def rung(self, step: str, names: Sequence[str], texts: int, rounds: int, *, lists: bool = False) -> Rung:
        """The times of a rung, in process."""
        run = self.run

        def measured() -> Times:
            return Times(evaluator.time_variants(run, names, texts, rounds, self._memory, self.log, lists=lists))

        self.log(f"{step}: {len(names)} variants, {texts} texts in {rounds} rounds: {', '.join(names)}")
        found = self._times(measured, names, texts=texts, rounds=rounds, lists=lists)
        run.rungs.append(Rung(found.timings, lists))
        return run.rungs[-1]

    def in_full(self, names: Sequence[str]) -> None:
        """Serve and measure as the table measure says; what was so before keeps its times."""
        run, before = self.run, dict(self.run.measured)

        def measured() -> Times:
            evaluator.measure_variants(run, names, self._memory, self.log)
            answers = {name: run.answers[name, "dev"] for name in names if (name, "dev") in run.answers}
            return Times({name: run.measured[name] for name in names}, answers, run.isolated_because)

        found = self._times(measured, names, prices=bool(run.request.prices))
        run.measured = joined(before, found.timings)
        run.answers |= {(name, "dev"): answers for name, answers in found.answers.items()}
        run.isolated_because = found.isolated_because

    def _times(self, measured: Callable[[], Times], names: Sequence[str], **how: Any) -> Times:
        run = self.run
        key = cache_key(
            variants={name: run.artifacts[name].digest for name in (BASELINE, run.safe, *names) if name},
            data=run.data.digest,
            how=how,
            measure=run.recipe.measure.model_dump(mode="json"),
            serving=run.recipe.serving.model_dump(mode="json"),
            thresholds=run.thresholds,
            target=run.request.target,
            machine=describe_machine().model_dump(mode="json"),
            code=closure.code("bantam.run.evaluator"),
            libraries=closure.libraries("bantam.run.evaluator"),
        )
        found, age = self._kept.get_or_measure(key, measured)
        if age is not None:
            self.log(f"timed already, {age / 60:.0f} minutes ago, before this run was ended")
        return found
