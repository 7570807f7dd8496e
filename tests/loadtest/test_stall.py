"""The load tester, whole and in processes of its own, against a server that answers nothing until enough is waiting.

No time is measured against the clock of a busy machine: what is expected are lower bounds, which follow from who waited
for whom, and counts.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bantam.client.transport import Target
from bantam.loadtest.kserve import ModelInput
from bantam.loadtest.plan import Closed, Open, Plan
from bantam.loadtest.processes import Subject, client_processes
from bantam.loadtest.result import LoadResult
from benchmarks.stall_server import Known, running, serving

TEXT = ModelInput("TEXT", "BYTES", (-1, 1))
WARMUP = 5


class Gate:
    """Lets ``free`` requests pass, then holds all that come until ``together`` of them wait, and ``seconds`` more."""

    def __init__(self, free: int, together: int, seconds: float = 0.0) -> None:
        self._free, self._together, self._seconds = free, together, seconds
        self._lock, self._open = threading.Lock(), threading.Event()
        self.waiting = 0

    def __call__(self) -> None:
        with self._lock:
            self._free -= 1
            if self._free >= 0 or self._open.is_set():
                return
            self.waiting += 1
            last = self.waiting == self._together
        if last:
            time.sleep(self._seconds)
            self._open.set()
        assert self._open.wait(60)


def measure(gate: Gate, plan: Plan, protocol: str = "grpc", processes: int = 1) -> LoadResult:
    with serving(gate, protocol) as address:
        subject = Subject(Target.checked(address, "fake", 60.0), protocol, TEXT, ("a", "bc"), WARMUP)
        with client_processes(subject, processes) as clients:
            return clients.run(plan)


@pytest.mark.parametrize(
    ("arrivals", "protocol", "processes"), [("constant", "grpc", 1), ("poisson", "grpc", 2), ("constant", "http", 2)]
)
def test_an_open_loop_sends_all_while_nothing_is_answered_and_counts_from_the_intended_sending(
    arrivals: str, protocol: str, processes: int
) -> None:
    plan = Open(50.0, 2.0, "poisson" if arrivals == "poisson" else "constant", seed=1)
    due = plan.schedule()
    gate = Gate(processes * WARMUP, len(due))
    result = measure(gate, plan, protocol, processes)
    assert (result.errors, result.processes, gate.waiting) == ({}, processes, len(due))
    assert np.allclose(result.due, due)
    assert (result.latencies_ms >= 1e3 * (due[-1] - due)).all(), "none is answered before the last one is sent"


@pytest.mark.parametrize("clients", [1, 4])
def test_a_closed_loop_sends_nothing_while_it_waits_and_the_correction_puts_that_back(clients: int) -> None:
    stall, before = 1.0, 20
    gate = Gate(WARMUP + before, clients, stall)
    result = measure(gate, Closed(clients, stall + 1.0))
    assert gate.waiting == clients, "no more than its clients had a request in the stall"
    assert result.errors == {}
    assert np.count_nonzero(result.latencies_ms >= 1e3 * stall) >= clients
    assert result.interval_ms is not None
    left_out = len(result.corrected_ms) - len(result.latencies_ms)
    assert left_out >= clients * (1e3 * stall // result.interval_ms - 1)
    measured, corrected = (np.mean(values > 500 * stall) for values in (result.latencies_ms, result.corrected_ms))
    assert corrected > measured


def test_the_benchmark_s_server_answers_late_what_comes_in_its_stall() -> None:
    known = Known(0.01, (0.5, 1.5))
    with running(known, skip=WARMUP) as address:
        subject = Subject(Target.checked(address, "fake", 20.0), "grpc", TEXT, ("a",), WARMUP)
        with client_processes(subject, 1) as clients:
            result = clients.run(Open(50.0, 1.0, "constant"))
    assert result.errors == {}
    assert (result.latencies_ms >= 1e3 * known.service).all()
    assert result.done.max() >= known.stall[1], "counted from its first request, which comes after it was due"
    due = np.arange(0, 2, 0.001)
    theory = np.percentile(known.latencies_ms(due), (50, 75, 90), method="inverted_cdf")
    assert [known.quantile_ms(percent, 2.0) for percent in (50, 75, 90)] == pytest.approx(theory, abs=1)
