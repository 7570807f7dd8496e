"""What a client needs of the way to the server: read a model's config, and turn texts into scores.

The KServe v2 protocol is spoken over gRPC (:mod:`bantam.client.grpc_transport`) and HTTP
(:mod:`bantam.client.http_transport`), each sync and async. A transport tries once; time limits and retries over
several tries are the client's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from bantam.errors import (
    ClientError,
    InvalidInputError,
    ModelNotFoundError,
    TimeoutExceeded,
    UnavailableError,
    UserError,
)

INPUT = "TEXT"
OUTPUT = "SCORES"

Scores = npt.NDArray[np.float32]
"""Probabilities, float32 ``[texts, labels]``."""


@dataclass(frozen=True)
class ModelConfig:
    """The part of Triton's model config that a client reads."""

    max_batch_size: int
    parameters: Mapping[str, str]


class Transport(Protocol):
    """One connection pool to one model; safe to share between threads.

    ``timeout`` is in seconds. Both requests raise the subclasses of :class:`ClientError`.
    """

    def config(self, timeout: float) -> ModelConfig:
        """Read the model's config."""
        ...

    def infer(self, texts: Sequence[bytes], timeout: float) -> Scores:
        """Scores of at most the model's ``max_batch_size`` texts, in their order."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncTransport(Protocol):
    """The same within one event loop."""

    async def config(self, timeout: float) -> ModelConfig:
        """Read the model's config."""
        ...

    async def infer(self, texts: Sequence[bytes], timeout: float) -> Scores:
        """Scores of at most the model's ``max_batch_size`` texts, in their order."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def encode(texts: Sequence[bytes]) -> bytes:
    """A BYTES tensor as it travels: before each element its length, little-endian uint32."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@dataclass(frozen=True)
class Target:
    """Who is asked; words the errors, so that both protocols say the same."""

    address: str
    model: str
    timeout: float
    """Seconds allowed for a request with its retries; a transport is told what is left of them."""

    @classmethod
    def checked(cls, address: str, model: str, timeout: float) -> Target:
        """The target, if the address is ``host:port`` and the model has a name; else :class:`UserError`."""
        try:
            parts = urlsplit(f"//{address}")
            whole = bool(parts.hostname and parts.port) and parts.netloc == address and "@" not in address
        except ValueError:  # a port that is no number, a broken IPv6 address
            whole = False
        if not whole:
            raise UserError(f"Got address {address!r}, expected host:port without a scheme, such as 'localhost:8001'.")
        if not model:
            raise UserError("Got an empty model name, expected the name of a model on the server.")
        return cls(address, model, timeout)

    def __str__(self) -> str:
        return f"model {self.model!r} at {self.address}"

    def decode(self, raw: bytes, shape: Sequence[int], datatype: str, texts: int) -> Scores:
        """The SCORES tensor ``[texts, labels]`` from the bytes of an answer."""
        if datatype != "FP32" or len(shape) != 2 or shape[0] != texts or len(raw) != 4 * shape[0] * shape[1]:
            raise self.failed(
                f"it answered {datatype} {list(shape)} in {len(raw)} bytes for {texts} texts, "
                "expected FP32 [texts, labels]"
            )
        return np.frombuffer(raw, dtype="<f4").reshape(shape)

    def refused(self, detail: str) -> InvalidInputError:
        """The server finds the texts, their shape or their type wrong."""
        return InvalidInputError(
            f"{self} refused the input: {detail}. Expected UTF-8 texts for a model that `bantam` published."
        )

    def not_found(self, detail: str) -> ModelNotFoundError:
        """The server has no such model."""
        return ModelNotFoundError(
            f"No {self}: {detail}. Check the name and the address, or publish and load the model on that server."
        )

    def unavailable(self, detail: str) -> UnavailableError:
        """The server cannot be reached or sheds load."""
        return UnavailableError(
            f"The {self} is unavailable: {detail}. Check that the server runs there and that the port speaks this "
            "protocol (Triton: HTTP 8000, gRPC 8001); if it is overloaded, send less or allow more retries."
        )

    def late(self) -> TimeoutExceeded:
        """The time is over."""
        return TimeoutExceeded(
            f"No answer from {self} within {self.timeout:g} s. Allow more with `timeout`, or send less at a time."
        )

    def failed(self, detail: str) -> ClientError:
        """Anything else."""
        return ClientError(f"The request to {self} failed: {detail}. The server's log says more.")
