"""A server of the KServe v2 protocol, gRPC or HTTP, that refuses, hangs up, stalls or answers nonsense on command."""

from __future__ import annotations

import json
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam import AsyncClassifier, Classifier
from bantam.client.transport import encode

Protocol = Literal["grpc", "http"]
PARAMETERS = {"task": "multi_label", "labels": '["short", "long"]', "thresholds": "[0.5, 0.5]"}
STATUS = {
    "unavailable": 503,
    "stopping": 503,
    "overloaded": 503,
    "too late": 503,
    "invalid": 400,
    "missing": 404,
    "broken": 500,
    "denied": 401,
}
CODE = {
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "stopping": grpc.StatusCode.CANCELLED,
    "overloaded": grpc.StatusCode.UNAVAILABLE,
    "too late": grpc.StatusCode.UNAVAILABLE,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "missing": grpc.StatusCode.NOT_FOUND,
    "broken": grpc.StatusCode.INTERNAL,
    "denied": grpc.StatusCode.UNAUTHENTICATED,
}
SAID = {
    "overloaded": "Overloaded: told to be overloaded",
    "too late": "Overloaded: this request cannot be answered within the time-out that it has",
}


class Script:
    """What the fake does with each request: the next of ``faults``, then for ever a right answer.

    A right answer scores a text of n characters 1 - n/10 for the label "short" and n/10 for "long", in the order of the
    labels of the version that answers: the next of ``answering``, then for ever the one that is published. A pair
    counts as both of its texts together.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.parameters: Mapping[str, str] = PARAMETERS
        self.version = ""
        """The one that is published; empty for a server that tells none."""
        self.versions: dict[str, Mapping[str, str]] = {}
        """The parameters of others that still run."""
        self.answering: list[str] = []
        self.claimed = ""
        """The version that each config says it is of, if not the one that was asked for; ``untold``: it says none."""
        self.max_batch_size = 4
        self.authorizations: list[str | None] = []
        self.timeouts: list[int] = []
        """Microseconds that requests gave it."""
        self.greetings = 0
        self.width = 2
        self.inputs = [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 1]}]
        self.counts = True
        self.pause = 0.0
        self.requests = self.configs = self.under_way = self.most_under_way = 0
        self.batches: list[int] = []
        self._lock = threading.Lock()

    def publish(self, version: str, parameters: Mapping[str, str]) -> None:
        """Another version takes the place of the one that runs."""
        self.version, self.parameters = version, parameters

    def config(self, version: str) -> Mapping[str, str] | None:
        """The parameters of a version, if it runs."""
        self.configs += 1
        return self.parameters if version in ("", self.version) else self.versions.get(version)

    def claims(self, asked: str) -> str:
        """The version that the config of the one that was asked for says it is of."""
        return "" if self.claimed == "untold" else self.claimed or asked or self.version

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

    def answer(self, raw: bytes) -> tuple[np.ndarray[Any, np.dtype[np.float32]], str]:
        """Scores, and the version that they are of."""
        with self._lock:
            version = self.answering.pop(0) if self.answering else self.version
        parameters = self.versions.get(version, self.parameters)
        scores = self.scores(raw)
        return (scores[:, ::-1].copy() if parameters.get("labels", "").startswith('["long"') else scores), version

    def scores(self, raw: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
        """In the order short, long."""
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        time.sleep(self.pause)
        lengths, at = [], 0
        while at < len(raw):
            (size,) = struct.unpack_from("<I", raw, at)
            lengths.append(size)
            at += 4 + size
        if self.parameters.get("pair"):
            lengths = [one + other for one, other in zip(lengths[::2], lengths[1::2], strict=True)]
        with self._lock:
            self.under_way -= 1
            self.batches.append(len(lengths))
        tens = np.array(lengths, dtype=np.float32) / 10
        return np.stack([1 - tens] + [tens] * (self.width - 1), axis=1)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, script: Script) -> None:
        self._script = script

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        parameters = self._script.config(request.version)
        if parameters is None:
            context.abort(CODE["missing"], f"version {request.version} is not found")
            raise AssertionError("abort raises")
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = self._script.max_batch_size
        version = self._script.claims(request.version)
        answer.config.version_policy.specific.versions.extend([int(version)] if version else [])
        for key, value in parameters.items():
            answer.config.parameters[key].string_value = value
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, inputs=self._script.inputs)

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not self._script.counts:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not a Triton")
        return service_pb2.ModelStatisticsResponse(model_stats=[self._script.statistics()])

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._script.greetings += 1
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._script.timeouts.append(request.parameters["timeout"].int64_param)
        self._script.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        fault = self._script.fault()
        if fault == "stall":
            time.sleep(1.0)
        elif fault:
            context.abort(CODE[fault], SAID.get(fault, f"told to be {fault}"))
        if request.inputs[0].shape[0] > self._script.max_batch_size:
            context.abort(CODE["invalid"], f"batch-size must be <= {self._script.max_batch_size}")
        assert request.inputs[0].name == self._script.inputs[0]["name"]
        scores, version = self._script.answer(request.raw_input_contents[0])
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=version)
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
        version = self.path.split("/versions/")[1].split("/")[0] if "/versions/" in self.path else ""
        found = self.script.config(version)
        if found is None:
            self._send(404, json.dumps({"error": f"version {version} is not found"}).encode())
            return
        config: dict[str, Any] = {
            "max_batch_size": self.script.max_batch_size,
            "parameters": {key: {"string_value": value} for key, value in found.items()},
        }
        version = self.script.claims(version)
        if version:
            config["version_policy"] = {"specific": {"versions": [int(version)]}}
        self._send(200, json.dumps(config).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.script.authorizations.append(self.headers["Authorization"])
        fault = self.script.fault()
        if fault == "hang up":
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(1.0)
        elif fault:
            self._send(STATUS[fault], json.dumps({"error": SAID.get(fault, f"told to be {fault}")}).encode())
            return
        length = self.headers["Inference-Header-Content-Length"]
        if length is None:  # texts as JSON
            (tensor,) = json.loads(body)["inputs"]
            assert (tensor["name"], tensor["datatype"]) == (self.script.inputs[0]["name"], "BYTES")
            scores = self.script.scores(encode([text.encode() for text in tensor["data"]]))
            output = {"name": "SCORES", "datatype": "FP32", "shape": scores.shape, "data": scores.ravel().tolist()}
            self._send(200, json.dumps({"outputs": [output]}).encode())
            return
        header = json.loads(body[: int(length)])
        self.script.timeouts.append(header["parameters"]["timeout"])
        texts = header["inputs"][0]["shape"][0]
        if texts > self.script.max_batch_size:
            self._send(400, json.dumps({"error": f"batch-size must be <= {self.script.max_batch_size}"}).encode())
            return
        scores, version = self.script.answer(body[int(length) :])
        output = {"name": "SCORES", "datatype": "FP32", "shape": scores.shape}
        head = json.dumps({"model_version": version, "outputs": [output]}).encode()
        self._send(200, head + scores.tobytes(), {"Inference-Header-Content-Length": str(len(head))})

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


class Certified(NamedTuple):
    """PEM files of a server that speaks TLS."""

    cert: Path
    key: Path
    clients_ca: Path | None = None
    """The authority that clients must be certified by; None if they need no certificate."""

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.clients_ca)
        context.load_cert_chain(self.cert, self.key)
        context.verify_mode = ssl.CERT_REQUIRED if self.clients_ca else ssl.CERT_NONE
        return context

    def credentials(self) -> grpc.ServerCredentials:
        ca = self.clients_ca.read_bytes() if self.clients_ca else None
        return grpc.ssl_server_credentials([(self.key.read_bytes(), self.cert.read_bytes())], ca, ca is not None)


class Fake:
    """A server on a free port."""

    def __init__(
        self, protocol: Protocol, script: Script, port: int = 0, threads: int = 16, tls: Certified | None = None
    ) -> None:
        self.protocol, self.script = protocol, script
        self.stop: Callable[[], object]
        if protocol == "grpc":
            server = grpc.server(ThreadPoolExecutor(threads))
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(script), server)
            address = f"127.0.0.1:{port}"
            port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
            server.start()
            self.stop = lambda: server.stop(grace=None).wait()
        else:
            http = HttpServer(("127.0.0.1", port), type("Scripted", (Handler,), {"script": script}))
            port = http.server_address[1]
            if tls is not None:
                http.socket = tls.context().wrap_socket(http.socket, server_side=True)
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
