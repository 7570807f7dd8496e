"""How far a labelling is, and how long it will still take: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY_S = 30.0
"""Between two lines where there is no terminal."""
Advance = Callable[[int], None]
"""Told how many rows are done in all."""


@contextmanager
def progress(console: Console, total: int, already: int, log: Callable[[str], None]) -> Iterator[Advance]:
    """Shown while the block runs. ``already``: rows that an earlier run has done; they say nothing of the speed."""
    began = time.monotonic()

    def words(done: int) -> str:
        seconds = max(time.monotonic() - began, 1e-9)
        rate = (done - already) / seconds
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        return f"{done:,} of {total:,} rows, {rate:,.0f} a second{left}"

    if console.is_terminal:
        with Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
            task = bar.add_task(words(already), total=total, completed=already)
            yield lambda done: bar.update(task, completed=done, description=words(done))
        return
    last = began

    def line(done: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            log(words(done))

    yield line


def duration(seconds: float) -> str:
    """``42 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
