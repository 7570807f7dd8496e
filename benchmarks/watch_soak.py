"""Does a server grow, or leave things behind? Texts of mixed lengths and bad requests for 20 minutes.

``python -m benchmarks.watch_soak --repository model_repo minilm`` starts ``bantam serve``, has clients ask it, and
looks at the memory of its processes after the first minute and then each minute (``--minutes``), at files in /dev/shm
and in the folder for temporary files meanwhile, and at what is left there when it has ended: whatever the name, so no
other program may use these folders. Exit code 1: it grew, was started again, or something is left.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import tritonclient.grpc as grpcclient
from rich.console import Console
from rich.table import Table

from bantam.client.classifier import Classifier
from bantam.errors import ClientError
from benchmarks.serving_process import Serving, bantam_serve

WORDS = ("I", "love", "it", "so", "much", "that", "nobody", "would", "believe", "what", "happened", "on", "this", "day")
BAR = 0.02
"""Growth after the first minute."""
FOLDERS = (Path("/dev/shm"), Path(tempfile.gettempdir()))  # noqa: S108  # where Linux keeps it


@dataclass
class Mix:
    """Clients, and what they met."""

    address: str
    model: str
    pair: bool = False
    met: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    def texts(self, seed: int) -> Iterator[list[str]]:
        """Lists of one text, mostly, of 1 to 1,000 words; all of each length come again and again."""
        rng = random.Random(seed)
        while True:
            count = rng.choice((1, 1, 1, 1, 2, 8, 64))
            yield [" ".join(rng.choices(WORDS, k=rng.choice((1, 5, 20, 60, 200, 1000)))) for _ in range(count)]

    def run(self, seed: int) -> None:
        """One client: one request in ten is a bad one."""
        with (
            Classifier(self.address, self.model, timeout=60.0) as client,
            grpcclient.InferenceServerClient(self.address) as raw,
        ):
            for number, texts in enumerate(self.texts(seed)):
                if self.stopped:
                    return
                try:
                    if number % 10 == 9:
                        self.ask_badly(raw, number // 10)
                    else:
                        client.probabilities([(text, "and more") for text in texts] if self.pair else texts)
                    self.met["answers"] += 1
                except (ClientError, grpcclient.InferenceServerException) as exc:
                    self.met[type(exc).__name__] += 1

    def ask_badly(self, raw: grpcclient.InferenceServerClient, number: int) -> None:
        """Not UTF-8, another shape, another type, another model, or a megabyte of one word."""
        model, texts = self.model, np.array([[b"\xff"]], dtype=np.object_)
        kind = number % 5
        if kind == 1:
            texts = np.array([[b"a", b"b", b"c"]], dtype=np.object_)
        elif kind == 2:
            texts = np.array([[1.5]], dtype=np.float32)
        elif kind == 3:
            model = "no-such-model"
        elif kind == 4:
            texts = np.array([[b"a" * 1_000_000]], dtype=np.object_)
        tensor = grpcclient.InferInput("TEXT", list(texts.shape), "FP32" if kind == 2 else "BYTES")
        tensor.set_data_from_numpy(texts)
        raw.infer(model, [tensor], client_timeout=60.0)


def memory_mb(running: Serving) -> dict[str, float]:
    """Resident memory of all processes and of the server's alone, which is Triton with its models."""
    sizes = {"triton": 0.0, "watch": 0.0}
    for each in running.tree():
        with suppress(psutil.Error):
            sizes["triton" if each.name().startswith("triton") else "watch"] += each.memory_info().rss / 1e6
    return {**sizes, "all": sum(sizes.values())}


def left() -> set[Path]:
    """What lies in the folders that a server uses, or that Triton might."""
    return {path for folder in FOLDERS for path in folder.iterdir()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--isolated", action="store_true")
    parser.add_argument("--cache", default="0")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args()
    before = left()
    arguments = [options.model, "--cache", options.cache, *(["--isolated"] if options.isolated else [])]
    table = Table("minute", "Triton, MB", "watch, MB", "all, MB", "files", title=f"{options.clients} clients")
    seen: list[dict[str, float]] = []
    with bantam_serve(options.repository, arguments) as running:
        with Classifier(running.grpc, options.model) as client:
            mix = Mix(running.grpc, options.model, client.describe().pair)
        clients = [threading.Thread(target=mix.run, args=(seed,), daemon=True) for seed in range(options.clients)]
        for each in clients:
            each.start()
        began = time.monotonic()
        for minute in itertools.count(1):
            time.sleep(max(0.0, began + 60 * minute - time.monotonic()))
            seen.append(memory_mb(running))
            files = sum(1 for path in left() - before for _ in (path, *path.rglob("*")))
            table.add_row(str(minute), *(f"{seen[-1][key]:.1f}" for key in ("triton", "watch", "all")), str(files))
            if minute >= options.minutes:
                break
        mix.stopped = True
        for each in clients:
            each.join()
        restarts = json.loads(running.page("/ready")[1])["restarts"]
    remains = sorted(map(str, left() - before))
    growth = seen[-1]["all"] / seen[0]["all"] - 1
    Console().print(table)
    kept = [growth < BAR, restarts == 0, not remains]
    print(f"{dict(mix.met)}. Growth after the first minute: {100 * growth:+.1f}%. Restarts: {restarts}.")
    print(f"Left: {', '.join(remains) or 'nothing'}.")
    said = ", ".join("kept" if each else "MISSED" for each in kept)
    print(f"Bars ({100 * BAR:g}%, no restart, nothing left): {said}.")
    if options.out:
        figures = {"memory_mb": seen, "met": mix.met, "restarts": restarts, "left": remains, "growth": growth}
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
