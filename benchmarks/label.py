"""How fast ``bantam label`` is beside the engine alone, and whether its memory stays where it is::

    python -m benchmarks.label --model minilm --rows 100000

The texts are the bundled GoEmotions', again and again. The engine alone is timed twice: as one engine on all cores, and
as the same workers that ``bantam label`` has, with the texts in memory and nothing written. All take turns, a share of
the rows each, so that a slower hour of the machine falls on all of them; the start of engines and workers counts. The
bar: at least 95% of the faster one.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bantam.artifact import Text
from bantam.label.model import LabelModel, find_model
from bantam.label.pool import local_pool
from bantam.label.run import LIST_TEXTS
from optimizer.data.bundled import load_bundled
from serving.backend.engine import Engine

BAR = 0.95
SAMPLE_S = 0.5


def main() -> int:
    """Exit code 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--repository", default="model_repo")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    texts = list(
        itertools.islice(itertools.cycle(load_bundled("goemotions-ekman").splits["train"].texts), options.rows)
    )
    shares = [texts[turn :: options.turns] for turn in range(options.turns)]
    seconds: dict[str, list[float]] = {"one engine on all cores": [], "workers alone": [], "bantam label": []}
    memory: list[list[float]] = []
    with find_model(options.model, options.repository, (), None, print) as model:
        for share in shares:
            seconds["one engine on all cores"].append(one_engine(model, share))
            seconds["workers alone"].append(workers_alone(model, share))
            took, sampled = labelled(options.model, options.repository, share)
            seconds["bantam label"].append(took)
            memory.append(sampled)
    rates = {name: options.rows / sum(several) for name, several in seconds.items()}
    for name, rate in rates.items():
        turns = ", ".join(f"{len(share) / took:,.0f}" for share, took in zip(shares, seconds[name], strict=True))
        print(f"{name:<26}{rate:>8,.0f} texts/s   in turns: {turns}")
    ratio = rates["bantam label"] / max(rates["one engine on all cores"], rates["workers alone"])
    print(f"bantam label reaches {ratio:.1%} of the faster one; the bar is {BAR:.0%}")
    # The processes have begun by the second fifth of a turn.
    early, late = (max(max(s[i * len(s) // 5 : (i + 1) * len(s) // 5 or 1]) for s in memory) for i in (1, 4))
    print(f"memory of all its processes: at most {early:.0f} MB in the second fifth of a turn, {late:.0f} in the last")
    print(json.dumps({"rates": rates, "ratio": ratio, "memory_mb": [early, late]}))
    return 0 if ratio >= BAR else 1


def one_engine(model: LabelModel, texts: Sequence[Text]) -> float:
    """Seconds that one engine with a thread a core takes, its loading with it."""
    began = time.perf_counter()
    engine = Engine(model.artifact.folder, micro_batch=model.micro_batch)
    for several in lists(texts):
        engine.probabilities(several)
    return time.perf_counter() - began


def workers_alone(model: LabelModel, texts: Sequence[Text]) -> float:
    """Seconds that the workers take, their start with it."""
    began = time.perf_counter()
    with local_pool(model, None) as pool:
        for future in [pool.submit(several) for several in lists(texts)]:
            future.result()
        return time.perf_counter() - began


def labelled(model: str, repository: str, texts: Sequence[Text]) -> tuple[float, list[float]]:
    """Seconds that the command takes for a CSV, from its first look at the model on, and MB over time."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.csv", Path(folder) / "out.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        words = ["label", str(source), str(target), "--model", model, "--repository", repository, "--json"]
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "bantam", *words], stdout=subprocess.PIPE, text=True)
        memory = list(sampled(process))
        whole = time.perf_counter() - began
        done = json.loads(process.stdout.read() if process.stdout else "")
    print(
        f"  of {whole:.1f} s, {whole - done['seconds']:.1f} passed before the command had begun and after it was done"
    )
    return float(done["seconds"]), memory


def sampled(process: subprocess.Popen[str]) -> Iterator[float]:
    """The memory of a process and its children, in MB, as long as it lives."""
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for each in [watched, *watched.children(recursive=True)]:
            try:
                total += each.memory_info().rss
            except psutil.Error:
                continue  # it has ended
        yield total / 1e6
        time.sleep(SAMPLE_S)


def lists(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """As a worker gets them."""
    return (texts[start : start + LIST_TEXTS] for start in range(0, len(texts), LIST_TEXTS))


if __name__ == "__main__":
    sys.exit(main())
