"""The load tester, whole and in processes of its own, against a server whose latency is known."""

from __future__ import annotations

import numpy as np
import pytest

from bantam.client.transport import Target
from bantam.loadtest.kserve import ENDPOINTS, find_input
from bantam.loadtest.loop import arrival_times
from bantam.loadtest.processes import Closed, Open, Plan, Subject, client_processes
from bantam.loadtest.result import LoadResult
from tests.loadtest.stall_server import Known, running

SECONDS = 8.0
STALL = (2.0, 5.0)
SERVICE = 0.3
"""Both so long that a machine that is busy meanwhile does not matter at the 5% that are asked: 15 ms of the median."""
RATE, WARMUP = 50.0, 5
PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
TOLERANCE = 0.05


def measure(known: Known, plan: Plan, protocol: str = "grpc", processes: int = 1) -> LoadResult:
    """One test of a stalling server."""
    with running(known, protocol=protocol, skip=processes * WARMUP) as address:
        target = Target.checked(address, "fake", 20.0)
        endpoint = ENDPOINTS[protocol](target)
        subject = Subject(target, protocol, find_input(endpoint.inputs(), target), ("a", "bc"), WARMUP)
        endpoint.close()
        with client_processes(subject, processes) as clients:
            return clients.run(plan)


@pytest.mark.parametrize(
    ("arrivals", "protocol", "processes"), [("constant", "grpc", 1), ("poisson", "grpc", 2), ("constant", "http", 2)]
)
def test_open_loop_meets_the_analytic_percentiles(arrivals: str, protocol: str, processes: int) -> None:
    plan = Open(RATE, SECONDS, "poisson" if arrivals == "poisson" else "constant", seed=1)
    known = Known(SERVICE, STALL)
    result = measure(known, plan, protocol, processes)
    due = arrival_times(plan.rate, plan.seconds, plan.arrivals, plan.seed)
    assert result.errors == {}
    assert np.allclose(result.due, due)
    expected = np.percentile(known.latencies_ms(due), PERCENTS, method="inverted_cdf")
    assert [found.ms for found in result.percentiles(PERCENTS)] == pytest.approx(expected, rel=TOLERANCE)
    if arrivals == "constant":
        theory = [known.quantile_ms(percent, SECONDS) for percent in PERCENTS]
        assert [found.ms for found in result.percentiles(PERCENTS)] == pytest.approx(theory, rel=TOLERANCE)
    assert result.processes == processes


@pytest.mark.parametrize("clients", [1, 4])
def test_closed_loop_meets_them_when_corrected_and_is_off_by_an_order_of_magnitude_when_not(clients: int) -> None:
    known = Known(0.02, STALL)
    result = measure(known, Closed(clients, SECONDS))
    tail = PERCENTS[1:]  # at 20 ms, the median tells how busy the machine is
    theory = [known.quantile_ms(percent, SECONDS) for percent in tail]
    assert [found.ms for found in result.corrected_percentiles(tail)] == pytest.approx(theory, rel=TOLERANCE)
    assert result.latencies_ms.max() > 2500, "the stall did happen"
    for percent, expected in zip(tail[:3], theory, strict=False):
        assert expected > 10 * result.percentile_ms(percent), "what a tester says that waits for the answer"
