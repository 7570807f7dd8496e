"""A gRPC server of the KServe v2 protocol that answers every inference with the same bytes.

It is what a load tester's own cost can be measured against: a server that does as little as possible. It speaks just as
much HTTP/2 (RFC 9113) as gRPC's client needs: it answers each finished stream, acknowledges settings and pings, gives
back flow-control credit, and never reads a header. ``python -m benchmarks.echo_server`` prints its port.
"""

from __future__ import annotations

import asyncio
import struct

from tritonclient.grpc import service_pb2

PREFACE = 24
"""Bytes that a client says before its first frame."""
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CREDIT = 1 << 20
"""Bytes received after which the client is given as many again."""


def frame(kind: int, flags: int, stream: bytes, payload: bytes) -> bytes:
    """One HTTP/2 frame; ``stream`` as its four bytes."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header field, literal and not indexed (RFC 7541, 6.2.2)."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def message() -> bytes:
    """A ModelInferResponse with one text, as gRPC frames it."""
    answer = service_pb2.ModelInferResponse(model_name="echo")
    answer.outputs.add(name="TEXT", datatype="BYTES", shape=[1, 1])
    answer.raw_output_contents.append(struct.pack("<I", 4) + b"text")
    body: bytes = answer.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


NONE = bytes(4)
"""The stream of what concerns the connection."""
HEAD = b"\x88" + header(b"content-type", b"application/grpc")  # \x88: status 200 (RFC 7541, appendix A)
BODY = message()
TRAILER = header(b"grpc-status", b"0")


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello: many streams, large windows."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received, self._begun, self._owed = b"", False, 0
        settings = struct.pack(">HIHI", 3, CREDIT, 4, 1 << 30)  # MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE
        transport.write(
            frame(SETTINGS, 0, NONE, settings) + frame(WINDOW_UPDATE, 0, NONE, (1 << 30).to_bytes(4, "big"))
        )

    def data_received(self, data: bytes) -> None:
        """Answer all whole frames."""
        received, at, answers = self._received + data, 0, []
        if not self._begun and len(received) >= PREFACE:
            at, self._begun = PREFACE, True
        while self._begun and len(received) - at >= 9:
            end = at + 9 + int.from_bytes(received[at : at + 3], "big")
            if len(received) < end:
                break
            answers.append(
                self._answer(received[at + 3], received[at + 4], received[at + 5 : at + 9], received[at + 9 : end])
            )
            at = end
        self._received = received[at:]
        if self._owed > CREDIT:
            answers.append(frame(WINDOW_UPDATE, 0, NONE, self._owed.to_bytes(4, "big")))
            self._owed = 0
        self._transport.write(b"".join(answers))

    def _answer(self, kind: int, flags: int, stream: bytes, payload: bytes) -> bytes:
        if kind == DATA:
            self._owed += len(payload)
            if flags & END_STREAM:
                head, trailer = frame(HEADERS, END_HEADERS, stream, HEAD), END_HEADERS | END_STREAM
                return head + frame(DATA, 0, stream, BODY) + frame(HEADERS, trailer, stream, TRAILER)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            return frame(kind, ACK, NONE, payload if kind == PING else b"")
        return b""


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
