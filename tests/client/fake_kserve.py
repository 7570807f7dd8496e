"""A server of the KServe v2 protocol, gRPC or HTTP, that refuses, hangs up, stalls or answers nonsense on command."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam import AsyncClassifier, Classifier
from bantam.client.transport import encode

Protocol = Literal["grpc", "http"]
PARAMETERS = {"task": "multi_label", "labels": '["short", "long"]', "thresholds": "[0.5, 0.5]"}
STATUS = {"unavailable": 503, "invalid": 400, "missing": 404, "broken": 500}
CODE = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "missing": grpc.StatusCode.NOT_FOUND,
    "broken": grpc.StatusCode.INTERNAL,
}


class Script:
    """What the fake does with each request: the next of ``faults``, then for ever a right answer.

    A right answer scores a text of n characters ``[1 - n/10, n/10]``.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.parameters: Mapping[str, str] = PARAMETERS
        self.width = 2
        self.inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 1]}]
        self.counts = True
        self.pause = 0.0
        self.requests = self.configs = self.under_way = self.most_under_way = 0
        self.batches: list[int] = []
        self._lock = threading.Lock()

    def fault(self) -> str | None:
        with self._lock:
            self.requests += 1
            return self.faults.pop(0) if self.faults else None

    def statistics(self) -> dict[str, Any]:
        """As Triton counts: 1 ms in the queue and 0.1, 2 and 0.2 ms around the model for each request."""
        n = len(self.batches)
        spent = {"queue": 1.0, "compute_input": 0.1, "compute_infer": 2.0, "compute_output": 0.2, "success": 3.3}
        stats = {part: {"count": n, "ns": int(n * ms * 1e6)} for part, ms in spent.items()}
        return {"name": "fake", "version": "1", "inference_count": n, "execution_count": n, "inference_stats": stats}

    def scores(self, raw: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(self.pause)
        lengths, at = [], 0
        while at < len(raw):
            (size,) = struct.unpack_from("<I", raw, at)
            lengths.append(size)
            at += 4 + size
        with self._lock:
            self.under_way -= 1
            self.batches.append(len(lengths))
        tens = np.array(lengths, dtype=np.float32) / 10
        return np.stack([1 - tens] + [tens] * (self.width - 1), axis=1)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, script: Script) -> None:
        self._script = script

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._script.configs += 1
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = 4
        for key, value in self._script.parameters.items():
            answer.config.parameters[key].string_value = value
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=self._script.inputs)

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not self._script.counts:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not a Triton")
        return service_pb2.ModelStatisticsResponse(model_stats=[self._script.statistics()])

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        fault = self._script.fault()
        if fault == "stall":
            time.sleep(1.0)
        elif fault:
            context.abort(CODE[fault], f"told to be {fault}")
        assert request.inputs[0].name == self._script.inputs[0]["name"]
        scores = self._script.scores(request.raw_input_contents[0])
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="SCORES", datatype="FP32", shape=scores.shape)
        answer.raw_output_contents.append(scores.tobytes())
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes; else the second waits 40 ms for an ACK
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("/stats") and not self.script.counts:
            self._send(404, b"")
        elif self.path.endswith("/stats"):
            self._send(200, json.dumps({"model_stats": [self.script.statistics()]}).encode())
        elif self.path.endswith("/config"):
            self._config()
        else:
            self._send(200, json.dumps({"name": "fake", "inputs": self.script.inputs}).encode())

    def _config(self) -> None:
        self.script.configs += 1
        parameters = {key: {"string_value": value} for key, value in self.script.parameters.items()}
        self._send(200, json.dumps({"max_batch_size": 4, "parameters": parameters}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.script.fault()
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(1.0)
        elif fault:
            self._send(STATUS[fault], json.dumps({"error": f"told to be {fault}"}).encode())
            return
        length = self.headers["Inference-Header-Content-Length"]
        if length is None:  # texts as JSON
            (tensor,) = json.loads(body)["inputs"]
            assert (tensor["name"], tensor["datatype"]) == (self.script.inputs[0]["name"], "BYTES")
            scores = self.script.scores(encode([text.encode() for text in tensor["data"]]))
            output = {"name": "SCORES", "datatype": "FP32", "shape": scores.shape, "data": scores.ravel().tolist()}
            self._send(200, json.dumps({"outputs": [output]}).encode())
            return
        scores = self.script.scores(body[int(length) :])
        output = {"name": "SCORES", "datatype": "FP32", "shape": scores.shape}
        header = json.dumps({"outputs": [output]}).encode()
        self._send(200, header + scores.tobytes(), {"Inference-Header-Content-Length": str(len(header))})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the client gave up first, as some tests want


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, the kernel drops the other connections of a burst for seconds


class Fake:
    """A server on a free port."""

    def __init__(self, protocol: Protocol, script: Script, port: int = 0, threads: int = 16) -> None:
        self.protocol, self.script = protocol, script
        self.stop: Callable[[], object]
        if protocol == "grpc":
            server = grpc.server(ThreadPoolExecutor(threads))
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(script), server)
            port = server.add_insecure_port(f"127.0.0.1:{port}")
            server.start()
            self.stop = lambda: server.stop(grace=None).wait()
        else:
            http = HttpServer(("127.0.0.1", port), type("Scripted", (Handler,), {"script": script}))
            port = http.server_address[1]
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()

            def stop() -> None:
                http.shutdown()
                thread.join()
                http.server_close()

            self.stop = stop
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def client(self, **options: Any) -> Classifier:
        return Classifier(self.address, "fake", protocol=self.protocol, **options)

    def async_client(self, **options: Any) -> AsyncClassifier:
        return AsyncClassifier(self.address, "fake", protocol=self.protocol, **options)
