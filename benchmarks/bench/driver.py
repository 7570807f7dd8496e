"""Runs one peer inside its environment; the other end of :mod:`benchmarks.bench.process`. Standard library and numpy.

::

    ENV/bin/python driver.py prepare PEER.py --checkpoint CHECKPOINT --folder EMPTY  [--job JOB.json] [--options JSON]
    ENV/bin/python driver.py run     PEER.py --folder PREPARED                       (answers JSON lines on stdin)
    ENV/bin/python driver.py serve   PEER.py --folder PREPARED --port 9000           (until SIGTERM)
    ENV/bin/python driver.py try     PEER.py --folder PREPARED                       (by hand: three texts)

``--job`` holds the fields of :class:`Job`; what is left out has its default. ``--options '{"precision": "bf16"}'`` sets
the contender's options over those of the file. Answers are JSON lines on stdout, ``{"ok": true, "answer": ...}`` or
``{"ok": false, "error": "ValueError: ..."}``; everything that a library prints goes to stderr.

``run`` loads the peer, answers once with ``{"load_s": ...}``, and then one line for each request
``{"job": "scores" | "latencies_ms" | "texts_per_s" | "peak_rss_mb", "texts": [...]}``. It ends when stdin closes.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]
BATCH = 32
"""Texts in a batch where throughput is measured."""
WAKE_UP = 5
"""Texts that a contender answers before the clock starts: it was stopped while the others had the machine."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
PR_SET_PDEATHSIG = 1
TRIAL = ["I love it!", "You broke it again, and nobody told me.", "ok"]


@dataclass(frozen=True)
class Job:
    """What a peer is asked to do; plain data."""

    threads: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    """The contender's own, from contenders.py."""
    calibration: list[str] = field(default_factory=list)
    """Training texts."""
    labels: list[str] = field(default_factory=list)
    """In the checkpoint's order."""
    task: str = "multi_label"
    max_length: int = 512


def main() -> None:
    """Do what the command line asks; exit code 1 after an answer that is not ok."""
    arguments = parse()
    sys.path.pop(0)  # this folder: its modules must not stand in for a library's
    sys.path.append(str(ROOT))  # last, for bantam.memory alone
    end_with_parent(signal.SIGTERM if arguments.command == "serve" else signal.SIGKILL)
    answers = clean_stdout()
    job = read_job(arguments.job, arguments.options)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(job.threads)  # before the peer's libraries are imported: they read it then
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
    try:
        peer = load_peer(arguments.peer)
        if arguments.command == "prepare":
            log(answers, prepare(peer, arguments.checkpoint, arguments.folder, job))
        elif arguments.command == "serve":
            peer.serve(arguments.folder, job, arguments.port)
        else:
            scores, load_s = timed(lambda: peer.load(arguments.folder, job))
            if arguments.command == "try":
                log(answers, {"load_s": load_s, **try_out(scores, job)})
            else:
                log(answers, {"load_s": load_s})
                answer_all(scores, job, answers)
    except Exception as exc:  # noqa: BLE001 whatever it is, the bench is to know: a failure is a row of the table
        traceback.print_exc()
        say_failed(answers, exc)
        sys.exit(1)


def parse() -> argparse.Namespace:
    """The command line, as the module's docstring has it."""
    parser = argparse.ArgumentParser(description="Runs one peer of the bench inside its own environment.")
    parser.add_argument("command", choices=("prepare", "run", "serve", "try"))
    parser.add_argument("peer", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--job", type=Path)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--port", type=int)
    return parser.parse_args()


def read_job(path: Path | None, options: dict[str, Any]) -> Job:
    """The job of a file, if there is one, with the options given over its own."""
    given = json.loads(path.read_text(encoding="utf-8")) if path else {}
    known = {each.name for each in fields(Job)}
    job = Job(**{name: value for name, value in given.items() if name in known})
    job.options.update(options)
    return job


def load_peer(path: Path) -> ModuleType:
    """Import a peer's file, wherever it is, under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem + "_peer", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def prepare(peer: ModuleType, checkpoint: Path, folder: Path, job: Job) -> dict[str, Any]:
    """Let the peer convert the checkpoint: how long it took, and the bytes of each file that production needs."""
    folder.mkdir(parents=True, exist_ok=True)
    _, seconds = timed(lambda: peer.prepare(checkpoint.resolve(), folder.resolve(), job))
    deployable = {str(path.relative_to(folder.resolve())): path.stat().st_size for path in peer.sizes(folder.resolve())}
    return {"seconds": seconds, "deployable": deployable, "peak_rss_mb": _peak_rss_mb()}


def answer_all(scores: Callable[[list[str]], Scores], job: Job, answers: IO[str]) -> None:
    """Answer requests, one a line, until stdin closes; one that fails is answered with the reason."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            log(answers, JOBS[request["job"]](scores, request.get("texts", []), job))
        except Exception as exc:  # noqa: BLE001 as above
            traceback.print_exc()
            say_failed(answers, exc)


def checked(scores: Callable[[list[str]], Scores], texts: list[str], job: Job) -> list[list[float]]:
    """The probabilities of all texts, in batches of like lengths; raises ValueError if they are none."""
    import numpy as np

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [[texts[i] for i in order[start : start + BATCH]] for start in range(0, len(texts), BATCH)]
    result = np.concatenate([np.asarray(scores(batch), np.float32) for batch in batches])
    expected = (len(texts), len(job.labels))
    if job.labels and result.shape != expected:
        raise ValueError(f"scores wrong: got shape {list(result.shape)}, expected {list(expected)} [texts, labels]")
    if not (np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1):
        raise ValueError(f"scores wrong: got {result.min()} to {result.max()}, expected probabilities from 0 to 1")
    return result[np.argsort(order)].tolist()  # type: ignore[no-any-return]


def latencies_ms(scores: Callable[[list[str]], Scores], texts: list[str], job: Job) -> list[float]:
    """Milliseconds that each text takes alone, from text to probabilities; a few before them are not counted."""
    result = []
    for text in texts[:WAKE_UP]:
        scores([text])
    for text in texts:
        start = time.perf_counter()
        scores([text])
        result.append(1e3 * (time.perf_counter() - start))
    return result


def texts_per_s(scores: Callable[[list[str]], Scores], texts: list[str], job: Job) -> float:
    """Texts a second in batches, in the order in which they come."""
    start = time.perf_counter()
    for i in range(0, len(texts), BATCH):
        scores(texts[i : i + BATCH])
    return len(texts) / (time.perf_counter() - start)


def _peak_rss_mb() -> float:
    from bantam.memory import peak_rss_mb

    return peak_rss_mb()


JOBS: dict[str, Callable[[Callable[[list[str]], Scores], list[str], Job], Any]] = {
    "scores": checked,
    "latencies_ms": latencies_ms,
    "texts_per_s": texts_per_s,
    "peak_rss_mb": lambda scores, texts, job: _peak_rss_mb(),
}


def try_out(scores: Callable[[list[str]], Scores], job: Job) -> dict[str, Any]:
    """Three texts: their scores and, after a first round, their latencies."""
    answer = checked(scores, TRIAL, job)
    latencies_ms(scores, TRIAL, job)
    return {"scores": answer, "latencies_ms": latencies_ms(scores, TRIAL, job), "peak_rss_mb": _peak_rss_mb()}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds that it took."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def clean_stdout() -> IO[str]:
    """The true stdout, for answers alone: file descriptor 1 is made stderr, so that libraries may print."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def log(answers: IO[str], answer: Any) -> None:
    """Answer one line."""
    print(json.dumps({"ok": True, "answer": answer}), file=answers, flush=True)


def say_failed(answers: IO[str], exc: Exception) -> None:
    """Answer that it failed, with the last line of the reason."""
    lines = str(exc).strip().splitlines() or [""]
    print(json.dumps({"ok": False, "error": f"{type(exc).__name__}: {lines[-1]}"}), file=answers, flush=True)


def end_with_parent(number: signal.Signals) -> None:
    """Have the system send this process a signal when the bench ends, however it ends; Ctrl-C is for the bench."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    main()
