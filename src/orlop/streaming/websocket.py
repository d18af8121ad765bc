"""WebSocket, the server's side: wsproto keeps the protocol; here are its pieces of messages, its replies, and heads for data that is sent.

Messages are never assembled: each piece is handed on as it comes, with whether it begins and whether it ends its message. What is sent
are whole messages whose data stays where it is: only the head is made. Test: tests/unit/streaming/test_websocket.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from orlop.streaming.spdy import ProtocolViolation

CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_INTERNAL = 1000, 1002, 1011
_TEXT, _BINARY, _CLOSE = 0x81, 0x82, 0x88
_FEED_BYTES: Final = 64 << 10


class Piece(NamedTuple):
    """A piece of a message."""

    data: bytes
    begins: bool
    ends: bool


class Closed(NamedTuple):
    """The client has ended the session; the answer is among the replies."""

    code: int


class WebSocketServer:
    """One connection, from its upgrade on."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], path: str, protocol: str) -> None:
        """Take over a parsed request; ``protocol`` is what was chosen of the client's list, "" for none. Raises ProtocolViolation."""
        self._connection = WSConnection(ConnectionType.SERVER)
        self._replies = bytearray()
        self._begins = True
        self._over = False
        try:
            self._connection.initiate_upgrade_connection(list(headers), path)
            self._response = self._connection.send(AcceptConnection(subprotocol=protocol or None))
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise ProtocolViolation(f"WebSocket: {error}") from None
        for _ in self._connection.events():
            pass

    def response(self) -> bytes:
        """Return the answer to the request."""
        return self._response

    def receive(self, data: memoryview) -> list[Piece | Closed]:
        """Take bytes of the connection. Raises ProtocolViolation; a close with the reason is among the replies then."""
        found: list[Piece | Closed] = []
        for at in range(0, len(data), _FEED_BYTES):
            if self._over:
                break
            try:
                self._connection.receive_data(bytes(data[at : at + _FEED_BYTES]))
                self._take_events(found)
            except (RemoteProtocolError, LocalProtocolError) as error:
                self._over = True
                self._replies += self.close(CLOSE_PROTOCOL, str(error))
                raise ProtocolViolation(f"WebSocket: {error}") from None
        return found

    def _take_events(self, found: list[Piece | Closed]) -> None:
        for event in self._connection.events():
            if isinstance(event, BytesMessage | TextMessage):
                data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                found.append(Piece(data, self._begins, event.message_finished))
                self._begins = event.message_finished
            elif isinstance(event, Ping):
                self._replies += self._connection.send(event.response())
            elif isinstance(event, CloseConnection):
                self._over = True
                self._replies += self.close(event.code)
                found.append(Closed(int(event.code)))

    def take_replies(self) -> bytes:
        """Return pongs and closes that are due, once."""
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> bytes:
        """Return the frame that ends our side; b"" if it has ended."""
        try:
            # A reason has 123 bytes at most.
            return self._connection.send(
                CloseConnection(code=code, reason=reason.encode()[:120].decode(errors="ignore"))
            )
        except LocalProtocolError:
            return b""


def close_frame(code: int) -> bytes:
    """Return the frame that ends the server's side, whatever the state of a connection is."""
    return struct.pack(">BBH", _CLOSE, 2, code)


def message_head(length: int, *, text: bool = False) -> bytes:
    """Return the head of a message of ``length`` bytes from the server, which must follow it."""
    kind = _TEXT if text else _BINARY
    if length < 126:
        return struct.pack(">BB", kind, length)
    if length <= 0xFFFF:
        return struct.pack(">BBH", kind, 126, length)
    return struct.pack(">BBQ", kind, 127, length)
