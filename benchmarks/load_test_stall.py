"""Does the load tester tell the truth? What it says of a server that stalls, beside what the server's latency is.

``python -m benchmarks.load_test_stall`` runs a server that takes 100 ms, and answers nothing for 6 of the 30 seconds of
a test, and measures it in an open loop (constant and Poisson arrivals) and in closed loops, as measured and corrected.
100 ms, because the round trip to it, 1 to 3 ms, is in what a client sees and not in what the server takes; 6 s, because
one client in a closed loop looks at the server but once in those 100 ms.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from bantam.client.transport import Target
from bantam.loadtest.histogram import PERCENTS
from bantam.loadtest.kserve import ModelInput
from bantam.loadtest.plan import Closed, Open, Plan
from bantam.loadtest.processes import Subject, client_processes
from bantam.loadtest.result import LoadResult
from bantam.loadtest.schema import Quantile
from benchmarks.stall_server import Known, running

WARMUP = 20
TEXT = ModelInput("TEXT", "BYTES", (-1, 1))


def measure(known: Known, plan: Plan, protocol: str) -> LoadResult:
    """One test of a stalling server in a process of its own."""
    with running(known, protocol=protocol, skip=WARMUP) as address:
        subject = Subject(Target.checked(address, "fake", 30.0), protocol, TEXT, ("text",), WARMUP)
        with client_processes(subject, 1) as clients:
            return clients.run(plan)


def at_these_sendings(known: Known, result: LoadResult) -> list[float]:
    """The percentiles of requests sent when these were due. Poisson gaps put by chance more or fewer into the stall."""
    return [float(ms) for ms in np.percentile(known.latencies_ms(result.due), PERCENTS, method="inverted_cdf")]


def cells(found: list[Quantile], theory: list[float]) -> list[str]:
    """Each percentile with its distance from what it must be."""
    return [f"{each.ms:.1f} ({100 * (each.ms / true - 1):+.1f}%)" for each, true in zip(found, theory, strict=True)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", type=float, default=100)
    parser.add_argument("--stall", type=float, nargs=2, default=[10, 16])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    options = parser.parse_args()
    known = Known(options.service_ms / 1e3, (options.stall[0], options.stall[1]))
    theory = [known.quantile_ms(percent, options.seconds) for percent in PERCENTS]
    table = Table("ms", *(f"p{percent:g}" for percent in PERCENTS), title=f"{options.protocol}, {known}")
    table.add_row("what it is, at all moments", *(f"{true:.1f}" for true in theory))
    for arrivals in ("constant", "poisson"):
        plan = Open(options.rate, options.seconds, "constant" if arrivals == "constant" else "poisson")
        result = measure(known, plan, options.protocol)
        true = at_these_sendings(known, result)
        table.add_row(f"what it is, at these {arrivals} sendings", *(f"{ms:.1f}" for ms in true))
        table.add_row(f"open loop, {options.rate:g}/s, {arrivals}", *cells(result.percentiles(), true))
    for clients in (1, 8):
        result = measure(known, Closed(clients, options.seconds), options.protocol)
        table.add_row(f"closed loop, {clients}, as measured", *cells(result.percentiles(), theory))
        table.add_row(f"closed loop, {clients}, corrected", *cells(result.corrected_percentiles(), theory))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
