"""What no client should send, sent raw to a real Triton: each is answered, and the server goes on answering."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from queue import Queue

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from bantam.artifact import Artifact
from serving.backend.engine import Engine
from serving.container import Container
from serving.repository import publish
from serving.server import Server
from serving.tritonserver import serving_python
from tests.plugins.images import contained

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not serving_python().exists(), reason=f"no serving environment at {serving_python()}"),
]
IMAGE = (pytest.mark.docker, pytest.mark.index, pytest.mark.slow)


@pytest.fixture(scope="module")
def pairs_artifact(make_artifact: Callable[..., Artifact]) -> Artifact:
    """A regression on pairs."""
    return make_artifact(task="regression", labels=("relatedness",), pair=True)


@pytest.fixture(scope="module", params=["inline", "isolated", pytest.param("image", marks=IMAGE)])
def server(
    request: pytest.FixtureRequest,
    tiny_artifact: Artifact,
    pairs_artifact: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server | Container]:
    root = tmp_path_factory.mktemp("bad-input")
    publish(tiny_artifact, root, "tiny", thresholds=[0.5, 0.5, 0.5])
    publish(pairs_artifact, root, "pairs", thresholds=None)
    if request.param == "image":
        with contained(root, request.getfixturevalue("server_image")) as container:
            yield container
    else:
        with Server(root, isolated=request.param == "isolated") as running:
            yield running


@pytest.fixture(scope="module")
def client(server: Server | Container) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.grpc_address) as connected:
        yield connected


@pytest.fixture(scope="module")
def engine(tiny_artifact: Artifact) -> Engine:
    return Engine(tiny_artifact.folder, threads=1)


@pytest.fixture(autouse=True)
def _still_answers_correctly(client: grpcclient.InferenceServerClient, engine: Engine) -> Iterator[None]:
    yield
    np.testing.assert_allclose(infer(client, [b"i love it"]), engine.probabilities(["i love it"]), atol=1e-6)


def infer(client: grpcclient.InferenceServerClient, texts: list[bytes]) -> np.ndarray:
    tensor = grpcclient.InferInput("TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=np.object_))
    scores: np.ndarray = client.infer("tiny", [tensor], client_timeout=60).as_numpy("SCORES")
    return scores


@pytest.mark.parametrize(
    "text",
    [
        "",
        "love " * 200_000,
        "x" * 1_000_000,
        "love\x00hate\x00",
        "😀👩‍👩‍👧‍👦🏳️‍🌈",
        "\ufeff\u202elove",
        "\n\t ",
        "爱 الحب प्यार",
    ],
    ids=["empty", "1 MB of words", "1 MB word", "NUL", "emoji", "marks", "blank", "scripts"],
)
def test_odd_texts_have_scores(client: grpcclient.InferenceServerClient, engine: Engine, text: str) -> None:
    np.testing.assert_allclose(infer(client, [text.encode()]), engine.probabilities([text]), atol=1e-6)


def test_invalid_utf8_is_named(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"TEXT\[1\] is not UTF-8: byte 0xff at position 3") as caught:
        infer(client, [b"love", b"abc\xff"])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_invalid_utf8_does_not_fail_the_requests_batched_with_it(
    client: grpcclient.InferenceServerClient, engine: Engine
) -> None:
    answers: Queue[tuple[int, grpcclient.InferResult | None, InferenceServerException | None]] = Queue()
    for i in range(60):
        tensor = grpcclient.InferInput("TEXT", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"\xff" if i % 3 == 0 else b"so much fear"]], dtype=np.object_))
        client.async_infer("tiny", [tensor], lambda result, error, i=i: answers.put((i, result, error)))
    expected = engine.probabilities(["so much fear"])
    for _ in range(60):
        i, result, error = answers.get(timeout=30)
        if i % 3 == 0:
            assert "not UTF-8" in str(error)
        else:
            assert result is not None, error
            np.testing.assert_allclose(result.as_numpy("SCORES"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "dtype", "array", "message"),
    [
        ([1, 1], "FP32", np.zeros((1, 1), dtype=np.float32), "data-type"),
        ([1, 1], "INT64", np.zeros((1, 1), dtype=np.int64), "data-type"),
        ([1], "BYTES", np.array([b"love"], dtype=np.object_), "shape"),
        ([1, 2], "BYTES", np.array([[b"love", b"hate"]], dtype=np.object_), "shape"),
        ([1, 1, 1], "BYTES", np.array([[[b"love"]]], dtype=np.object_), "shape"),
    ],
)
def test_wrong_type_or_shape(
    client: grpcclient.InferenceServerClient, shape: list[int], dtype: str, array: np.ndarray, message: str
) -> None:
    tensor = grpcclient.InferInput("TEXT", shape, dtype)
    tensor.set_data_from_numpy(array)
    with pytest.raises(InferenceServerException, match=message):
        client.infer("tiny", [tensor])


def test_no_text_at_all(client: grpcclient.InferenceServerClient) -> None:
    tensor = grpcclient.InferInput("TEXT", [0, 1], "BYTES")
    tensor._raw_content = b""
    with pytest.raises(InferenceServerException, match="got 0"):
        client.infer("tiny", [tensor])


def test_wrong_input_name(client: grpcclient.InferenceServerClient) -> None:
    tensor = grpcclient.InferInput("TEXTS", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"love"]], dtype=np.object_))
    with pytest.raises(InferenceServerException, match="TEXTS"):
        client.infer("tiny", [tensor])


def test_bytes_that_do_not_fit_their_length(client: grpcclient.InferenceServerClient) -> None:
    tensor = grpcclient.InferInput("TEXT", [1, 1], "BYTES")
    tensor._raw_content = b"\xff\xff\xff\x7flove"  # says 2 GB, has 4 bytes
    with pytest.raises(InferenceServerException):
        client.infer("tiny", [tensor])


def ask_pairs(client: grpcclient.InferenceServerClient, rows: list[list[bytes]]) -> np.ndarray:
    tensor = grpcclient.InferInput("TEXT", [len(rows), len(rows[0])], "BYTES")
    tensor.set_data_from_numpy(np.array(rows, dtype=np.object_))
    scores: np.ndarray = client.infer("pairs", [tensor], client_timeout=60).as_numpy("SCORES")
    return scores


def test_pairs_have_the_scores_of_the_engine(
    client: grpcclient.InferenceServerClient, pairs_artifact: Artifact
) -> None:
    pairs = [("i love it", "hate"), ("hate", "i love it"), ("", ""), ("so much \x00", "😀"), ("love " * 99, "x" * 9999)]
    pairs += [("very " * (i % 17), "day " * (i % 23)) for i in range(59)]
    found = ask_pairs(client, [[one.encode(), other.encode()] for one, other in pairs])
    expected = Engine(pairs_artifact.folder, threads=1).probabilities(pairs)
    assert found.shape == (64, 1)
    assert (expected.min() < 0) or (expected.max() > 1), "logits, not probabilities"
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_half_a_pair_is_refused(client: grpcclient.InferenceServerClient) -> None:
    for rows in ([[b"alone"]], [[b"one", b"two", b"three"]]):
        with pytest.raises(InferenceServerException, match="shape"):
            ask_pairs(client, rows)


def test_invalid_utf8_in_a_pair_is_named(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"TEXT\[1, 0\] is not UTF-8: byte 0xff at position 1"):
        ask_pairs(client, [[b"a", b"b"], [b"c\xff", b"d"]])


def test_pairs_are_counted_as_one_by_triton(client: grpcclient.InferenceServerClient) -> None:
    def inferences() -> int:
        (model,) = client.get_inference_statistics("pairs").model_stats
        return int(model.inference_count)

    before = inferences()
    ask_pairs(client, [[b"a", b"b"]] * 5)
    deadline = time.monotonic() + 10
    while inferences() == before and time.monotonic() < deadline:  # counted once the answer is out
        time.sleep(0.02)
    assert inferences() == before + 5


def test_ten_thousand_texts_in_one_call(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"batch-size must be <= 64"):
        infer(client, [b"love"] * 10_000)


def test_as_many_texts_as_are_allowed(client: grpcclient.InferenceServerClient, engine: Engine) -> None:
    texts = [f"i love it {'very ' * (i % 17)}" for i in range(64)]
    np.testing.assert_allclose(infer(client, [t.encode() for t in texts]), engine.probabilities(texts), atol=1e-6)


@pytest.mark.parametrize(
    "body", [b"{", b'{"inputs": 3}', b"\x00" * 100, b"[" * 100_000], ids=["cut", "no list", "NUL", "deep"]
)
def test_http_bodies_that_are_no_request(server: Server | Container, body: bytes) -> None:
    host, port = server.http_address.split(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        connection.request("POST", "/v2/models/tiny/infer", body)
        response = connection.getresponse()
        assert response.status in (400, 500)
        assert json.loads(response.read())["error"]
