"""How long a killed server is missed: SIGKILL under load, again and again.

``python -m benchmarks.watch_kill --repository model_repo minilm`` starts ``bantam serve``, has clients ask it without
a pause, and kills its Triton 20 times, or what ``--victim`` names: its supervisor, or an isolated model. It prints for
each time how long it took until /ready said no, until it said yes, and until a client was answered; and over all which
errors clients met, and how long the longest request took. Exit code 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bantam.client.classifier import Classifier
from bantam.errors import ClientError, UnavailableError
from benchmarks.serving_process import Serving, bantam_serve
from serving.watch import Patience

TEXTS = ("I love it", "Leave me alone, all of you! " * 4, "no", "Who would have thought that this could happen? " * 8)
TIMEOUT_S = 10.0
BARS_S = (1.0, 5.0)
"""Until /ready says no, and until clients are answered again."""
RETRYABLE = UnavailableError.__name__
"""What a client that may retry does not raise."""


@dataclass
class Load:
    """Clients that ask without a pause, each request once, and what became of it."""

    address: str
    model: str
    errors: Counter[str] = field(default_factory=Counter)
    answered_at: float = 0.0
    """When the last request was answered that was sent after ``since``."""
    since: float = 0.0
    answers: int = 0
    longest_s: float = 0.0
    stopped: bool = False

    def run(self) -> None:
        """One client."""
        with Classifier(self.address, self.model, timeout=TIMEOUT_S, retries=0) as client:
            for text in itertools.cycle(TEXTS):
                if self.stopped:
                    return
                began = time.monotonic()
                try:
                    client.probabilities([text])
                except ClientError as exc:
                    self.errors[type(exc).__name__] += 1
                    time.sleep(0.01)
                else:
                    self.answers += 1
                    if began > self.since and not self.answered_at:
                        self.answered_at = time.monotonic()
                self.longest_s = max(self.longest_s, time.monotonic() - began)


def victim_of(running: Serving, kind: str) -> psutil.Process:
    """The process to kill."""
    triton = running.triton()
    if kind == "supervisor":
        return triton.parent() or triton
    return triton.children()[0] if kind == "model" else triton


def kill_once(running: Serving, load: Load, kind: str) -> tuple[float, float, float]:
    """Seconds until /ready said no, until it said yes again, and until a client was answered."""
    killed = victim_of(running, kind)
    began = time.monotonic()
    killed.kill()
    running.until(ready=False)
    no = time.monotonic() - began
    load.answered_at, load.since = 0.0, time.monotonic()
    running.until(ready=True)
    yes = time.monotonic() - began
    while not load.answered_at:
        time.sleep(0.01)
    return no, yes, load.answered_at - began


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--victim", choices=("triton", "supervisor", "model"), default="triton")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args()
    isolated = ["--isolated"] if options.victim == "model" else []
    table = Table("", "/ready no, s", "/ready yes, s", "answered, s", title=f"SIGKILL of the {options.victim}")
    with bantam_serve(options.repository, [options.model, *isolated]) as running:
        load = Load(running.grpc, options.model)
        clients = [threading.Thread(target=load.run, daemon=True) for _ in range(options.clients)]
        for client in clients:
            client.start()
        found = []
        for number in range(options.times):
            running.until(ready=True)
            time.sleep(Patience().steady_s + 1)  # a server that stayed: the next start is not one in a row
            found.append(kill_once(running, load, options.victim))
            table.add_row(str(number + 1), *(f"{seconds:.2f}" for seconds in found[-1]))
        load.stopped = True
        for client in clients:
            client.join()
    most = [max(column) for column in zip(*found, strict=True)]
    kept = [
        most[0] <= BARS_S[0],
        most[2] <= BARS_S[1],
        load.errors.keys() <= {RETRYABLE},
        load.longest_s <= TIMEOUT_S + 1,
    ]
    table.add_row("most", *(f"{seconds:.2f}" for seconds in most))
    Console().print(table)
    said = ", ".join("kept" if each else "MISSED" for each in kept)
    print(f"{load.answers} answers; errors: {dict(load.errors)}; longest request {load.longest_s:.1f} s.")
    print(f"Bars ({BARS_S[0]:g} s, {BARS_S[1]:g} s, errors can be retried, none hangs): {said}.")
    if options.out:
        figures = {"seconds": found, "errors": load.errors, "answers": load.answers, "longest_s": load.longest_s}
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
