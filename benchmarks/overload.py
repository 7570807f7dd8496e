"""What a server does that is asked for more than it can do, from the same cores.

``python -m benchmarks.overload minilm --runs 3`` serves a published model with ``bantam serve``, finds what it can do
(a closed loop of many clients), and asks it for 1.5 and 3 times as much for half a minute (an open loop). It prints the
goodput as a share of what it can do, how soon the refused and the others were answered, how many were refused for which
reason (those that were late have waited for the limit, and count as refused all the same), memory, which may grow while
the first load lasts, and what one client sees in the two seconds before and after it. Beside it, how many cores are
taken where all requests are refused: by whoever sends them, and by the server for saying no. ``--before CHECKOUT`` does
the same with another checkout, in turn. Exit code 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2

from bantam.artifact import Text
from bantam.client.transport import TIMEOUT, Target
from bantam.loadtest.kserve import GrpcEndpoint, ModelInput, find_input
from bantam.loadtest.plan import Closed, Open, run_here
from bantam.loadtest.processes import Clients, Subject, client_processes
from bantam.loadtest.result import LoadResult
from bantam.machine import describe_machine
from bantam.run.latency import draw_texts
from benchmarks.serving_process import HERE, PORTS, WATCH_PORT, Serving, bantam_serve
from optimizer.data import load_dataset
from serving.triton_config import LIMIT_MS

FACTORS = {1.5: 0.85, 3.0: 0.65}
"""Times what the server can do -> the bar of the goodput's share."""
CLIENTS = 32
REFUSED_MS = 100.0
GROWN = 1.05
"""Memory after a load, of that after the first one."""
SLOWER = 1.5
"""What one client sees after a load, of before it: two seconds of one client differ by as much by themselves."""
COLUMNS = (
    "server",
    "asked for",
    "answered /s",
    "of capacity",
    "p50 ms",
    "p99 ms",
    "refused p50",
    "refused p99",
    "refused for",
    "failed else",
    "lag p99",
    "MB before, after",
    "one client p50 before, after",
)


class Hurried(GrpcEndpoint):
    """Asks for an answer within a microsecond: a server that knows deadlines refuses all of it."""

    def request(self, text: Text, tensor: ModelInput) -> bytes:
        """As another one, in a hurry."""
        request = service_pb2.ModelInferRequest.FromString(super().request(text, tensor))
        request.parameters[TIMEOUT].int64_param = 1
        return bytes(request.SerializeToString())


class Load(NamedTuple):
    """How many times as much as the server can do, texts a second, for so long."""

    factor: float
    capacity: float
    seconds: float


class Seen(NamedTuple):
    """One load on one server."""

    memory_mb: float
    row: tuple[str, ...]
    kept: bool


def hurry(target: Target, tensor: ModelInput, texts: Sequence[Text], rate: float, seconds: float) -> LoadResult:
    """An open loop of requests that are all refused, in a process of its own."""
    endpoint = Hurried(target)
    try:
        return run_here(endpoint, [endpoint.request(text, tensor) for text in texts], Open(rate, seconds))
    finally:
        endpoint.close()


def refused_ms(found: LoadResult, kinds: Sequence[str] = ("UnavailableError",)) -> np.ndarray:
    """Milliseconds from the intended sending to the refusal."""
    places = [place for place, error in found.failed.items() if error in kinds]
    return 1e3 * (found.done - found.due)[places]


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 50th and the 99th; not a number if there are none."""
    p50, p99 = np.percentile(values, [50, 99]) if len(values) else (np.nan, np.nan)
    return float(p50), float(p99)


def refusals(running: Serving) -> Counter[str]:
    """How many the server has refused, by reason; none of a server that does not count them."""
    page = running.page("/metrics")[1] if "watch" in running.announced else ""
    found = re.findall(r'^bantam_refused_total{.*reason="(\w+)"} (\d+)$', page, re.MULTILINE)
    return Counter({reason: int(number) for reason, number in found})


def one_client(clients: Clients) -> float:
    """p50 over two seconds."""
    return clients.run(Closed(1, 2.0)).p50_ms


def overload(running: Serving, clients: Clients, name: str, load: Load, first_mb: float | None) -> Seen:
    """Ask for more than it can do. ``first_mb``: memory after the first load, if there was one."""
    factor, capacity, seconds = load
    before_ms, before_mb, refused = one_client(clients), running.triton().memory_info().rss / 1e6, refusals(running)
    found = clients.run(Open(factor * capacity, seconds))
    after_ms, after_mb = one_client(clients), running.triton().memory_info().rss / 1e6
    share = found.texts_per_s / capacity
    reasons = ", ".join(f"{reason} {number}" for reason, number in (refusals(running) - refused).items())
    p50, p99 = percentiles(found.latencies_ms)
    refused50, refused99 = percentiles(refused_ms(found))
    else_failed = {kind: count for kind, count in found.errors.items() if kind != "UnavailableError"}
    row = (
        name,
        f"{factor:g} x {capacity:.0f}",
        f"{found.texts_per_s:.0f}",
        f"{share:.0%}",
        *(f"{each:.1f}" for each in (p50, p99, refused50, refused99)),
        reasons,
        str(else_failed or ""),
        f"{found.lag_p99_ms:.1f}",
        f"{before_mb:.0f}, {after_mb:.0f}",
        f"{before_ms:.2f}, {after_ms:.2f}",
    )
    kept = share >= FACTORS[factor] and not refused99 > REFUSED_MS and p99 <= 2 * LIMIT_MS and not else_failed
    kept = kept and after_ms <= SLOWER * before_ms and (first_mb is None or after_mb <= GROWN * first_mb)
    return Seen(after_mb, row, kept)


def cores_of_refusals(running: Serving, rate: float, seconds: float, arguments: tuple[object, ...]) -> str:
    """What is taken where all is refused."""
    triton = running.triton()
    before = triton.cpu_times()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(hurry, (*arguments, rate, seconds))
    took = triton.cpu_times()
    server = (took.user + took.system - before.user - before.system) / seconds
    p50, p99 = percentiles(refused_ms(found, ("UnavailableError", "TimeoutExceeded")))
    return (
        f"All refused at {rate:.0f}/s ({found.errors}): {found.client_cores:.2f} cores for who asks, {server:.2f} for "
        f"the server, of {psutil.cpu_count()}; refused p50 {p50:.1f} ms, p99 {p99:.1f} ms."
    )


def measured(
    name: str, checkout: Path, repository: Path, model: str, texts: list[Text], seconds: float
) -> tuple[list[Seen], str]:
    """One run: all loads on one server."""
    ports = [*PORTS, *(WATCH_PORT if (checkout / "serving" / "watch.py").exists() else ())]
    with bantam_serve(repository, [model], checkout=checkout, ports=ports) as running:
        target = Target(running.grpc, model, 10.0)
        endpoint = GrpcEndpoint(target)
        tensor = find_input(endpoint.inputs(), target)
        endpoint.close()
        with client_processes(Subject(target, "grpc", tensor, texts, 50), 1) as clients:
            capacity = clients.run(Closed(CLIENTS, 10.0)).texts_per_s
            seen: list[Seen] = []
            for factor in FACTORS:
                first_mb = seen[0].memory_mb if seen else None
                seen.append(overload(running, clients, name, Load(factor, capacity, seconds), first_mb))
        if name != "now":
            return seen, ""
        said = cores_of_refusals(running, max(FACTORS) * capacity, min(seconds, 10.0), (target, tensor, texts))
        return seen, said


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=HERE / "model_repo")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--before", type=Path, help="another checkout")
    options = parser.parse_args()
    texts = draw_texts(load_dataset(options.data).splits["test"].single, 500)
    checkouts = {"now": HERE, **({"before": options.before.resolve()} if options.before else {})}
    table = Table(*COLUMNS)
    kept = True
    for number in range(options.runs):
        for name in list(checkouts)[:: 1 if number % 2 else -1]:
            seen, said = measured(name, checkouts[name], options.repository, options.model, [*texts], options.seconds)
            for each in seen:
                table.add_row(*each.row)
                kept = kept and (each.kept or name != "now")
            if said:
                print(said, flush=True)
    print(f"{describe_machine().title}, load {os.getloadavg()[0]:.1f}, {datetime.now(UTC):%Y-%m-%d}, {options.model}")
    Console(width=200).print(table)
    print("Bars: " + ("kept" if kept else "MISSED"))
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
