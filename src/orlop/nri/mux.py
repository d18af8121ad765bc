"""NRI's trunk: several byte streams over one socket, each piece with its stream's number. Sans-IO.

    frame = number (u32) length (u32) payload, all big-endian

The trunk has no flow control and no open or close of a stream: both sides know the two numbers. Test: tests/unit/nri/test_mux.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from orlop.base import limits
from orlop.base.errors import InvalidArgument

PLUGIN_STREAM: Final = 1
"""The runtime calls the plugin."""
RUNTIME_STREAM: Final = 2
"""The plugin calls the runtime."""

_HEADER: Final = struct.Struct(">II")
PAYLOAD_MAX: Final = limits.TTRPC_MESSAGE_BYTES + 10
"""One ttrpc message with its header."""
_FIRST: Final = 4096


class TrunkReader:
    """Splits what arrives into (stream, payload)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield every frame that is complete now. Raises InvalidArgument for one that is longer than a ttrpc message can be."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(buffer)
            if length > PAYLOAD_MAX:
                raise InvalidArgument(f"trunk: a frame of {length} bytes, limit {PAYLOAD_MAX}")
            end = _HEADER.size + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[_HEADER.size : end])
            del buffer[:end]
            yield stream, payload


def frames(stream: int, message: bytes) -> bytes:
    """Return one ttrpc message as frames: the first 4096 bytes, then all the rest in one.

    The published implementation reads a frame with one read into a buffer of 4096 bytes, or, once it knows a message's length, of exactly what
    is missing of it; a frame that does not fit is an error to it. And it keeps 256 frames, so many small ones are no way out.
    """
    first = message[:_FIRST]
    data = _HEADER.pack(stream, len(first)) + first
    if len(message) > _FIRST:
        data += _HEADER.pack(stream, len(message) - _FIRST) + message[_FIRST:]
    return data
