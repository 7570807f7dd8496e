"""KServe v2 over gRPC, blocking and on asyncio.

The stubs of gRPC are called directly: tritonclient's ``infer`` spends about 0.03 ms more a call, and its sync and its
asyncio client share no code, while here both use the same request, the same answer and the same translation of errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import grpc

from bantam.client import messages
from bantam.client.addresses import grpc_target
from bantam.client.security import bearer
from bantam.client.texts import Row, width
from bantam.client.transport import (
    INPUT,
    OUTPUT,
    OVERLOADED,
    TIMEOUT,
    Answer,
    ModelConfig,
    Target,
    encode,
    microseconds,
)
from bantam.errors import ClientError

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is found within a second; gRPC's default waits up to two minutes between tries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # So long one try may take: over TLS and an ocean, or to a busy machine, more than the pause between two.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A model server is reached directly, also where http_proxy is set; httpcore2 ignores the variable as well.
    ("grpc.enable_http_proxy", 0),
    # Without this, two clients of one process share a connection, its back-off and its fate.
    ("grpc.use_local_subchannel_pool", 1),
    # A request is sent as often as the caller's ``retries`` say; gRPC's core would try again by itself, unseen.
    ("grpc.enable_retries", 0),
)

CLOSED = "Channel closed!"
"""What gRPC says of a call that is under way when its channel is closed, with the status CANCELLED."""
RECONNECT_S = 0.2
"""So long a call waits for a connection that was lost, at most, before it fails for want of one."""


class _Grpc(ABC):
    """Requests, answers and errors of one model; subclasses say how a call is waited for."""

    def __init__(self, target: Target, module: Any) -> None:
        """``module``: ``grpc`` or ``grpc.aio``."""
        self._target = target
        address, sharing = grpc_target(target.address)
        options = CHANNEL_OPTIONS + sharing
        if target.tls is None:
            self._channel = module.insecure_channel(address, options=options)
        else:
            trusted = grpc.ssl_channel_credentials(*target.tls.contents())
            self._channel = module.secure_channel(address, trusted, options=options)
        self._config = self._method("ModelConfig", messages.ModelConfigRequest, messages.ModelConfigResponse)
        self._infer = self._method("ModelInfer", messages.ModelInferRequest, messages.ModelInferResponse)

    def _method(self, name: str, request: Any, answer: Any) -> Any:
        return self._channel.unary_unary(messages.METHOD + name, request.SerializeToString, answer.FromString)

    @abstractmethod
    async def _call(self, method: Any, request: Any, **options: Any) -> Any:
        """The answer to a request."""

    async def config(self, version: str, timeout: float) -> ModelConfig:
        """Read the config of a version; of the newest one that is served if ``version`` is empty."""
        request = messages.ModelConfigRequest(name=self._target.model, version=version)
        with self._errors():
            answer = await self._call(self._config, request, timeout=timeout, metadata=self._metadata())
        config = answer.config
        parameters = {entry.key: entry.value.string_value for entry in config.parameters}
        versions = config.version_policy.specific.versions
        return ModelConfig(config.max_batch_size, parameters, str(versions[0]) if len(versions) == 1 else "")

    async def infer(self, texts: Sequence[Row], timeout: float) -> Answer:
        """Scores of at least one and at most the model's ``max_batch_size`` texts or pairs, in their order."""
        request = messages.ModelInferRequest(model_name=self._target.model)
        request.parameters.add(key=TIMEOUT).value.int64_param = microseconds(timeout)
        request.inputs.add(name=INPUT, datatype="BYTES", shape=(len(texts), width(texts)))
        request.outputs.add(name=OUTPUT)
        request.raw_input_contents.append(encode(chain.from_iterable(texts)))
        with self._errors():
            answer = await self._call(self._infer, request, timeout=timeout, metadata=self._metadata())
        with self._target.reading():
            output = answer.outputs[0]
            scores = self._target.decode(answer.raw_output_contents[0], output.shape, output.datatype, len(texts))
            return Answer(scores, answer.model_version)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        # Not as call credentials: gRPC sends those over TLS only, and a token to loopback needs none.
        return () if self._target.token is None else (("authorization", bearer(self._target.token)),)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as exc:
            raise translate(self._target, exc) from exc


class GrpcTransport(_Grpc):
    """Blocking calls; gRPC channels may be shared between threads."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, grpc)
        self._live = self._channel.unary_unary(f"{messages.METHOD}ServerLive")
        self._lost = False
        """Whether the last call found no connection."""

    async def _call(self, method: Any, request: Any, **options: Any) -> Any:
        if self._lost:
            self._reconnect(options["timeout"], options["metadata"])
        try:
            answer = method(request, **options)
        except grpc.RpcError as exc:
            refused = (exc.details() or "").startswith(OVERLOADED)  # by a server that was reached
            self._lost = exc.code() is grpc.StatusCode.UNAVAILABLE and not refused
            raise
        self._lost = False
        return answer

    def _reconnect(self, timeout: float, metadata: Any) -> None:
        """Let the channel finish a try to connect.

        It gets on only while a call waits for it, and one that finds no connection fails without waiting: calls that
        follow each other would find a server that came back after many seconds. On asyncio a thread of gRPC's own waits
        all the time. Not ``grpc.channel_ready_future``: its thread fails when the channel is closed.
        """
        with suppress(grpc.RpcError):  # what it is answered does not matter
            self._live(b"", timeout=min(RECONNECT_S, timeout), metadata=metadata, wait_for_ready=True)

    async def close(self) -> None:
        """Close the connections."""
        self._channel.close()


class AsyncGrpcTransport(_Grpc):
    """The same on asyncio; made inside the running loop, to which its channel stays bound."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, grpc.aio)

    async def _call(self, method: Any, request: Any, **options: Any) -> Any:
        return await method(request, **options)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()


def translate(target: Target, exc: grpc.RpcError) -> ClientError:
    """The error that the status of a failed call stands for."""
    detail = exc.details() or exc.code().name
    match exc.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return target.refused(detail)
        case grpc.StatusCode.NOT_FOUND:
            return target.not_found(detail)
        case grpc.StatusCode.UNAVAILABLE:
            return target.unavailable(detail)
        case grpc.StatusCode.CANCELLED if detail != CLOSED:  # by a server that stops, as nothing here cancels a call
            return target.unavailable(detail)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return target.late()
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return target.denied(detail)
        case code:
            return target.failed(f"{code.name}, {detail}")
