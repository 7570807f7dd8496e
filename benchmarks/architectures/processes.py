"""Architectures in processes of their own, a few at a time; outcomes are kept as JSON lines."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from benchmarks.architectures.outcome import Outcome

FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(["benchmarks.architectures.trial", "torch", "transformers", "onnxruntime"])


def tried(architecture: str, seconds: float, core: int) -> Outcome:
    """What becomes of an architecture in a process of its own, on one core, which is killed after so many seconds."""
    receiving, sending = FORKSERVER.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="architecture-") as folder, receiving:
        process = FORKSERVER.Process(target=_attempt, args=(architecture, folder, core, sending))
        started = time.monotonic()
        process.start()
        sending.close()
        try:
            if receiving.poll(seconds):
                return receiving.recv()  # type: ignore[no-any-return]
            why = f"It was not done after {seconds:.0f} s."
        except EOFError:
            process.join(10)
            why = f"Its process ended with exit code {process.exitcode}."
        finally:
            process.kill()
            process.join()
    return Outcome(architecture, "not done", why, seconds=round(time.monotonic() - started, 1))


def _attempt(architecture: str, folder: str, core: int, result: Connection) -> None:
    from benchmarks.architectures.trial import attempt  # heavy: not for the process that asks

    os.sched_setaffinity(0, {core})  # threads of several would wait for each other
    os.environ["BANTAM_CACHE"] = f"{folder}/cache"
    with open(os.devnull, "w") as nowhere:  # NNCF's progress bars
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    result.send(attempt(architecture, Path(folder)))


def known(path: Path) -> dict[str, Outcome]:
    """The outcomes that are kept, by architecture; the last one counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    return {outcome.architecture: outcome for outcome in found}


def run(names: list[str], path: Path, *, jobs: int, seconds: float) -> Iterator[Outcome]:
    """Try architectures, at most so many at once and one a core; each outcome is kept as soon as it is there."""
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:jobs]:
        cores.put(core)

    def on_a_core(name: str) -> Outcome:
        core = cores.get()
        try:
            return tried(name, seconds, core)
        finally:
            cores.put(core)

    path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cores.qsize()) as threads, path.open("a", encoding="utf-8") as lines:
        for done in as_completed([threads.submit(on_a_core, name) for name in names]):
            lines.write(json.dumps(asdict(done.result())) + "\n")
            lines.flush()
            yield done.result()
