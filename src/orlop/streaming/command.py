"""An exec or attach session on its connection: channels in, channels out, whatever carries them.

    SpdyCommand        a SPDY stream a channel            WebSocketCommand     the first byte of a message is its channel

Both have the same methods (Carrier); bytes in, Incoming out; frame() says what to send. Test: tests/unit/streaming/test_command.py.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple, Protocol

from orlop.streaming import spdy
from orlop.streaming.channels import (
    CLOSE,
    ERROR,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    V1,
    V1_BASE64,
    V4_BASE64,
    V5,
    Outcome,
    Streams,
    channel_named,
    encode_outcome,
)
from orlop.streaming.websocket import CLOSE_NORMAL, Closed, Piece, WebSocketServer, close_frame, message_head

Buffer = bytes | bytearray | memoryview


class Incoming(NamedTuple):
    """What the client sent on a channel, or that it sends or wants no more."""

    channel: int
    data: Buffer
    ended: bool
    """Nothing more comes on it."""
    dropped: bool = False
    """Nothing more is wanted on it either."""


class Carrier(Protocol):
    """What carries a session."""

    def opening(self) -> list[Buffer]:
        """Return what is sent first."""

    def receive(self, data: memoryview) -> list[Incoming]:
        """Take bytes of the connection; the pieces are to be used before the buffer is filled again. Raises ProtocolViolation."""

    def take_replies(self) -> bytes:
        """Return what the protocol itself has to say, once; to be sent after each receive(), also after one that raised."""

    @property
    def complete(self) -> bool:
        """Are all channels there?"""

    @property
    def sized(self) -> bool:
        """Is there a channel for the terminal's size?"""

    @property
    def left(self) -> bool:
        """Has the client said that it goes?"""

    def room(self, channel: int) -> int:
        """Return how many bytes may be sent on a channel now; 0: later."""

    def wants(self, channel: int) -> bool:
        """Does the client still take what is sent on a channel?"""

    def frame(self, channel: int, data: Buffer) -> list[Buffer]:
        """Return what is sent for data on a channel; nothing when the channel is gone."""

    def finish(self, outcome: Outcome) -> list[Buffer]:
        """Return what is sent last: the end of every channel, the outcome after all output."""

    def last_words(self, outcome: Outcome) -> bytes:
        """Return what somebody else may send in our place at any later time, if we can't; nothing changes here."""


class SpdyCommand:
    """A stream a channel, told apart by the header streamType; the client opens them, error first, and waits for each."""

    def __init__(self, streams: Streams, protocol: str) -> None:
        self._spdy = spdy.SpdyServer()
        self._protocol = protocol
        self._awaited = set(streams.channels(protocol))
        self._numbers: dict[int, int] = {}
        self._channels: dict[int, int] = {}
        self._accepts = bytearray()
        self.sized = RESIZE in self._awaited
        self.left = False

    def opening(self) -> list[Buffer]:
        return [self._spdy.opening()]

    @property
    def complete(self) -> bool:
        return not self._awaited

    def receive(self, data: memoryview) -> list[Incoming]:
        found: list[Incoming] = []
        for event in self._spdy.receive(data):
            match event:
                case spdy.Data(number, piece, ended):
                    channel = self._channels.get(number)
                    if channel in (STDIN, RESIZE):
                        found.append(Incoming(channel, piece, ended))
                case spdy.Opened(number, headers, ended):
                    self._open(number, headers, ended, found)
                case spdy.Reset(number, _):
                    channel = self._channels.pop(number, None)
                    if channel is not None:
                        found.append(Incoming(channel, b"", True, True))
                case spdy.Leaving():
                    self.left = True
                case spdy.Granted():
                    pass
        return found

    def _open(self, number: int, headers: dict[str, str], ended: bool, found: list[Incoming]) -> None:
        channel = channel_named(headers.get("streamtype", ""))
        if channel is None or channel not in self._awaited:
            self._accepts += self._spdy.reset(number, spdy.REFUSED_STREAM)
            return
        self._awaited.discard(channel)
        self._numbers[channel], self._channels[number] = number, channel
        self._accepts += self._spdy.accept(number)
        if channel == STDIN and self._protocol == V1:
            self._accepts += self._spdy.data(number, 0, end=True)
        if ended and channel in (STDIN, RESIZE):
            found.append(Incoming(channel, b"", True))

    def take_replies(self) -> bytes:
        replies = self._spdy.take_replies() + bytes(self._accepts)
        self._accepts.clear()
        return replies

    def room(self, channel: int) -> int:
        number = self._numbers.get(channel)
        return 0 if number is None else self._spdy.room(number)

    def wants(self, channel: int) -> bool:
        number = self._numbers.get(channel)
        return number is not None and self._spdy.is_open(number)

    def frame(self, channel: int, data: Buffer) -> list[Buffer]:
        number = self._numbers.get(channel)
        head = b"" if number is None else self._spdy.data(number, len(data))
        return [head, data] if head else []

    def finish(self, outcome: Outcome) -> list[Buffer]:
        parts: list[Buffer] = [self._end(channel) for channel in (STDOUT, STDERR, STDIN, RESIZE)]
        text = encode_outcome(outcome, self._protocol)
        number = self._numbers.get(ERROR)
        if number is not None and self._spdy.is_open(number):
            parts += [self._spdy.data(number, len(text), end=True), text]
        return [part for part in parts if part]

    def last_words(self, outcome: Outcome) -> bytes:
        text = encode_outcome(outcome, self._protocol)
        outputs = [self._numbers[channel] for channel in (STDOUT, STDERR) if channel in self._numbers]
        words = b"".join(spdy.data_head(number, 0, end=True) for number in outputs)
        if ERROR in self._numbers:
            words += spdy.data_head(self._numbers[ERROR], len(text), end=True) + text
        return words

    def _end(self, channel: int) -> bytes:
        number = self._numbers.get(channel)
        return b"" if number is None else self._spdy.data(number, 0, end=True)


class WebSocketCommand:
    """All channels are there from the start; only v5 lets the client end its input."""

    def __init__(self, socket: WebSocketServer, streams: Streams, protocol: str) -> None:
        self._socket = socket
        self._protocol = protocol
        self._base64 = protocol in (V1_BASE64, V4_BASE64)
        self._channels = streams.channels(protocol)
        self._entries = {channel for channel in (STDIN, RESIZE) if channel in self._channels}
        self._current: int | None = None
        self._text = b""
        self.complete = True
        self.sized = RESIZE in self._channels
        self.left = False

    def opening(self) -> list[Buffer]:
        # Clients learn from an empty message that the session is there.
        first = min(channel for channel in self._channels if channel in (STDOUT, STDERR, ERROR))
        return [self._socket.response(), *self._message(first, b"")]

    def receive(self, data: memoryview) -> list[Incoming]:
        found: list[Incoming] = []
        for event in self._socket.receive(data):
            if isinstance(event, Closed):
                self.left = True
            else:
                self._take(event, found)
        return found

    def _take(self, piece: Piece, found: list[Incoming]) -> None:
        data: Buffer = piece.data
        if piece.begins:
            self._current, self._text = None, b""
        if self._current is None and data:
            self._current = data[0] - (ord("0") if self._base64 else 0)
            data = memoryview(data)[1:]
        if self._current == CLOSE and self._protocol == V5:
            if data and data[0] in self._entries:
                self._entries.discard(data[0])
                found.append(Incoming(data[0], b"", True))
            return
        if self._base64:
            data = self._decode(bytes(data), last=piece.ends)
        if data and self._current in self._entries:
            found.append(Incoming(self._current, data, False))

    def _decode(self, text: bytes, *, last: bool) -> bytes:
        text = self._text + text
        whole = len(text) if last else len(text) // 4 * 4
        self._text = text[whole:]
        try:
            return base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise spdy.ProtocolViolation(f"WebSocket: a message's base64 is wrong: {error}") from None

    def take_replies(self) -> bytes:
        return self._socket.take_replies()

    def room(self, channel: int) -> int:
        return spdy.WINDOW_MAX

    def wants(self, channel: int) -> bool:
        return channel in self._channels

    def frame(self, channel: int, data: Buffer) -> list[Buffer]:
        return self._message(channel, data) if channel in self._channels else []

    def _message(self, channel: int, data: Buffer) -> list[Buffer]:
        if self._base64:
            text = b"%d" % channel + base64.b64encode(data)
            return [message_head(len(text), text=True), text]
        return [message_head(1 + len(data)) + bytes((channel,)), data]

    def finish(self, outcome: Outcome) -> list[Buffer]:
        text = encode_outcome(outcome, self._protocol)
        parts: list[Buffer] = self._message(ERROR, text) if text else []
        return [*parts, self._socket.close(CLOSE_NORMAL)]

    def last_words(self, outcome: Outcome) -> bytes:
        text = encode_outcome(outcome, self._protocol)
        return b"".join(self._message(ERROR, text)) + close_frame(CLOSE_NORMAL)


def command_of(protocol: str, streams: Streams, socket: WebSocketServer | None) -> Carrier:
    """Return the carrier for a connection after its upgrade; with a WebSocket, or SPDY."""
    return SpdyCommand(streams, protocol) if socket is None else WebSocketCommand(socket, streams, protocol)
