"""The HTTP part of a session: one request, and the answer that turns its connection into SPDY or a WebSocket.

    HeadReader.feed(bytes) -> Request | None        agree(request, ...) -> Agreement        refusal(error) -> bytes

h11 parses; nothing here reads or writes. A connection carries one request: after a refusal it ends. Test: tests/unit/streamserver/test_upgrade.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11

from orlop.base import limits
from orlop.streaming.channels import choose
from orlop.streaming.spdy import ProtocolViolation
from orlop.streaming.websocket import WebSocketServer

SPDY = "spdy/3.1"
VERSION_HEADER = b"x-stream-protocol-version"


class Refused(Exception):
    """The request is answered with an error; ``headers`` go with it."""

    def __init__(self, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""
    rest: bytes
    """What the client has sent behind the request already."""

    def values(self, name: bytes) -> list[str]:
        """Return the comma-separated values of a header, in order."""
        found = (value.decode("latin-1") for key, value in self.headers if key == name)
        return [each.strip() for value in found for each in value.split(",") if each.strip()]


class HeadReader:
    """Takes a connection's first bytes until the request is whole."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.STREAM_HEAD_BYTES)
        self._head: h11.Request | None = None

    def feed(self, data: bytes) -> Request | None:
        """Return the request once it is whole. Raises Refused."""
        try:
            self._parser.receive_data(data)
            while True:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Request):
                    self._head = event
                elif isinstance(event, h11.Data):
                    raise Refused(HTTPStatus.BAD_REQUEST, "the request has a body")
                elif isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                    break
                else:
                    raise Refused(HTTPStatus.BAD_REQUEST, "not an HTTP request")
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            raise Refused(status, f"not an HTTP request: {error}") from None
        if self._head is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "not an HTTP request")
        rest, _ = self._parser.trailing_data
        return Request(
            method=self._head.method.decode("ascii"),
            path=self._head.target.decode("latin-1"),
            headers=tuple(self._head.headers),
            rest=bytes(rest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a connection becomes."""

    protocol: str
    socket: WebSocketServer | None
    """None: SPDY."""
    response: bytes
    """The 101 of SPDY; a WebSocket brings its own."""


def agree(request: Request, spdy: Sequence[str], websocket: Sequence[str]) -> Agreement:
    """Choose the protocol: the first of the client's that is known. Raises Refused."""
    upgrades = [each.lower() for each in request.values(b"upgrade")]
    if "upgrade" not in (each.lower() for each in request.values(b"connection")):
        raise Refused(HTTPStatus.BAD_REQUEST, "an upgrade to SPDY/3.1 or WebSocket is needed", ("Upgrade", "SPDY/3.1"))
    if "websocket" in upgrades:
        return _agree_websocket(request, websocket)
    if SPDY not in upgrades:
        raise Refused(HTTPStatus.BAD_REQUEST, "an upgrade to SPDY/3.1 or WebSocket is needed", ("Upgrade", "SPDY/3.1"))
    if request.method not in ("GET", "POST"):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "the method must be GET or POST", ("Allow", "GET, POST"))
    offered = request.values(VERSION_HEADER)
    if not offered:
        raise Refused(HTTPStatus.BAD_REQUEST, "the header X-Stream-Protocol-Version is missing")
    chosen = choose(offered, spdy)
    if chosen is None:
        known = [("X-Accepted-Stream-Protocol-Versions", each) for each in spdy]
        raise Refused(HTTPStatus.FORBIDDEN, f"none of the protocols {', '.join(offered)[:200]} is known", *known)
    response = (
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        f"X-Stream-Protocol-Version: {chosen}\r\n\r\n"
    )
    return Agreement(protocol=chosen, socket=None, response=response.encode("latin-1"))


def _agree_websocket(request: Request, known: Sequence[str]) -> Agreement:
    if request.method != "GET":
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "the method must be GET", ("Allow", "GET"))
    offered = request.values(b"sec-websocket-protocol")
    chosen = choose(offered or [""], known)
    if chosen is None:
        raise Refused(
            HTTPStatus.FORBIDDEN,
            f"of the protocols {', '.join(offered)[:200] or '(none)'} none is known: {', '.join(filter(None, known))}",
        )
    try:
        socket = WebSocketServer(request.headers, request.path, chosen)
    except ProtocolViolation as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
    return Agreement(protocol=chosen, socket=socket, response=b"")


def refusal(error: Refused) -> bytes:
    """Return the answer to a request that is not taken."""
    body = f"{error}\n".encode()
    lines = [f"HTTP/1.1 {error.status.value} {error.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in error.headers]
    lines += ["Content-Type: text/plain; charset=utf-8", "X-Content-Type-Options: nosniff"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body
