"""Any server of the KServe v2 protocol whose model takes a text, or a pair: what it is, and the cheapest way to ask it.

Requests are put into bytes before the clock starts, and answers are not parsed: the server is measured, not our codec
(``benchmarks/load_test_client.py`` says what is left). The model's input is found in its metadata.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import httpcore2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam.artifact import Text
from bantam.client import http_transport
from bantam.client.grpc_transport import CHANNEL_OPTIONS, translate
from bantam.client.transport import Target, encode
from bantam.errors import ClientError, UserError
from bantam.loadtest.open_loop import Done

TEXT = "BYTES"
"""The datatype of texts."""
SPLIT = ("queue", "compute_input", "compute_infer", "compute_output")
"""What Triton tells apart of a request's time: waiting, and before, in and after the model."""


class ModelInput(NamedTuple):
    """An input of a model, as its metadata describes it; -1 is a size that a request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Statistics:
    """Triton's counters of a model since its start; see :meth:`since`."""

    requests: int
    executions: int
    """Runs of the model; less than the requests if the server puts some together."""
    inferences: int
    nanoseconds: Mapping[str, int]

    def since(self, earlier: Statistics) -> ServerSplit | None:
        """What happened between two readings; None if nothing did."""
        requests, executions = self.requests - earlier.requests, self.executions - earlier.executions
        if requests <= 0:
            return None
        spent = {part: (self.nanoseconds[part] - earlier.nanoseconds[part]) / requests / 1e6 for part in SPLIT}
        return ServerSplit(requests, (self.inferences - earlier.inferences) / max(1, executions), **spent)


class ServerSplit(NamedTuple):
    """Where the server says that the time went: means over its requests, in milliseconds."""

    requests: int
    batch: float
    """Texts in a run of the model, on average."""
    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


class GrpcEndpoint:
    """One model of one server, over gRPC. Calling it sends one request; threads may share it.

    Raises :class:`ClientError`. It can begin requests without waiting (:class:`bantam.loadtest.open_loop.Starter`).
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(target.address, options=CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # bytes in, bytes out
        self._errors: dict[grpc.StatusCode, str | None] = {grpc.StatusCode.OK: None}
        """What each status is called, found once: an overloaded server says it often."""

    def inputs(self) -> list[ModelInput]:
        """The model's inputs, from its metadata."""
        request = service_pb2.ModelMetadataRequest(name=self._target.model)
        try:
            answer = self._stub.ModelMetadata(request, timeout=self._target.timeout)
        except grpc.RpcError as exc:
            raise translate(self._target, exc) from exc
        return [ModelInput(found.name, found.datatype, tuple(found.shape)) for found in answer.inputs]

    def request(self, text: Text, tensor: ModelInput) -> bytes:
        """A request with one text or pair, in the protocol's raw form of tensors."""
        request = service_pb2.ModelInferRequest(model_name=self._target.model)
        request.inputs.add(name=tensor.name, datatype=TEXT, shape=one(tensor))
        request.raw_input_contents.append(encode(part.encode() for part in parts(text)))
        return bytes(request.SerializeToString())

    def statistics(self) -> Statistics | None:
        """Triton's counters; None if the server keeps none."""
        request = service_pb2.ModelStatisticsRequest(name=self._target.model)
        try:
            answer = self._stub.ModelStatistics(request, timeout=self._target.timeout)
        except grpc.RpcError:
            return None
        return _summed(answer.model_stats, lambda found, name: getattr(found, name))

    def __call__(self, request: bytes) -> None:
        """Send a request, and return when it is answered."""
        try:
            self._infer(request, timeout=self._target.timeout)
        except grpc.RpcError as exc:
            raise translate(self._target, exc) from exc

    def start(self, item: bytes, done: Done) -> None:
        """Begin a request; ``done`` is called from gRPC's own thread."""
        begun = time.perf_counter()

        def ended(call: Any) -> None:
            code = call.code()
            if code not in self._errors:
                self._errors[code] = type(translate(self._target, call)).__name__
            done(begun, self._errors[code])

        self._infer.future(item, timeout=self._target.timeout).add_done_callback(ended)

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()


class HttpEndpoint:
    """The same over HTTP/1.1, with the texts as JSON, as all servers have it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._model = f"http://{target.address}/v2/models/{quote(target.model, safe='')}"
        self._infer = httpcore2.URL(f"{self._model}/infer")
        self._limits = http_transport.limits(target.timeout)
        self._pool = httpcore2.ConnectionPool(max_connections=None, keepalive_expiry=http_transport.IDLE_S)

    def inputs(self) -> list[ModelInput]:
        """The model's inputs, from its metadata."""
        found = json.loads(self._get(self._model)).get("inputs", [])
        return [ModelInput(each["name"], each["datatype"], tuple(map(int, each["shape"]))) for each in found]

    def request(self, text: Text, tensor: ModelInput) -> bytes:
        """A request's body with one text or pair."""
        tensors = [{"name": tensor.name, "datatype": TEXT, "shape": one(tensor), "data": parts(text)}]
        return json.dumps({"inputs": tensors}, ensure_ascii=False).encode()

    def statistics(self) -> Statistics | None:
        """Triton's counters; None if the server keeps none."""
        try:
            answer = json.loads(self._get(f"{self._model}/stats"))
            return _summed(answer["model_stats"], lambda found, name: found[name])
        except (ClientError, KeyError, ValueError):
            return None

    def __call__(self, request: bytes) -> None:
        """Send a request, and return when it is answered."""
        with http_transport.errors(self._target):
            answer = self._pool.request("POST", self._infer, headers=_JSON, content=request, extensions=self._limits)
        http_transport.check(self._target, answer)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _get(self, url: str) -> bytes:
        with http_transport.errors(self._target):
            answer = self._pool.request("GET", url, extensions=self._limits)
        http_transport.check(self._target, answer)
        return answer.content


_JSON = [(b"Content-Type", b"application/json")]

KserveEndpoint = GrpcEndpoint | HttpEndpoint
ENDPOINTS: dict[str, Callable[[Target], KserveEndpoint]] = {"grpc": GrpcEndpoint, "http": HttpEndpoint}


def find_input(inputs: list[ModelInput], target: Target, name: str | None = None) -> ModelInput:
    """The model's input for a text: the one of that name, or the only one there is.

    A server that describes no inputs (a custom MLServer runtime, say) is taken at the name's word: one text, shape [1].
    Raises :class:`UserError` if no input fits.
    """
    if not inputs and name:
        return ModelInput(name, TEXT, (-1,))
    chosen = [tensor for tensor in inputs if name in (None, tensor.name)]
    # An input left out is an error to most servers, and a guess at what it holds would be none of ours.
    if len(inputs) == 1 and chosen and chosen[0].datatype == TEXT:
        return chosen[0]
    found = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in inputs) or "none described"
    raise UserError(
        f"The {target} takes the inputs: {found}. Expected one input of {TEXT}, a text"
        f"{f', with the name {name!r}' if name else ''}. Test a model with text in; if the server describes none, name "
        "it with --input."
    )


def one(tensor: ModelInput) -> list[int]:
    """The shape of the input when it holds one text, or one pair."""
    return [1 if size < 0 else size for size in tensor.shape]


def parts(text: Text) -> list[str]:
    """The text, or the two of a pair."""
    return [text] if isinstance(text, str) else [*text]


def check_texts(texts: Sequence[Text], tensor: ModelInput, target: Target) -> None:
    """Raise :class:`UserError` for a text that does not fill the input of a request, such as a pair where one fits."""
    size = math.prod(one(tensor))
    for text in texts:
        if len(parts(text)) != size:
            raise UserError(
                f"The {target} takes {_SIZES.get(size, f'{size} texts')} in a request ({tensor.name} "
                f"{list(tensor.shape)}), and the data has {_SIZES[len(parts(text))]}, such as {text!r:.80}. Test "
                "it with data of its kind: --data."
            )


_SIZES = {1: "one text", 2: "a pair of texts"}


def _summed(models: Any, read: Callable[[Any, str], Any]) -> Statistics:
    """The counters of all versions of a model together."""
    spent = dict.fromkeys(SPLIT, 0)
    requests = executions = inferences = 0
    for model in models:
        stats = read(model, "inference_stats")
        requests += int(read(read(stats, "success"), "count"))
        executions += int(read(model, "execution_count"))
        inferences += int(read(model, "inference_count"))
        for part in SPLIT:
            spent[part] += int(read(read(stats, part), "ns"))
    return Statistics(requests, executions, inferences, spent)
