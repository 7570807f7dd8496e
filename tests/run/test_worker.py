"""The loop that times texts: its errors, its garbage, and requests from another process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from bantam.run.worker import Lister, Requester, timed
from tests.run.rig import TEXTS

PARAMETERS = {"task": "single_label", "labels": '["no", "yes"]'}


def test_the_loop_counts_what_fails_and_collects_no_garbage() -> None:
    collecting: list[bool] = []

    def send(text: object) -> None:
        collecting.append(gc.isenabled())
        if text == "b":
            raise ValueError

    found = timed(send, TEXTS)
    assert np.isnan(found.latencies_ms).tolist() == [False, True, False, False]
    assert found.errors == {"ValueError": 1}
    assert collecting == [False] * 4
    assert gc.isenabled()


def test_a_lister_gives_each_text_its_share_of_the_time_of_a_list() -> None:
    lister = object.__new__(Lister)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lister, "throughput", lambda self, texts, seconds: len(texts) * 100.0)
        found = lister.timed(TEXTS)
    assert found.latencies_ms.tolist() == [1e3 / (100.0 * len(TEXTS))] * len(TEXTS)
    assert not found.errors


def test_requests_are_sent_once_from_another_process_and_their_errors_come_back() -> None:
    asked: list[str] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(context.peer())
        context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded")
        return b""

    with serving(answer) as address, Requester() as requester:
        found = requester.timed(address, "it", TEXTS)
        sent = len(asked)
        borne = requester.max_rate(address, "it", TEXTS, slo_ms=50.0, seconds=0.1)
    assert sent == 2 * len(TEXTS), "each text once, and once to wake the server up"
    assert found.errors == {"UnavailableError": sent}
    assert np.isnan(found.latencies_ms).all()
    assert (borne.rate, borne.errors["UnavailableError"]) == (None, len(asked) - sent)


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """A server that describes a model, and answers requests as told."""
    config = service_pb2.ModelConfigResponse()
    config.config.max_batch_size = 8
    for key, value in PARAMETERS.items():
        config.config.parameters[key].string_value = value
    handlers = {
        "ModelConfig": grpc.unary_unary_rpc_method_handler(lambda request, context: config.SerializeToString()),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(answer),
    }
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()
