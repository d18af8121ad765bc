"""ttrpc's frames: calls and answers over a byte stream, without HTTP/2. Sans-IO; unary calls only, NRI has no others.

    frame = length (u32) stream id (u32) type (u8) flags (u8) payload, big-endian; at most 4 MiB of payload
    type 1 request   client's streams are odd and rise; payload Request (specs/nri_gen/ttrpc.proto)
    type 2 response  ends the stream; payload Response
    type 3 data      only on streams that are not unary

Test: tests/unit/nri/test_ttrpc.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orlop.base import limits
from orlop.base.errors import Aborted, InvalidArgument, ResourceExhausted

REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

_HEADER: Final = struct.Struct(">IIBB")

CODES: Final = {
    "OK": 0,
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
"""gRPC's status codes; OrlopError.code is a name of these."""
UNIMPLEMENTED: Final = CODES["UNIMPLEMENTED"]


class CallRefused(Aborted):
    """The other side answered with a status that is not ok."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message or f"status {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Frame:
    stream: int
    kind: int
    flags: int
    payload: bytes


class FrameReader:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that is complete now. Raises InvalidArgument for one beyond the limit: the stream is lost with it."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER.size:
            length, stream, kind, flags = _HEADER.unpack_from(buffer)
            if length > limits.TTRPC_MESSAGE_BYTES:
                raise InvalidArgument(f"ttrpc: a message of {length} bytes, limit {limits.TTRPC_MESSAGE_BYTES}")
            end = _HEADER.size + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[_HEADER.size : end])
            del buffer[:end]
            yield Frame(stream, kind, flags, payload)


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes. Raises ResourceExhausted when its payload is beyond the limit."""
    if len(frame.payload) > limits.TTRPC_MESSAGE_BYTES:
        raise ResourceExhausted(f"ttrpc: a message of {len(frame.payload)} bytes, limit {limits.TTRPC_MESSAGE_BYTES}")
    return _HEADER.pack(len(frame.payload), frame.stream, frame.kind, frame.flags) + frame.payload
