"""A second witness of the load test: NVIDIA's perf_analyzer asks Bantam's servers the same texts, after the bench.

Its ``perf_analyzer`` is taken from the PATH if it is there, else from its package, in an environment of its own. Where
neither runs, the rows say why.
"""

from __future__ import annotations

import csv
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.bench import environments, servers
from benchmarks.bench.clients import MODEL
from benchmarks.bench.driver import WAKE_UP
from benchmarks.bench.process import PeerFailed, environment, resumed
from benchmarks.bench.results import Witness
from benchmarks.bench.state import BenchRun

TESTER, PINS = "perf_analyzer", "perf-analyzer"
GLIBC = (2, 38)
"""What its wheel asks for."""
REQUESTS = {1: 200, servers.CLIENTS_AT_ONCE: 800}
"""By clients at once. It counts: with a fixed time it would go on until three windows agree."""
TIMEOUT_S = 120.0


def ask(run: BenchRun, running: Mapping[str, servers.Running]) -> list[Witness]:
    """What it sees of each of Bantam's servers, one after the other, while the others are stopped."""
    ours = {name: server for name, server in running.items() if run.rows[name].ours}
    if not ours:
        return []
    folder = run.settings.root / "witness"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "texts.json"
    data.write_text(json.dumps({"data": [{"TEXT": [text]} for text in run.workloads[0].texts]}), encoding="utf-8")
    try:
        program = find(run)
    except PeerFailed as failure:
        return [Witness(name, TESTER, reason=failure.reason) for name in ours]
    return [_asked(name, program, server, data) for name, server in ours.items()]


def find(run: BenchRun) -> Path:
    """The program. Raises :class:`PeerFailed` if it cannot be had."""
    if found := shutil.which(TESTER):
        return Path(found)
    library, version = platform.libc_ver()
    if library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        needed = ".".join(map(str, GLIBC))
        raise PeerFailed(
            "install", f"its wheel needs glibc {needed}, this system has {version}, and none is on the PATH"
        )
    return environments.make(PINS, run.settings.root / "env", run.log).python.with_name(TESTER)


def _asked(name: str, program: Path, server: servers.Running, data: Path) -> Witness:
    """One server: latency of one client, and answers a second of many."""
    try:
        with resumed(server.pid):
            one, many = (_measured(program, server.port, data, clients) for clients in REQUESTS)
    except PeerFailed as failure:
        return Witness(name, TESTER, reason=failure.reason)
    return Witness(name, TESTER, one["p50"] / 1e3, one["p99"] / 1e3, many["rate"])


def _measured(program: Path, port: int, data: Path, clients: int) -> dict[str, float]:
    """Its report for some clients at once; latencies in microseconds."""
    report = data.with_name(f"{clients}-clients.csv")
    report.unlink(missing_ok=True)
    command = [
        str(program), "-m", MODEL, "-i", "grpc", "-u", f"{servers.HOST}:{port}", "--input-data", str(data),
        "--concurrency-range", f"{clients}:{clients}", "--request-count", str(REQUESTS[clients]),
        "--warmup-request-count", str(WAKE_UP), "-f", str(report),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment(program)
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PeerFailed("serve", str(exc)) from exc
    if done.returncode or not report.exists():
        said = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise PeerFailed("serve", f"exit code {done.returncode}: {said[-1]}")
    return read(report.read_text(encoding="utf-8"))


def read(report: str) -> dict[str, float]:
    """``p50`` and ``p99`` in microseconds and ``rate`` in answers a second, of a report of one line."""
    line = next(csv.DictReader(report.splitlines()))
    columns = {"p50": "p50 latency", "p99": "p99 latency", "rate": "Inferences/Second"}
    return {name: float(line[column]) for name, column in columns.items()}
