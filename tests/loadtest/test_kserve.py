"""The tester's own client and processes, against a fake server on both protocols."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from bantam.artifact import Text
from bantam.client.transport import Target
from bantam.errors import ClientError, UnavailableError, UserError
from bantam.loadtest.host import HostWatch
from bantam.loadtest.kserve import ENDPOINTS, KserveEndpoint, ModelInput, find_input
from bantam.loadtest.open_loop import Starter
from bantam.loadtest.plan import Closed, Open
from bantam.loadtest.processes import Clients, Subject, Underway, client_processes
from bantam.loadtest.request import LoadTestRequest
from bantam.loadtest.run import _texts as load_test_texts
from tests.client.fake_kserve import PARAMETERS, Fake, Protocol, Script

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")
TEXT = ModelInput("TEXT", "BYTES", (-1, 1))


@pytest.fixture(params=PROTOCOLS)
def fake(request: pytest.FixtureRequest) -> Iterator[Fake]:
    server = Fake(request.param, Script())
    yield server
    server.stop()


@contextmanager
def connected(fake: Fake, timeout: float = 5.0) -> Iterator[tuple[KserveEndpoint, Target]]:
    target = Target.checked(fake.address, "fake", timeout)
    endpoint = ENDPOINTS[fake.protocol](target)
    try:
        yield endpoint, target
    finally:
        endpoint.close()


@contextmanager
def clients(fake: Fake, count: int = 1, warmup: int = 0, timeout: float = 5.0) -> Iterator[Clients]:
    target = Target.checked(fake.address, "fake", timeout)
    with client_processes(Subject(target, fake.protocol, TEXT, ("a", "bc", "def"), warmup), count) as found:
        yield found


def test_the_input_is_found_in_the_metadata(fake: Fake) -> None:
    fake.script.inputs = [{"name": "sentence", "datatype": "BYTES", "shape": [-1]}]
    with connected(fake) as (endpoint, target):
        tensor = find_input(endpoint.inputs(), target)
        assert tensor == ModelInput("sentence", "BYTES", (-1,))
        endpoint(endpoint.request("four", tensor))
    assert fake.script.batches == [1]


@pytest.mark.parametrize(
    ("inputs", "name", "found"),
    [
        ([ModelInput("ids", "INT64", (-1, -1))], None, "ids INT64"),
        ([TEXT, ModelInput("lang", "BYTES", (-1, 1))], None, "lang BYTES"),
        ([TEXT], "text", "with the name 'text'"),
        ([], None, "none described"),
    ],
)
def test_inputs_that_are_no_single_text_are_refused(inputs: list[ModelInput], name: str | None, found: str) -> None:
    with pytest.raises(UserError, match=found):
        find_input(inputs, Target("localhost:1", "m", 1.0), name)


def test_an_input_that_is_not_described_can_be_named() -> None:
    assert find_input([], Target("localhost:1", "m", 1.0), "args") == ModelInput("args", "BYTES", (-1,))


def test_a_pair_is_one_request(fake: Fake) -> None:
    fake.script.inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 2]}]
    fake.script.parameters = {**PARAMETERS, "pair": "true"}
    with connected(fake) as (endpoint, target):
        tensor = find_input(endpoint.inputs(), target)
        subject = Subject(target, fake.protocol, tensor, [("a", "bc"), ("", "d")], 0)
        for text in subject.texts:
            endpoint(endpoint.request(text, tensor))
    assert fake.script.batches == [1, 1]


@pytest.mark.parametrize(
    ("shape", "texts", "message"),
    [
        (
            (-1, 2),
            ["a"],
            r"takes a pair of texts in a request \(TEXT \[-1, 2\]\), and the data has one text, such as 'a'",
        ),
        (
            (-1, 1),
            ["a", ("b", "c")],
            r"takes one text in a request \(TEXT \[-1, 1\]\), .* a pair of texts, such as \('b', ",
        ),
        ((-1,), [("b", "c")], r"takes one text .*Test it with data of its kind: --data"),
        ((-1, 3), ["a"], "takes 3 texts in a request"),
    ],
)
def test_texts_of_the_other_kind_are_refused_before_the_test(
    shape: tuple[int, ...], texts: list[Text], message: str
) -> None:
    target = Target("localhost:1", "m", 1.0)
    with pytest.raises(UserError, match=message):
        Subject(target, "grpc", ModelInput("TEXT", "BYTES", shape), texts, 0)


def test_the_words_of_pairs_are_those_of_each_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("premise,hypothesis\na b c,d\n,e\n", encoding="utf-8")
    cut = load_test_texts(LoadTestRequest(data=str(path), words=2))
    assert cut == (("a b", "d d"),)
    (tmp_path / "texts.txt").write_text("a b c\nd\n", encoding="utf-8")
    assert load_test_texts(LoadTestRequest(data=str(tmp_path / "texts.txt"), words=2)) == ("a b", "d d")


def test_statistics_tell_what_happened_between_two_readings(fake: Fake) -> None:
    with connected(fake) as (endpoint, _):
        endpoint(endpoint.request("a", TEXT))
        before = endpoint.statistics()
        for _ in range(3):
            endpoint(endpoint.request("a", TEXT))
        after = endpoint.statistics()
        assert before is not None
        assert after is not None
        split = after.since(before)
        assert after.since(after) is None
    assert split is not None
    assert split.requests == 3
    assert (split.queue, split.compute_input, split.compute_infer, split.compute_output) == pytest.approx(
        (1, 0.1, 2, 0.2)
    )


def test_a_server_that_is_no_triton_has_no_statistics(fake: Fake) -> None:
    fake.script.counts = False
    with connected(fake) as (endpoint, _):
        assert endpoint.statistics() is None


def test_errors_are_counted_by_kind_and_the_next_requests_go_on(fake: Fake) -> None:
    with clients(fake) as found:
        fake.script.faults = ["unavailable", "invalid", "broken", "unavailable"]
        result = found.run(Open(50, 1.0, "constant"))
    assert result.errors == {"UnavailableError": 2, "InvalidInputError": 1, "ClientError": 1}
    assert len(result.latencies_ms) == 46


def test_a_request_that_takes_too_long_has_failed(fake: Fake) -> None:
    with clients(fake, timeout=0.3) as found:
        fake.script.faults = ["stall"]
        result = found.run(Open(10, 0.5, "constant"))
    assert result.errors == {"TimeoutExceeded": 1}


def test_several_processes_play_one_schedule(fake: Fake) -> None:
    states: list[Underway] = []
    with clients(fake, count=2, warmup=3) as found:
        assert fake.script.requests == 6
        result = found.run(Open(100, 1.5, "poisson", seed=5), states.append)
        closed = found.run(Closed(1, 0.2))
    sent = len(result.due)
    assert result.processes == 2
    assert result.due[0] == 0
    assert len(np.unique(result.due)) == sent
    assert sorted(fake.script.batches) == [1] * (sent + 6 + len(closed.due))
    assert states[-1].sent == states[-1].answered == sent
    assert sum(len(state.recent_ms) for state in states) == sent
    assert (closed.clients, closed.processes) == (1, 1)


def test_a_step_that_is_lost_ends_early_in_all_processes(fake: Fake) -> None:
    fake.script.pause = 0.05
    with clients(fake, count=2) as found:
        begun = time.perf_counter()
        result = found.run(Open(20, 60, "constant", slo_ms=10, share=0.99))
        again = found.run(Closed(2, 0.3))
    assert time.perf_counter() - begun < 30
    assert len(result.due) < 1200
    assert result.share_within(10) < 0.99
    assert len(again.due) >= 2, "the order to stop was for that step alone"


def test_a_server_that_is_not_there_is_an_error_before_the_test() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    subject = Subject(Target.checked(address, "m", 1.0), "http", TEXT, ("a",), 1)
    with pytest.raises(UnavailableError, match="Check that the server runs"), client_processes(subject, 1):
        pass


def test_a_process_that_is_killed_is_an_error(fake: Fake) -> None:
    with clients(fake) as found:
        (process,) = (child for child in multiprocessing.active_children() if child.name == "bantam-load-test")
        killer = threading.Timer(0.5, process.kill)
        killer.start()
        with pytest.raises(ClientError, match="ended by itself"):
            found.run(Open(20, 20))
        killer.join()


def test_grpc_begins_requests_without_a_thread_each() -> None:
    target = Target("localhost:1", "m", 1.0)
    kinds = {}
    for protocol, make in ENDPOINTS.items():
        endpoint = make(target)
        kinds[protocol] = isinstance(endpoint, Starter)
        endpoint.close()
    assert kinds == {"grpc": True, "http": False}


def test_the_server_process_is_found_by_its_port(fake: Fake) -> None:
    watch = HostWatch(fake.address)
    assert watch.reason is None
    watch.start()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        watch.sample()
    usage = watch.stop(0.2)
    assert usage is not None
    assert usage.cores >= 0.5, "this process is the server, and it was busy"
    assert usage.peak_mb >= psutil.Process(os.getpid()).memory_info().rss / 2e6


@pytest.mark.parametrize(("address", "reason"), [("192.0.2.1:8001", "another machine"), ("127.0.0.1:1", "port 1")])
def test_a_server_elsewhere_is_not_watched_and_that_is_said(address: str, reason: str) -> None:
    watch = HostWatch(address)
    watch.start()
    assert watch.stop(1.0) is None
    assert watch.reason is not None
    assert reason in watch.reason
