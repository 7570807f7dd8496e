"""The client against a server of its own protocol that refuses, hangs up, stalls or answers nonsense on command."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from bantam.client.classifier import Classifier
from bantam.errors import (
    ClientError,
    InvalidInputError,
    ModelNotFoundError,
    TimeoutExceeded,
    UnavailableError,
)
from tests.client.fake_kserve import PARAMETERS, Fake, Protocol, Script


@pytest.fixture(params=["grpc", "http"])
def fake(request: pytest.FixtureRequest) -> Iterator[Fake]:
    server = Fake(request.param, Script())
    yield server
    server.stop()


def ask(fake: Fake, twin: str, texts: list[str], **options: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores by the sync or the async client, which must not differ in anything."""
    if twin == "sync":
        with fake.client(**options) as classify:
            return classify.probabilities(texts)

    async def run() -> np.ndarray[Any, np.dtype[np.float32]]:
        async with fake.async_client(**options) as classify:
            return await classify.probabilities(texts)

    return asyncio.run(run())


both = pytest.mark.parametrize("twin", ["sync", "async"])


@both
def test_refusals_are_retried(fake: Fake, twin: str) -> None:
    fake.script.faults = ["unavailable", "stopping", "unavailable"]
    assert ask(fake, twin, ["12345"], retries=3).tolist() == [[0.5, 0.5]]
    assert fake.script.requests == 4


def test_a_call_that_is_under_way_while_its_client_is_closed_is_not_tried_again(fake: Fake) -> None:
    if fake.protocol == "http":  # answers on a closed connection all the same
        return
    with ThreadPoolExecutor(1) as pool:
        classify = fake.client(retries=3)
        classify("12345")
        fake.script.faults = ["stall"]
        answer = pool.submit(classify, "12345")
        while fake.script.faults:
            time.sleep(0.01)
        classify.close()
        with pytest.raises(ClientError, match="Channel closed"):
            answer.result()


@both
def test_retries_come_to_an_end(fake: Fake, twin: str) -> None:
    fake.script.faults = ["unavailable"] * 9
    with pytest.raises(UnavailableError, match=r"'fake' at 127\.0\.0\.1:\d+ is unavailable: told to be") as caught:
        ask(fake, twin, ["a"], retries=2)
    assert fake.script.requests == 3
    assert caught.value.__cause__ is not None or fake.protocol == "http"


@both
def test_a_server_is_told_how_much_time_is_left(fake: Fake, twin: str) -> None:
    fake.script.faults = ["unavailable"] if fake.protocol == "grpc" else []
    ask(fake, twin, ["12345"], timeout=20)
    assert all(0 < timeout <= 20_000_000 for timeout in fake.script.timeouts)
    assert fake.script.timeouts == sorted(fake.script.timeouts, reverse=True)
    assert len(fake.script.timeouts) == fake.script.requests


@both
def test_an_overloaded_server_is_not_taken_for_one_that_is_away(fake: Fake, twin: str) -> None:
    fake.script.faults = ["overloaded"] * 2
    with pytest.raises(UnavailableError, match=r"is overloaded: told to be overloaded\. Send less at a time"):
        ask(fake, twin, ["a"], retries=1)
    assert fake.script.requests == 2
    assert fake.script.greetings == 0, "there is nothing to connect to anew"


@both
def test_a_server_that_knows_that_it_will_be_late_is_not_asked_again(fake: Fake, twin: str) -> None:
    fake.script.faults = ["too late"]
    with pytest.raises(TimeoutExceeded, match=r"No answer from model 'fake' .* within 7 s\. Allow more"):
        ask(fake, twin, ["1"], retries=3, timeout=7.0)
    assert fake.script.requests == 1


@both
def test_who_waits_for_ever_may(fake: Fake, twin: str) -> None:
    assert ask(fake, twin, ["12345"], timeout=1e9).tolist() == [[0.5, 0.5]]
    assert fake.script.timeouts == [10**9]


def test_retries_are_held_back_while_most_requests_fail(fake: Fake) -> None:
    with fake.client(retries=3, timeout=60) as classify:
        classify("12345")
        fake.script.faults = ["unavailable"] * 1000
        before = fake.script.requests
        for _ in range(60):
            with pytest.raises(UnavailableError):
                classify("12345")
        failed = fake.script.requests - before
        assert 60 + 30 <= failed <= 60 + 50, "50 failures may be followed by another try, and no more"
        fake.script.faults = []
        for _ in range(600):  # ten answers give one try back
            classify("12345")
        fake.script.faults = ["unavailable"]
        assert classify("12345").labels == ["short", "long"]


@both
def test_retries_stay_within_the_time_out(fake: Fake, twin: str) -> None:
    fake.script.faults = ["unavailable"] * 10_000
    begun = time.monotonic()
    with pytest.raises((UnavailableError, TimeoutExceeded)):  # the latter, if it comes while a try is under way
        ask(fake, twin, ["a"], retries=10_000, timeout=0.5)
    assert time.monotonic() - begun < 2.5  # 0.5 s, and as much again for the config; the rest is a slow machine
    assert fake.script.requests > 1


@both
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("invalid", InvalidInputError, "refused the input: told to be invalid"),
        ("missing", ModelNotFoundError, "No model 'fake' at .*told to be missing.*Check the name"),
        ("broken", ClientError, "failed: .*told to be broken.*log says more"),
    ],
)
def test_other_errors_are_final(fake: Fake, twin: str, fault: str, error: type[ClientError], words: str) -> None:
    fake.script.faults = [fault]
    with pytest.raises(error, match=words) as caught:
        ask(fake, twin, ["a"])
    assert type(caught.value) is error
    assert fake.script.requests == 1


@both
def test_a_server_that_stalls_is_not_waited_for(fake: Fake, twin: str) -> None:
    fake.script.faults = ["stall"]
    begun = time.monotonic()
    with pytest.raises(TimeoutExceeded, match=r"No answer from model 'fake' .* within 0\.3 s"):
        ask(fake, twin, ["a"], timeout=0.3)
    assert time.monotonic() - begun < 0.95, "it came back before the server did"
    assert fake.script.requests == 1, "a time-out is not retried"


@both
def test_a_connection_that_the_server_drops_is_opened_again(twin: str) -> None:
    server = Fake("http", Script())
    server.script.faults = ["hang up", "hang up"]
    assert ask(server, twin, ["12345"]).tolist() == [[0.5, 0.5]]
    assert server.script.requests == 3
    server.stop()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_restarts_is_found_again(protocol: Protocol) -> None:
    first = Fake(protocol, Script())
    with first.client(timeout=20, retries=100) as classify:
        assert classify("12345").scores == {"short": 0.5, "long": 0.5}
        first.stop()
        restart = threading.Timer(0.5, lambda: second.append(Fake(protocol, Script(), first.port)))
        second: list[Fake] = []
        restart.start()
        assert classify("1234567890").labels == ["long"]
        restart.join()
    second[0].stop()


def test_requests_that_are_not_repeated_find_a_server_that_came_back() -> None:
    first = Fake("grpc", Script())
    with first.client(timeout=20, retries=0) as classify:
        assert classify("12345").labels == ["short", "long"]
        first.stop()
        for _ in range(20):  # each fails at once, or after a moment
            with pytest.raises(UnavailableError):
                classify("12345")
        second = Fake("grpc", Script(), first.port)
        failed = 0
        while True:
            try:
                assert classify("1234567890").labels == ["long"]
                break
            except UnavailableError:
                failed += 1
                assert failed < 20
    second.stop()


@both
def test_long_lists_are_split_and_bounded_and_stay_in_order(fake: Fake, twin: str) -> None:
    fake.script.pause = 0.02
    texts = ["x" * (i % 11) for i in range(42)]
    scores = ask(fake, twin, texts, in_flight=3)
    assert scores.dtype == np.float32
    assert scores[:, 1] == pytest.approx([len(text) / 10 for text in texts])
    assert sorted(fake.script.batches) == [2] + [4] * 10
    assert 1 < fake.script.most_under_way <= 3


@both
def test_one_failed_batch_fails_the_call(fake: Fake, twin: str) -> None:
    fake.script.faults = ["", "broken"]
    with pytest.raises(ClientError, match="told to be broken"):
        ask(fake, twin, ["x"] * 400)
    assert fake.script.requests < 100, "what was not sent yet is dropped"


def test_threads_share_a_client(fake: Fake) -> None:
    texts = ["x" * (i % 11) for i in range(9)]
    with fake.client() as classify, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: classify.probabilities(texts[:n])[:, 1].tolist(), [i % 10 for i in range(200)])
        )
    expected = (np.array([len(text) for text in texts], dtype=np.float32) / 10).tolist()
    assert answers == [expected[: i % 10] for i in range(200)]


def test_many_coroutines_share_a_client(fake: Fake) -> None:
    async def run() -> list[float]:
        async with fake.async_client() as classify:
            predictions = await asyncio.gather(*(classify("x" * (i % 11)) for i in range(100)))
            return [prediction.scores["long"] for prediction in predictions]

    assert asyncio.run(run()) == pytest.approx([(i % 11) / 10 for i in range(100)])


def test_the_config_is_read_once_and_by_the_first_call(fake: Fake) -> None:
    with fake.client() as classify:
        assert fake.script.configs == 0
        for _ in range(3):
            classify("a")
        assert classify.describe().labels == ("short", "long")
    assert fake.script.configs == 1


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "not a text classifier's .*task"),
        ({**PARAMETERS, "labels": "short,long"}, "not a text classifier's"),
        ({**PARAMETERS, "thresholds": "[0.5]"}, "1 thresholds for 2 labels"),
        ({**PARAMETERS, "task": "translation"}, "task is 'translation'"),
    ],
)
def test_a_model_that_is_no_classifier_is_told(fake: Fake, parameters: dict[str, str], words: str) -> None:
    fake.script.parameters = parameters
    with fake.client() as classify, pytest.raises(ClientError, match=words):
        classify("a")


def test_without_thresholds_a_label_needs_a_half(fake: Fake) -> None:
    fake.script.parameters = {key: value for key, value in PARAMETERS.items() if key != "thresholds"}
    with fake.client() as classify:
        labels = [prediction.labels for prediction in classify(["1234", "12345", "123456"])]
    assert labels == [["short"], ["short", "long"], ["long"]]


def test_scores_that_do_not_fit_the_labels_are_told(fake: Fake) -> None:
    fake.script.width = 3
    with fake.client() as classify, pytest.raises(ClientError, match=r"3 scores a text.*2 labels.*Make a new client"):
        classify("a")


@both
def test_a_closed_client_says_so(fake: Fake, twin: str) -> None:
    if twin == "sync":
        classify = fake.client()
        classify.close()
        with pytest.raises(ClientError, match=r"closed\. Make a new one"):
            classify("a")
        return

    async def run() -> None:
        classify = fake.async_client()
        await classify("a")
        await classify.close()
        with pytest.raises(ClientError, match=r"closed\. Make a new one"):
            await classify("a")

    asyncio.run(run())


@pytest.mark.parametrize("content", [b"<html>welcome</html>", b"[]", b'{"parameters": {"task": "single_label"}}'])
def test_what_is_no_model_server_is_told(content: bytes) -> None:
    class Page(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                Classifier(f"127.0.0.1:{server.server_port}", "it", protocol="http") as classify,
                pytest.raises(ClientError, match=r"'it' at 127.* gave no answer of a model server") as caught,
            ):
                classify("text")
        finally:
            server.shutdown()
    assert caught.value.__cause__ is not None
