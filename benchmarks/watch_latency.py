"""What watching and counting cost one client: this checkout beside an older one, in interleaved rounds.

``git worktree add ../before COMMIT`` (with links to both environments), then
``python -m benchmarks.watch_latency build/RUN/onnx-int8 --before ../before`` publishes the variant with the code of
each checkout, starts ``bantam serve`` of each, and has one client ask one and then the other, round after round; who is
not asked is stopped meanwhile. It prints p50, p95 and p99, and the intervals of the ratios of the p50s and of the p99s.
Exit code 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bantam.client.classifier import Classifier
from bantam.run.latency import draw_texts
from benchmarks.serving_process import HERE, PORTS, WATCH_PORT, Serving, bantam_serve
from optimizer.data import load_dataset

BAR = 1.05
MODEL = "model"
PUBLISH = """
import sys
from pathlib import Path
from bantam.artifact import Artifact
from serving.repository import publish
publish(Artifact.load(Path(sys.argv[1])), Path(sys.argv[2]), "model", thresholds=None)
"""


def published(variant: Path, root: Path, checkout: Path) -> Path:
    """The variant in a new repository, with the backend of a checkout."""
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(
        [sys.executable, "-c", PUBLISH, str(variant.resolve()), str(root)], env=environment, cwd=checkout, check=True
    )
    return root


def latencies_ms(client: Classifier, texts: Sequence[str]) -> list[float]:
    """Milliseconds of each text, one after the other."""
    result = []
    for text in texts:
        start = time.perf_counter()
        client.probabilities([text])
        result.append(1e3 * (time.perf_counter() - start))
    return result


def rounds(asked: dict[str, tuple[Serving, Classifier]], texts: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """Latencies by name, ``[rounds, texts]``; each is asked in turn, in an order that is turned around each time."""
    found: dict[str, list[list[float]]] = {name: [] for name in asked}
    for running, _ in asked.values():
        running.send(signal.SIGSTOP)
    for number in range(count + 1):
        for name in list(asked)[:: 1 if number % 2 else -1]:
            running, client = asked[name]
            running.send(signal.SIGCONT)
            latencies_ms(client, texts[:20])  # caches, and a connection that was asleep
            found[name].append(latencies_ms(client, texts))
            running.send(signal.SIGSTOP)
    for running, _ in asked.values():
        running.send(signal.SIGCONT)
    return {name: np.array(each[1:]) for name, each in found.items()}  # the first round warms up


def interval(ours: np.ndarray, theirs: np.ndarray, percent: float, draws: int = 2000) -> tuple[float, float]:
    """95% interval of the ratio of the percentiles, over rounds drawn with replacement."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(draws):
        chosen = rng.integers(0, len(ours), len(ours))
        ratios.append(np.percentile(ours[chosen], percent) / np.percentile(theirs[chosen], percent))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--isolated", action="store_true")
    options = parser.parse_args()
    texts = draw_texts(load_dataset(options.data).splits["test"].single, options.texts)
    arguments = ["--isolated"] if options.isolated else []
    before = options.before.resolve()
    # An older `bantam serve` knows no watch.
    older_ports = [*PORTS, *(WATCH_PORT if (before / "serving" / "watch.py").exists() else ())]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        asked = {}
        for name, checkout, ports in (("before", before, older_ports), ("now", HERE, [*PORTS, *WATCH_PORT])):
            root = published(options.variant, Path(folder, name), checkout)
            running = stack.enter_context(bantam_serve(root, arguments, checkout=checkout, ports=ports))
            asked[name] = running, stack.enter_context(Classifier(running.grpc, MODEL))
        found = rounds(asked, texts, options.rounds)
    table = Table(
        "", "p50 ms", "p95 ms", "p99 ms", title=f"{options.variant.name}, one client, {options.rounds} rounds"
    )
    for name, each in found.items():
        table.add_row(name, *(f"{value:.3f}" for value in np.percentile(each, [50, 95, 99])))
    Console().print(table)
    kept = True
    for percent in (50, 99):
        ratio = float(np.percentile(found["now"], percent) / np.percentile(found["before"], percent))
        low, high = interval(found["now"], found["before"], percent)
        kept = kept and ratio <= BAR
        print(
            f"p{percent} now / before: {ratio:.3f} ({low:.3f} to {high:.3f}); "
            f"bar {BAR:g}: {'kept' if ratio <= BAR else 'MISSED'}."
        )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
