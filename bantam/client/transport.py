"""What a client needs of the way to the server: read a model's config, and turn texts into scores.

The KServe v2 protocol is spoken over gRPC (:mod:`bantam.client.grpc_transport`) and HTTP
(:mod:`bantam.client.http_transport`), each blocking and on asyncio. A transport tries once; time limits and retries
over several tries are the client's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bantam.client.addresses import parse
from bantam.client.security import TLS, Token, check_token
from bantam.client.texts import Row
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
TIMEOUT = "timeout"
"""The parameter of a request that says in how many microseconds it has to be answered: later, nobody waits for it."""
LONGEST_US = 10**9
"""As good as none, and what a server takes for none."""
OVERLOADED = "Overloaded: "
"""How a server of Bantam's begins what it says when it sheds load, and does not when it cannot be reached."""
TOO_LATE = f"{OVERLOADED}this request cannot be answered within the time-out"
"""How, when it will not answer within ``TIMEOUT``."""

Scores = npt.NDArray[np.float32]
"""Probabilities, or the scores of a regression, float32 ``[texts, labels]``."""


@dataclass(frozen=True)
class ModelConfig:
    """The part of Triton's model config that a client reads."""

    max_batch_size: int
    parameters: Mapping[str, str]
    version: str
    """The one version that it says is served; empty if it says none, or several."""


class Answer(NamedTuple):
    """What the model made of some texts."""

    scores: Scores
    version: str
    """The version that answered; empty if the server does not tell."""


class Transport(Protocol):
    """A pool of connections to one model, blocking or on asyncio.

    Blocking ones may be shared between threads; their coroutines never wait for an event loop, so that
    :func:`bantam.client.conversation.blocking` can run them without one. Those on asyncio belong to one loop.
    ``timeout`` is in seconds. Both requests raise the subclasses of :class:`ClientError`.
    """

    async def config(self, version: str, timeout: float) -> ModelConfig:
        """Read the config of a version; of the newest one that is served if ``version`` is empty."""

    async def infer(self, texts: Sequence[Row], timeout: float) -> Answer:
        """Scores of at least one and at most the model's ``max_batch_size`` texts or pairs, in their order."""

    async def close(self) -> None:
        """Close the connections."""


def microseconds(timeout: float) -> int:
    """The value of ``TIMEOUT``; 0 would be none."""
    return int(min(max(1e6 * timeout, 1), LONGEST_US))


def encode(texts: Iterable[bytes]) -> bytes:
    """A BYTES tensor as it travels: before each element its length, little-endian uint32."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@dataclass(frozen=True)
class Target:
    """Who is asked; words the errors, so that both protocols say the same."""

    address: str
    model: str
    timeout: float
    """Seconds allowed for a request with its retries; a transport is told what is left of them."""
    tls: TLS | None = None
    token: Token | None = field(default=None, repr=False)

    @classmethod
    def checked(
        cls, address: str, model: str, timeout: float, tls: TLS | bool = False, token: Token | None = None
    ) -> Target:
        """The target, if the address is ``host:port`` or several, the model has a name, and a token travels encrypted.

        Raises :class:`UserError`. ``tls``: True for TLS with its defaults.
        """
        servers = parse(address)
        if not model:
            raise UserError("Got an empty model name, expected the name of a model on the server.")
        encrypted = (TLS() if tls else None) if isinstance(tls, bool) else tls
        for server in servers:
            check_token(token, server.host, encrypted)
        if encrypted and len(servers) > 1:
            raise UserError(
                f"Got the addresses {address} with TLS: a certificate is checked for the one name that is asked for. "
                "Give one name that stands for all of them in DNS, as a headless Service's does."
            )
        return cls(address, model, timeout, encrypted, token)

    def __str__(self) -> str:
        return f"model {self.model!r} at {self.address}"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside the block an answer is read: :class:`ClientError` if it is none of this protocol."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise self.failed(
                f"it gave no answer of a model server ({type(exc).__name__}: {exc}); expected one at this port"
            ) from exc

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

    def reads_pairs(self) -> InvalidInputError:
        """It got single texts."""
        return InvalidInputError(
            f"The {self} reads pairs of texts and got single ones. Expected a tuple of two for each: "
            'classify([("first", "second")]), or classify(("first", "second")) for one. A list of two strings is two '
            "texts, not a pair."
        )

    def reads_texts(self) -> InvalidInputError:
        """It got pairs."""
        return InvalidInputError(
            f"The {self} reads single texts and got pairs, which is what tuples of two strings are. Expected a list of "
            'strings: classify(["first", "second"]).'
        )

    def not_found(self, detail: str) -> ModelNotFoundError:
        """The server has no such model."""
        return ModelNotFoundError(
            f"No {self}: {detail}. Check the name and the address, or publish and load the model on that server."
        )

    def unavailable(self, detail: str) -> UnavailableError | TimeoutExceeded:
        """The server cannot be reached or sheds load; or it knows already that it will be late."""
        if detail.startswith(TOO_LATE):
            return self.late()
        if detail.startswith(OVERLOADED):
            return UnavailableError(
                f"The {self} is overloaded: {detail.removeprefix(OVERLOADED)}. Send less at a time, or allow more time "
                "and retries."
            )
        encrypted = (
            "" if self.tls is None else " over TLS, that both sides know the authority of the other's certificate"
        )
        return UnavailableError(
            f"The {self} is unavailable: {detail}. Check that the server runs there and that the port speaks this "
            f"protocol{encrypted} (Triton: HTTP 8000, gRPC 8001); if it is overloaded, send less or allow more retries."
        )

    def replaced(self, version: str) -> UnavailableError:
        """A version answered, and its labels cannot be read any more."""
        return UnavailableError(
            f"The {self} was published anew: version {version} answered, and was gone before its labels were read. Ask "
            "again, or allow more retries."
        )

    def denied(self, detail: str) -> ClientError:
        """The server does not let this client in."""
        return ClientError(
            f"The {self} denies access: {detail}. Check `token`, and the client's certificate in `tls`, with whoever "
            "runs the server."
        )

    def late(self) -> TimeoutExceeded:
        """The time is over."""
        return TimeoutExceeded(
            f"No answer from {self} within {self.timeout:g} s. Allow more with `timeout`, or send less at a time."
        )

    def failed(self, detail: str) -> ClientError:
        """Anything else."""
        return ClientError(f"The request to {self} failed: {detail}. The server's log says more.")
