"""Clients of the streaming server, written from the protocols' texts: SPDY/3.1 and WebSocket, synchronous, one frame at a time on demand.

Nothing of orlop.streaming is used for framing: an error there must not be met by the same error here. (The header dictionary is shared.)
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from orlop.streaming.spdy_dictionary import DICTIONARY

SECONDS = 30.0
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
TYPES = {ERROR: "error", STDIN: "stdin", STDOUT: "stdout", STDERR: "stderr", RESIZE: "resize"}


class Gone(Exception):
    """The server has closed the connection."""


@dataclass
class Answer:
    status: int
    headers: dict[str, list[str]]
    body: bytes


def dial(url: str, *, context: ssl.SSLContext | None = None, receive_buffer: int = 0) -> socket.socket:
    where = urlsplit(url)
    family = socket.AF_INET6 if ":" in (where.hostname or "") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(SECONDS)
    sock.connect((where.hostname, where.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if where.scheme == "https":
        assert context is not None
        return context.wrap_socket(sock, server_hostname=where.hostname)
    return sock


def ask(sock: socket.socket, url: str, headers: list[tuple[str, str]], method: str = "POST") -> Answer:
    """Send a request, read the head of the answer (and the body, unless the connection was taken over)."""
    lines = [f"{method} {urlsplit(url).path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name}: {value}" for name, value in headers]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    return read_answer(sock)


def read_answer(sock: socket.socket) -> Answer:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        one = sock.recv(1)  # not a byte more: what follows belongs to the protocol
        if not one:
            raise Gone(f"after {head!r}")
        head += one
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        name, _, value = line.partition(":")
        found[name.strip().lower()].append(value.strip())
    body = b""
    length = int(found.get("content-length", ["0"])[0])
    while len(body) < length:
        body += sock.recv(length - len(body))
    return Answer(status=int(first.split(" ")[1]), headers=dict(found), body=body)


class SpdyClient:
    """A connection after its upgrade: streams by number, what arrived on each, and which are ended or reset."""

    def __init__(
        self, url: str, *protocols: str, context: ssl.SSLContext | None = None, receive_buffer: int = 0
    ) -> None:
        self.sock = dial(url, context=context, receive_buffer=receive_buffer)
        wanted = [("X-Stream-Protocol-Version", each) for each in protocols]
        self.answer = ask(self.sock, url, [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), *wanted])
        assert self.answer.status == 101, self.answer
        self.protocol = self.answer.headers["x-stream-protocol-version"][0]
        self.frames = SpdyFrames(self.sock.sendall, self._receive)

    def _receive(self) -> bytes:
        return self.sock.recv(1 << 18)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> SpdyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class SpdyFrames:
    """SPDY over any way to send and to receive bytes."""

    send_bytes: Any
    receive_bytes: Any
    next_stream: int = 1
    data: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    replied: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    reset: dict[int, int] = field(default_factory=dict)
    pongs: list[int] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)
    order: list[tuple[int, int, bool]] = field(default_factory=list)
    """(stream, length, last) of every data frame."""
    left: bool = False
    dropped: int = 0
    """A stream whose data is only counted."""

    def __post_init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    def control(self, kind: int, payload: bytes, flags: int = 0) -> None:
        self.send_bytes(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload)

    def header_block(self, headers: dict[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                plain += struct.pack(">I", len(text)) + text
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def open(self, wait: bool = True, **headers: str) -> int:
        number, self.next_stream = self.next_stream, self.next_stream + 2
        self.control(1, struct.pack(">IIBB", number, 0, 0, 0) + self.header_block(headers))
        if wait:
            self.until(lambda: number in self.replied or number in self.reset)
        return number

    def send(self, number: int, data: bytes = b"", end: bool = False) -> None:
        self.send_bytes(struct.pack(">II", number, (1 << 24 if end else 0) | len(data)) + data)

    def until(self, true: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, "what was waited for did not come"
            self.read_frame()

    def read_frame(self) -> None:
        first, second = struct.unpack(">II", self._take(8))
        length, flags = second & 0xFFFFFF, second >> 24
        payload = self._take(length)
        if not first >> 31:
            if first != self.dropped:
                self.data[first] += payload
            self.order.append((first, length, bool(flags & 1)))
            if flags & 1:
                self.ended.add(first)
            return
        assert first >> 16 == 0x8003
        kind = first & 0xFFFF
        if kind == 2:
            (number,) = struct.unpack_from(">I", payload)
            assert self._inflate.decompress(payload[4:]) == b"\0\0\0\0"
            self.replied.add(number)
        elif kind == 3:
            number, status = struct.unpack(">II", payload)
            self.reset[number] = status
        elif kind == 6:
            self.pongs.append(struct.unpack(">I", payload)[0])
        elif kind == 7:
            self.left = True
        elif kind == 9:
            self.windows.append(struct.unpack(">II", payload))

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self.receive_bytes()
            if not more:
                raise Gone
            self._buffer += more
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


class Command(SpdyClient):
    """An exec or attach session over SPDY."""

    def __init__(
        self,
        url: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        tty: bool = False,
        protocol: str = "v4.channel.k8s.io",
        size: tuple[int, int] | None = None,
        **more: Any,
    ) -> None:
        """``size``: rows and columns, sent in one go with the channel for them, so that the command cannot begin before."""
        super().__init__(url, protocol, **more)
        wanted = [ERROR, *([STDIN] if stdin else []), *([STDOUT] if stdout else []), *([STDERR] if stderr else [])]
        self.streams = {channel: self.frames.open(streamType=TYPES[channel]) for channel in wanted}
        if tty and protocol[:2] not in ("ch", "v2"):
            together: list[bytes] = []
            self.frames.send_bytes = together.append
            self.streams[RESIZE] = self.frames.open(wait=False, streamType=TYPES[RESIZE])
            if size is not None:
                self.resize(*size)
            self.frames.send_bytes = self.sock.sendall
            self.sock.sendall(b"".join(together))
            self.frames.until(lambda: self.streams[RESIZE] in self.frames.replied)

    def write(self, data: bytes, end: bool = False) -> None:
        self.frames.send(self.streams[STDIN], data, end)

    def resize(self, rows: int, columns: int) -> None:
        self.frames.send(self.streams[RESIZE], json.dumps({"Width": columns, "Height": rows}).encode())

    def out(self, channel: int = STDOUT) -> bytes:
        return bytes(self.frames.data[self.streams[channel]])

    def until_out(self, text: bytes, channel: int = STDOUT) -> None:
        self.frames.until(lambda: text in self.out(channel))

    def finish(self) -> Any:
        """Wait for the end of every output and of the error stream; return the status."""
        wanted = {self.streams[channel] for channel in (STDOUT, STDERR, ERROR) if channel in self.streams}
        self.frames.until(lambda: wanted <= self.frames.ended)
        text = self.out(ERROR)
        return json.loads(text) if self.protocol.startswith("v4") else text


def exit_code(status: Any) -> int:
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode", status
    (cause,) = status["details"]["causes"]
    assert cause["reason"] == "ExitCode"
    return int(cause["message"])


class WebSocket:
    """A WebSocket, message by message."""

    def __init__(self, url: str, *protocols: str, context: ssl.SSLContext | None = None) -> None:
        self.sock = dial(url, context=context)
        where = urlsplit(url)
        self.connection = WSConnection(ConnectionType.CLIENT)
        request = Request(host=where.netloc, target=where.path, subprotocols=list(protocols))
        self.sock.sendall(self.connection.send(request))
        self.messages: list[bytes] = []
        self.code: int | None = None
        self.pongs: list[bytes] = []
        self.rejected: int | None = None
        self.protocol: str | None = None
        self._part = b""
        accepted: list[AcceptConnection] = []
        while not accepted and self.rejected is None:
            self._receive(accepted)
        if accepted:
            self.protocol = accepted[0].subprotocol

    def _receive(self, accepted: list[Any]) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise Gone
        self.connection.receive_data(data)
        for event in self.connection.events():
            if isinstance(event, AcceptConnection):
                accepted.append(event)
            elif isinstance(event, RejectConnection):
                self.rejected = event.status_code
            elif isinstance(event, BytesMessage | TextMessage):
                self._part += event.data.encode() if isinstance(event.data, str) else bytes(event.data)
                if event.message_finished:
                    self.messages.append(self._part)
                    self._part = b""
            elif isinstance(event, Ping):
                self.sock.sendall(self.connection.send(event.response()))
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                self.code = event.code
                if self.connection.state.name == "REMOTE_CLOSING":
                    self.sock.sendall(self.connection.send(event.response()))

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.connection.send(BytesMessage(data=data)))

    def send_text(self, text: str) -> None:
        self.sock.sendall(self.connection.send(TextMessage(data=text)))

    def send_parts(self, *parts: bytes) -> None:
        for part in parts[:-1]:
            self.sock.sendall(self.connection.send(Message(data=part, message_finished=False)))
        self.send(parts[-1])

    def ping(self, payload: bytes) -> None:
        self.sock.sendall(self.connection.send(Ping(payload=payload)))

    def until(self, true: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < deadline, "what was waited for did not come"
            self._receive([])

    def out(self, channel: int) -> bytes:
        return b"".join(each[1:] for each in self.messages if each[:1] == bytes((channel,)))

    def finish(self) -> Any:
        self.until(lambda: self.code is not None)
        return json.loads(self.out(ERROR))

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tunnel(WebSocket):
    """SPDY frames through a WebSocket."""

    def __init__(self, url: str, **more: Any) -> None:
        super().__init__(url, "SPDY/3.1+portforward.k8s.io", **more)
        self.frames = SpdyFrames(self.send, self._next)

    def _next(self) -> bytes:
        self.until(lambda: self.messages or self.code is not None)
        return self.messages.pop(0) if self.messages else b""
