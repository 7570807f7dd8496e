"""What the load tester itself costs: requests a second that one process sends on one core, and how late.

``python -m benchmarks.load_test_client`` asks a server that does nothing (``benchmarks/echo_server.py``) and then an
identity model in the embedded Triton, at rising rates, with the testing process bound to one core and the server to the
others. ``--profile`` shows where the tester's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bantam.artifact import Manifest, Signature, seal
from bantam.client.transport import Target
from bantam.loadtest.kserve import GrpcEndpoint, ModelInput
from bantam.loadtest.open_loop import arrival_times, play
from bantam.loadtest.plan import Closed, Open
from bantam.loadtest.processes import Subject, client_processes
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import Tally, warm_up
from serving.server import Server

TEXT = ModelInput("TEXT", "BYTES", (-1, 1))
TEXTS = ("I love it so much that I could not be any happier today",)
COLUMNS = ("", "answers/s", "p50 ms", "p99", "p99.9", "lag p99", "cores", "us a request", "bound", "errors")
CONFIG = """name: "echo"
backend: "python"
max_batch_size: 64
version_policy { specific { versions: [ 1 ] } }
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SAME" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { }
"""
MODEL = """import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("SAME", pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())]
            )
            for request in requests
        ]
"""


@contextmanager
def nothing() -> Iterator[str]:
    """The server that does nothing."""
    command = [sys.executable, "-m", "benchmarks.echo_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


@contextmanager
def triton() -> Iterator[str]:
    """An identity model in Triton's Python backend."""
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder, "echo", "1")
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODEL)
        seal(version, Manifest("export", "0" * 64, "onnx", Signature("regression", ("echo",), ("input_ids",), 8)))
        (version.parent / "config.pbtxt").write_text(CONFIG)
        with Server(Path(folder), models=["echo"]) as server:
            yield server.grpc_address


SERVERS = {"nothing": nothing, "triton": triton}


def profile(target: Target, rate: float, seconds: float) -> None:
    """Print where the time of the sending thread goes."""
    endpoint = GrpcEndpoint(target)
    requests = [endpoint.request(text, TEXT) for text in TEXTS]
    warm_up(endpoint, requests, 50)
    profiler = cProfile.Profile()
    schedule = arrival_times(rate, seconds)
    profiler.runcall(play, endpoint, requests, schedule, time.perf_counter(), Tally(), rate=rate)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(12)
    endpoint.close()


def row(table: Table, name: str, result: LoadResult) -> None:
    """One line of the table."""
    microseconds = 1e6 * result.cpu_s / len(result.due)
    table.add_row(
        name,
        f"{result.texts_per_s:,.0f}",
        *(f"{value:.2f}" for value in (result.p50_ms, result.percentile_ms(99), float(result.percentile_ms(99.9)))),
        f"{result.lag_p99_ms:.2f}",
        f"{result.client_cores:.2f}",
        f"{microseconds:.0f}",
        "yes" if result.client_bound else "no",
        str(sum(result.errors.values())),
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=SERVERS, action="append")
    parser.add_argument("--rates", type=float, nargs="+", default=[1000, 3000, 5000, 8000])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    mine, others = {cores[0]}, set(cores[1:]) or {cores[0]}
    for name in options.server or SERVERS:
        os.sched_setaffinity(0, others)
        with SERVERS[name]() as address:
            os.sched_setaffinity(0, mine)
            target = Target.checked(address, "echo", 10.0)
            title = f"{name}, one process on one core, {options.seconds:g} s each"
            table = Table(*COLUMNS, title=title)
            with client_processes(Subject(target, "grpc", TEXT, TEXTS, 50), 1) as clients:
                for rate in options.rates:
                    row(table, f"open loop, {rate:,.0f}/s", clients.run(Open(rate, options.seconds)))
                for count in (1, 16, 64):
                    row(table, f"closed loop, {count}", clients.run(Closed(count, options.seconds)))
            Console(width=140).print(table)
            if options.profile:
                profile(target, options.rates[-1], options.seconds)


if __name__ == "__main__":
    main()
