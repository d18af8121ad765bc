"""A port-forward session on its connection: which ports the client wants connected, and the bytes of each connection.

    SpdyForward        two streams a connection (data, error), paired by requestID; plain, or tunnelled through a WebSocket
    WebSocketForward   the ports are known at the start: channel 2i carries port i's data, channel 2i+1 its error

A connection has a key, good as long as it lives. Bytes in, events out, as command.py does. Test: tests/unit/streaming/test_forward.py.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orlop.base import limits
from orlop.streaming import spdy
from orlop.streaming.command import Buffer
from orlop.streaming.websocket import Closed, Piece, WebSocketServer, message_head


class Connect(NamedTuple):
    """The client wants a connection to a port."""

    key: int
    port: int


class Arrived(NamedTuple):
    """Bytes of a connection from the client."""

    key: int
    data: Buffer
    ended: bool
    dropped: bool = False
    """The client has given the connection up."""


class ForwardCarrier(Protocol):
    """What carries a session."""

    def opening(self) -> list[Buffer]: ...

    def receive(self, data: memoryview, now: float) -> list[Connect | Arrived]:
        """Take bytes of the connection at a time in seconds. Raises ProtocolViolation."""

    def take_granted(self) -> bool:
        """Has the client opened a window since this was last asked?"""

    def take_replies(self) -> list[Buffer]:
        """Return what the protocol itself has to say, once."""

    @property
    def left(self) -> bool:
        """Has the client said that it goes?"""

    def room(self, key: int) -> int:
        """Return how many bytes may be sent for a connection now; 0: later."""

    def frame(self, key: int, data: Buffer) -> list[Buffer]:
        """Return what is sent for data of a connection."""

    def end(self, key: int) -> list[Buffer]:
        """Return what says that nothing more comes from the port."""

    def fail(self, key: int, message: str) -> list[Buffer]:
        """Return what ends a connection both ways, with the reason."""

    def drop(self, key: int) -> list[Buffer]:
        """Return what ends a connection both ways without a word."""

    def expire(self, older_than: float) -> list[Buffer]:
        """Return what refuses the streams whose other half did not come since."""

    def finish(self) -> list[Buffer]:
        """Return what is sent last."""


@dataclass(slots=True)
class _Half:
    number: int
    is_data: bool
    port: int
    since: float


class SpdyForward:
    """Streams with the headers port, requestID and streamType."""

    def __init__(self, tunnel: WebSocketServer | None = None) -> None:
        self._spdy = spdy.SpdyServer()
        self._tunnel = tunnel
        self._halves: dict[str, _Half] = {}
        self._errors: dict[int, int] = {}
        """Error stream of each connection by its key, which is the number of its data stream."""
        self._accepts = bytearray()
        self.left = False
        self._now = 0.0
        self._granted = False

    def opening(self) -> list[Buffer]:
        first: list[Buffer] = [self._tunnel.response()] if self._tunnel is not None else []
        return [*first, *self._wrapped([self._spdy.opening()])]

    def receive(self, data: memoryview, now: float) -> list[Connect | Arrived]:
        self._now = now
        found: list[Connect | Arrived] = []
        if self._tunnel is None:
            self._receive(data, found)
            return found
        for event in self._tunnel.receive(data):
            if isinstance(event, Closed):
                self.left = True
            elif event.data:
                self._receive(memoryview(event.data), found)
        return found

    def _receive(self, data: memoryview, found: list[Connect | Arrived]) -> None:
        for event in self._spdy.receive(data):
            match event:
                case spdy.Data(number, piece, ended):
                    if number in self._errors:
                        found.append(Arrived(number, piece, ended))
                case spdy.Opened(number, headers, _):
                    self._open(number, headers, found)
                case spdy.Reset(number, _):
                    if self._errors.pop(number, None) is not None:
                        found.append(Arrived(number, b"", True, True))
                case spdy.Leaving():
                    self.left = True
                case spdy.Granted():
                    self._granted = True

    def take_granted(self) -> bool:
        granted, self._granted = self._granted, False
        return granted

    def _open(self, number: int, headers: dict[str, str], found: list[Connect | Arrived]) -> None:
        kind, port = headers.get("streamtype", ""), headers.get("port", "")
        if kind not in ("data", "error") or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) <= 65535:
            self._accepts += self._spdy.reset(number, spdy.REFUSED_STREAM)
            return
        half = _Half(number, kind == "data", int(port[:6]), self._now)
        # Clients older than requestID open the error stream, then the data stream.
        request = headers.get("requestid") or f"stream {number - 2 if half.is_data else number}"
        other = self._halves.pop(request, None)
        if other is None:
            self._halves[request] = half
            self._accepts += self._spdy.accept(number)
            return
        if other.is_data == half.is_data or other.port != half.port:
            self._accepts += self._spdy.reset(number, spdy.REFUSED_STREAM)
            self._accepts += self._spdy.reset(other.number, spdy.REFUSED_STREAM)
            return
        self._accepts += self._spdy.accept(number)
        data, error = (half, other) if half.is_data else (other, half)
        self._errors[data.number] = error.number
        found.append(Connect(data.number, data.port))

    def take_replies(self) -> list[Buffer]:
        replies = self._spdy.take_replies() + bytes(self._accepts)
        self._accepts.clear()
        parts = self._wrapped([replies]) if replies else []
        if self._tunnel is not None and (own := self._tunnel.take_replies()):
            parts.append(own)
        return parts

    def room(self, key: int) -> int:
        return self._spdy.room(key)

    def frame(self, key: int, data: Buffer) -> list[Buffer]:
        head = self._spdy.data(key, len(data))
        return self._wrapped([head, data]) if head else []

    def end(self, key: int) -> list[Buffer]:
        # The client waits for the end of the data and then for that of the error stream.
        return self._wrapped([self._spdy.data(key, 0, end=True), self._end_error(key, b"")])

    def fail(self, key: int, message: str) -> list[Buffer]:
        text = message.encode()[: limits.STREAM_ERROR_BYTES]
        error = self._end_error(key, text)
        self._errors.pop(key, None)
        return self._wrapped([error, self._spdy.data(key, 0, end=True), self._spdy.reset(key)])

    def drop(self, key: int) -> list[Buffer]:
        error = self._end_error(key, b"")
        self._errors.pop(key, None)
        return self._wrapped([error, self._spdy.reset(key)])

    def _end_error(self, key: int, text: bytes) -> bytes:
        number = self._errors.get(key)
        head = b"" if number is None else self._spdy.data(number, len(text), end=True)
        return head + text if head else b""

    def expire(self, older_than: float) -> list[Buffer]:
        late = [(request, half) for request, half in self._halves.items() if half.since < older_than]
        for request, _ in late:
            del self._halves[request]
        return self._wrapped([self._spdy.reset(half.number, spdy.REFUSED_STREAM) for _, half in late])

    def finish(self) -> list[Buffer]:
        parts = self._wrapped([self._spdy.leave()])
        if self._tunnel is not None:
            parts.append(self._tunnel.close())
        return parts

    def _wrapped(self, parts: Sequence[Buffer]) -> list[Buffer]:
        whole = [part for part in parts if part]
        if self._tunnel is None or not whole:
            return whole
        return [message_head(sum(map(len, whole))), *whole]


class WebSocketForward:
    """Two channels a port; both begin with the port's number, 16 bits, little end first."""

    def __init__(self, socket: WebSocketServer, ports: Sequence[int], *, text: bool) -> None:
        self._socket = socket
        self._ports = ports
        self._base64 = text
        self._open = set(range(len(ports)))
        self._asked = False
        self._current: int | None = None
        self._text = b""
        self.left = False

    def opening(self) -> list[Buffer]:
        parts: list[Buffer] = [self._socket.response()]
        for index, port in enumerate(self._ports):
            for channel in (2 * index, 2 * index + 1):
                parts += self._message(channel, struct.pack("<H", port))
        return parts

    def connections(self) -> list[Connect]:
        """Return what is to be connected at the start."""
        return [Connect(index, port) for index, port in enumerate(self._ports)]

    def take_granted(self) -> bool:
        return False

    def receive(self, data: memoryview, now: float) -> list[Connect | Arrived]:
        found: list[Connect | Arrived] = []
        for event in self._socket.receive(data):
            if isinstance(event, Closed):
                self.left = True
            else:
                self._take(event, found)
        return found

    def _take(self, piece: Piece, found: list[Connect | Arrived]) -> None:
        data: Buffer = piece.data
        if piece.begins:
            self._current, self._text = None, b""
        if self._current is None and data:
            self._current = data[0] - (ord("0") if self._base64 else 0)
            data = memoryview(data)[1:]
        if self._base64:
            data = self._decode(bytes(data), last=piece.ends)
        if data and self._current is not None and self._current % 2 == 0 and self._current // 2 in self._open:
            found.append(Arrived(self._current // 2, data, False))

    def _decode(self, text: bytes, *, last: bool) -> bytes:
        text = self._text + text
        whole = len(text) if last else len(text) // 4 * 4
        self._text = text[whole:]
        try:
            return base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise spdy.ProtocolViolation(f"WebSocket: a message's base64 is wrong: {error}") from None

    def take_replies(self) -> list[Buffer]:
        replies = self._socket.take_replies()
        return [replies] if replies else []

    def room(self, key: int) -> int:
        return spdy.WINDOW_MAX

    def frame(self, key: int, data: Buffer) -> list[Buffer]:
        return self._message(2 * key, data) if key in self._open else []

    def end(self, key: int) -> list[Buffer]:
        self._open.discard(key)  # there is no word for the end of one channel
        return []

    def fail(self, key: int, message: str) -> list[Buffer]:
        if key not in self._open:
            return []
        self._open.discard(key)
        return self._message(2 * key + 1, message.encode()[: limits.STREAM_ERROR_BYTES])

    def drop(self, key: int) -> list[Buffer]:
        self._open.discard(key)
        return []

    def expire(self, older_than: float) -> list[Buffer]:
        return []

    def finish(self) -> list[Buffer]:
        return [self._socket.close()]

    def _message(self, channel: int, data: Buffer) -> list[Buffer]:
        if self._base64:
            text = bytes((ord("0") + channel,)) + base64.b64encode(data)
            return [message_head(len(text), text=True), text]
        return [message_head(1 + len(data)) + bytes((channel,)), data]
