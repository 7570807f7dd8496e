"""Threads of the engine: this checkout beside an older one, in interleaved rounds; and what is chosen at publish.

``git worktree add ../before COMMIT`` (with links to both environments), then for a variant such as
``build/RUN/onnx-int8``::

    python -m benchmarks.threads alone VARIANT --before ../before     # in process: one text, and lists
    python -m benchmarks.threads served VARIANT --before ../before    # 16 clients, beside the engine in process
    python -m benchmarks.threads starts VARIANT                       # the choice at publish, ten times

Who is not asked is stopped meanwhile. Rounds go through all of them in an order that is turned around each time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bantam.artifact import Artifact
from bantam.client.transport import Target
from bantam.loadtest.kserve import GrpcEndpoint
from bantam.loadtest.plan import Closed
from bantam.loadtest.processes import Clients, Subject, client_processes
from bantam.run.latency import draw_texts
from bantam.run.text_threads import measured
from benchmarks.serving_process import HERE, PORTS, WATCH_PORT, Serving, bantam_serve
from benchmarks.watch_latency import MODEL
from benchmarks.watch_latency import published as published_by
from optimizer.data import load_dataset
from serving.backend.cores import usable_cores
from serving.repository import publish

ENGINE = """
import json, sys, time
from pathlib import Path
from serving.backend.engine import Engine
engine = Engine(Path(sys.argv[1]), **json.loads(sys.argv[2]))
print(flush=True)
for line in sys.stdin:
    seconds = []
    for texts in json.loads(line):
        start = time.perf_counter()
        engine.probabilities(texts)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)
"""
CLIENTS = 16


class InProcess:
    """The engine of a checkout in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, lists: Sequence[Sequence[str]]) -> np.ndarray:
        """Seconds of each list, one after the other."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(lists), file=self._process.stdin, flush=True)
        return np.array(json.loads(self._process.stdout.readline()))


@contextmanager
def in_process(variant: Path, checkout: Path, options: Mapping[str, Any]) -> Iterator[InProcess]:
    """Start one; between lists it waits for its input and takes no core."""
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(variant.resolve()), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield InProcess(process)
        finally:
            process.terminate()


def rounds(asked: Mapping[str, Callable[[], Any]], count: int) -> dict[str, np.ndarray]:
    """What each returns, ``[rounds, ...]``, without the first round, which warms up."""
    found: dict[str, list[Any]] = {name: [] for name in asked}
    for number in range(count + 1):
        for name in list(asked)[:: 1 if number % 2 else -1]:
            found[name].append(asked[name]())
    return {name: np.array(each[1:]) for name, each in found.items()}


def choice(variant: Path) -> dict[str, Any]:
    """What is measured at publish, as an option of the engine."""
    found = measured(Artifact.load(variant), None)
    print(f"at publish: {found}")
    return {"text_threads": found.text_threads._asdict()} if found and found.text_threads else {}


def alone(options: argparse.Namespace) -> None:
    """One text and lists, in process."""
    texts = drawn(options)
    with ExitStack() as stack:
        engines = {
            "before": stack.enter_context(in_process(options.variant, options.before.resolve(), {})),
            "now": stack.enter_context(in_process(options.variant, HERE, choice(options.variant))),
        }
        table = Table("texts at once", "before ms", "now ms", "before / now", title=str(options.variant))
        for size in options.sizes:
            lists = [texts[start : start + size] for start in range(0, len(texts) - size + 1, size)]
            asks = {name: partial(ask, lists) for name, ask in engines.items()}
            before, now = rounds(asks, options.rounds).values()
            ratios = np.median(before, axis=1) / np.median(now, axis=1)
            low, middle, high = np.percentile(ratios, [10, 50, 90])
            table.add_row(
                str(size),
                *(f"{1e3 * np.median(each):.3f}" for each in (before, now)),
                f"{middle:.3f} ({low:.3f} to {high:.3f})",
            )
    Console().print(table)


def served(options: argparse.Namespace) -> None:
    """Sixteen clients at once: texts a second."""
    texts = drawn(options)
    before, given = options.before.resolve(), choice(options.variant)
    older_ports = [*PORTS, *(WATCH_PORT if (before / "serving" / "watch.py").exists() else ())]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        roots = {"before": published_by(options.variant, Path(folder, "before"), before), "now": Path(folder, "now")}
        roots["now"].mkdir()
        artifact = Artifact.load(options.variant)
        publish(artifact, roots["now"], MODEL, thresholds=None, text_threads=_typed(given))
        asks: dict[str, Callable[[], float]] = {}
        for name, checkout, ports in (("before", before, older_ports), ("now", HERE, [*PORTS, *WATCH_PORT])):
            running = stack.enter_context(bantam_serve(roots[name], (), checkout=checkout, ports=ports))
            clients = stack.enter_context(clients_of(running, texts))
            running.send(signal.SIGSTOP)
            asks[name] = partial(rate, running, clients, options.seconds)
        engine = stack.enter_context(in_process(options.variant, HERE, given))
        asks["in process"] = partial(engine_rate, engine, texts, options.seconds)
        found = rounds(asks, options.rounds)
    table = Table("", "texts/s", "of before", "of in process", title=f"{options.variant}, {CLIENTS} clients")
    for name, each in found.items():
        shares = (np.median(each / found[other]) for other in ("before", "in process"))
        table.add_row(name, f"{np.median(each):,.0f}", *(f"{share:.3f}" for share in shares))
    Console().print(table)


@contextmanager
def clients_of(running: Serving, texts: Sequence[str]) -> Iterator[Clients]:
    """One process that can send as many clients' requests to a server."""
    target = Target.checked(running.grpc, MODEL, 30.0)
    endpoint = GrpcEndpoint(target)
    tensor = next(each for each in endpoint.inputs() if each.name == "TEXT")
    endpoint.close()
    with client_processes(Subject(target, "grpc", tensor, texts, 50), 1) as clients:
        yield clients


def rate(running: Serving, clients: Clients, seconds: float) -> float:
    """Texts a second that a server answers."""
    running.send(signal.SIGCONT)
    time.sleep(0.2)
    result = clients.run(Closed(CLIENTS, seconds))
    running.send(signal.SIGSTOP)
    if result.errors:
        raise ChildProcessError(f"got {result.errors}, expected answers")
    return result.texts_per_s


def engine_rate(engine: InProcess, texts: Sequence[str], seconds: float) -> float:
    """Texts a second that the engine answers in process, in lists as long as the server's batches."""
    lists = [texts[start : start + 64] for start in range(0, len(texts) - 63, 64)]
    answered, spent = 0, 0.0
    while spent < seconds:
        spent += float(engine(lists).sum())
        answered += 64 * len(lists)
    return answered / spent


def starts(options: argparse.Namespace) -> None:
    """The choice at publish again and again, and what it loses against the better of one thread and all."""
    texts = drawn(options)
    cores = usable_cores()
    fixed = {"one thread": {"threads": 1, "tokens": 1, "cores": cores}}
    fixed["all threads"] = {"threads": cores, "tokens": 1, "cores": cores}
    lists = [[text] for text in texts]
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(in_process(options.variant, HERE, {"text_threads": given}))
            for name, given in fixed.items()
        }
        table = Table(
            "start", "seconds", "choice", "chosen ms", "one ms", "all ms", "of the better", title=str(options.variant)
        )
        for number in range(options.starts):
            begun = time.perf_counter()
            given = choice(options.variant)
            took = time.perf_counter() - begun
            with in_process(options.variant, HERE, given) as chosen:
                everyone = {"chosen": chosen, **engines}
                found = rounds({name: partial(engine, lists) for name, engine in everyone.items()}, options.rounds)
            # The quietest round of each: a host that takes a core away for seconds hits whoever is asked then.
            p50 = {
                name: 1e3 * float(np.median(each.reshape(len(each), -1), axis=1).min()) for name, each in found.items()
            }
            share = p50["chosen"] / min(p50[name] for name in fixed)
            said = given.get("text_threads", "by rule")
            table.add_row(
                str(number + 1), f"{took:.1f}", str(said), *(f"{v:.3f}" for v in p50.values()), f"{share:.3f}"
            )
    Console(width=150).print(table)


def _typed(given: Mapping[str, Any]) -> Any:
    from serving.backend.cores import TextThreads

    return TextThreads(**given["text_threads"]) if given else None


def drawn(options: argparse.Namespace) -> list[str]:
    """Texts of the test split."""
    return [*draw_texts(load_dataset(options.data).splits["test"].single, options.texts)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("alone", "served", "starts"))
    parser.add_argument("variant", type=Path)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()
    if options.what != "starts" and options.before is None:
        parser.error("--before: expected another checkout")
    {"alone": alone, "served": served, "starts": starts}[options.what](options)


if __name__ == "__main__":
    main()
