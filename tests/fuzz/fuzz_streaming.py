"""atheris feeds what clients of the streaming server send: requests, SPDY frames, WebSocket frames, terminal sizes.

    python tests/fuzz/fuzz_streaming.py -max_total_time=60

Any exception but a refusal is a finding, and so are replies that grow beyond their limit.
"""

from __future__ import annotations

import struct
import sys
import zlib
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["orlop"]):
    from orlop.base import limits
    from orlop.streaming.channels import SPDY_COMMAND, V4, V4_BASE64, V5, WEBSOCKET_COMMAND, SizeReader, Streams
    from orlop.streaming.command import Carrier, SpdyCommand, WebSocketCommand
    from orlop.streaming.forward import SpdyForward, WebSocketForward
    from orlop.streaming.spdy import ProtocolViolation, parse_headers
    from orlop.streaming.spdy_dictionary import DICTIONARY
    from orlop.streaming.websocket import WebSocketServer
    from orlop.streamserver.upgrade import HeadReader, Refused, agree, refusal

STREAMS = Streams(stdin=True, stdout=True, stderr=True, tty=True)
HEADERS = (
    (b"connection", b"upgrade"),
    (b"host", b"x"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
)


def socket(protocol: str) -> WebSocketServer:
    return WebSocketServer((*HEADERS, (b"sec-websocket-protocol", protocol.encode())), "/exec/t", protocol)


def opened() -> bytes:
    """A stream that is there, so that frames have something to meet."""
    deflate = zlib.compressobj(zdict=DICTIONARY)
    plain = struct.pack(">II10sI5s", 1, 10, b"streamtype", 5, b"stdin")
    block = deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return struct.pack(">HHIIIH", 0x8003, 1, 10 + len(block), 1, 0, 0) + block


def pieces(provider: atheris.FuzzedDataProvider) -> list[bytes]:
    return [provider.ConsumeBytes(provider.ConsumeIntInRange(0, 300)) for _ in range(provider.ConsumeIntInRange(1, 4))]


def feed(carrier: Carrier, provider: atheris.FuzzedDataProvider) -> None:
    for piece in pieces(provider):
        carrier.receive(memoryview(piece))
        if len(carrier.take_replies()) > 2 * limits.SPDY_CONTROL_BYTES:
            raise RuntimeError("replies without bound")


def one_input(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    which = provider.ConsumeIntInRange(0, 6)
    with suppress(ProtocolViolation, Refused):
        match which:
            case 0:
                carrier = SpdyCommand(STREAMS, V4)
                carrier.receive(memoryview(opened()))
                feed(carrier, provider)
            case 1:
                feed(WebSocketCommand(socket(V5), STREAMS, V5), provider)
            case 2:
                feed(WebSocketCommand(socket(V4_BASE64), STREAMS, V4_BASE64), provider)
            case 3:
                forward = SpdyForward(socket(V4) if provider.ConsumeBool() else None)
                for piece in pieces(provider):
                    forward.receive(memoryview(piece), 0.0)
                    forward.take_replies()
            case 4:
                ports = WebSocketForward(socket(V4), [80, 81], text=provider.ConsumeBool())
                for piece in pieces(provider):
                    ports.receive(memoryview(piece), 0.0)
            case 5:
                reader = SizeReader()
                for piece in pieces(provider):
                    reader.feed(piece)
                parse_headers(provider.ConsumeBytes(1 << 16))
            case _:
                head = HeadReader()
                for piece in pieces(provider):
                    try:
                        request = head.feed(piece) if piece else None
                        if request is not None:
                            agree(request, SPDY_COMMAND, WEBSOCKET_COMMAND)
                            break
                    except Refused as error:
                        refusal(error)
                        raise


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
