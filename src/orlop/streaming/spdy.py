"""SPDY/3.1, the server's side, as far as exec, attach and port-forward use it: bytes in, events out; methods return bytes to send.

    receive(bytes) -> Opened | Data | Reset | Leaving | Granted        accept(stream), reset(stream), data(stream, length), leave()

Owns the state of the connection's streams and of the two header compressors, which span the whole connection. Data is handed on as
it comes, in pieces of the caller's buffer: a frame is never assembled, only control frames are, up to a limit.

Flow control. The clients of Kubernetes do not count windows, so their data is held back by not reading the connection. A client that
does count never runs dry: it is told of windows of 2 GiB at once, and again long before they are used up. Its own windows are
obeyed from the first word about them on. Test: tests/unit/streaming/test_spdy.py.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.streaming.spdy_dictionary import DICTIONARY

VERSION: Final = 3
CONTROL: Final = 0x80000000
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN: Final = 1
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5
STREAM_ALREADY_CLOSED: Final = 9
GOAWAY_OK, GOAWAY_PROTOCOL_ERROR = 0, 1
SETTINGS_INITIAL_WINDOW_SIZE: Final = 7

LENGTH_MAX: Final = (1 << 24) - 1
WINDOW_MAX: Final = (1 << 31) - 1
WINDOW_DEFAULT: Final = 64 * limits.KIB
GRANT_AFTER: Final = 1 << 30
"""Bytes taken before the window is filled up again."""

_HEAD: Final = struct.Struct(">II")
_WORD: Final = struct.Struct(">I")


class ProtocolViolation(InvalidArgument):
    """The client sent what its protocol does not allow; the connection cannot go on."""


class Opened(NamedTuple):
    """The client wants a stream: answer with accept() or reset()."""

    stream: int
    headers: dict[str, str]
    ended: bool
    """The client will send nothing on it."""


class Data(NamedTuple):
    stream: int
    data: memoryview
    """A piece of the buffer that receive() was given: to be used before the buffer is filled again."""
    ended: bool


class Reset(NamedTuple):
    stream: int
    status: int


class Leaving(NamedTuple):
    """The client opens no more streams."""


class Granted(NamedTuple):
    """A client that counts windows has opened one."""


Event = Opened | Data | Reset | Leaving | Granted


@dataclass(slots=True)
class _Stream:
    client_ended: bool = False
    server_ended: bool = False
    received: int = 0
    credit: int = WINDOW_DEFAULT


class SpdyServer:
    """One connection."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._last_opened = 0
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        # Only empty header blocks are sent: a small window will do, and a thousand connections cost kilobytes each instead of 256.
        self._deflate = zlib.compressobj(level=1, wbits=10, memLevel=1, zdict=DICTIONARY)
        self._head = bytearray()
        self._data_left = 0
        self._data_stream = 0
        self._data_fin = False
        self._control: bytearray | None = None
        self._control_left = 0
        self._control_kind = (0, 0)
        self._replies = bytearray()
        self._counts = False
        """The client has shown that it counts windows."""
        self._initial_credit = WINDOW_DEFAULT
        self._credit = WINDOW_DEFAULT
        self._received = 0

    # ---- what the client sends ----

    def receive(self, data: memoryview) -> list[Event]:
        """Take bytes of the connection. Raises ProtocolViolation; afterwards nothing more can be understood."""
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            if self._data_left:
                taken = min(self._data_left, end - at)
                self._data_left -= taken
                self._take_data(data[at : at + taken], events)
                at += taken
            elif self._control is not None:
                taken = min(self._control_left, end - at)
                self._control += data[at : at + taken]
                self._control_left -= taken
                at += taken
                self._end_control(events)
            elif not self._head and end - at >= _HEAD.size:
                first, second = _HEAD.unpack_from(data, at)
                at += _HEAD.size
                self._begin(first, second, events)
            else:
                taken = min(_HEAD.size - len(self._head), end - at)
                self._head += data[at : at + taken]
                at += taken
                if len(self._head) == _HEAD.size:
                    first, second = _HEAD.unpack(self._head)
                    self._head.clear()
                    self._begin(first, second, events)
        return events

    def take_replies(self) -> bytes:
        """Return what the protocol itself has to say (pongs, windows, refusals), once; send it before anything that came later."""
        if not self._replies:
            return b""
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def _begin(self, first: int, second: int, events: list[Event]) -> None:
        flags, length = second >> 24, second & LENGTH_MAX
        if not first & CONTROL:
            self._data_stream, self._data_left, self._data_fin = first, length, bool(flags & FIN)
            if not length:
                self._take_data(memoryview(b""), events)
            return
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise ProtocolViolation(f"SPDY: a control frame of version {version}, not {VERSION}")
        if length > limits.SPDY_CONTROL_BYTES:
            raise ProtocolViolation(
                f"SPDY: a control frame of {length} bytes, more than {limits.SPDY_CONTROL_BYTES} are not taken"
            )
        self._control, self._control_left, self._control_kind = bytearray(), length, (kind, flags)
        self._end_control(events)

    def _end_control(self, events: list[Event]) -> None:
        if self._control is None or self._control_left:
            return
        payload, self._control = bytes(self._control), None
        kind, flags = self._control_kind
        try:
            self._control_frame(kind, flags, payload, events)
        except struct.error as error:
            raise ProtocolViolation(f"SPDY: a control frame of type {kind} is too short") from error

    def _take_data(self, piece: memoryview, events: list[Event]) -> None:
        number = self._data_stream
        ended = self._data_fin and not self._data_left
        stream = self._streams.get(number)
        self._count(len(piece))
        if stream is None or stream.client_ended:
            # Data may cross a reset of ours. For a stream that never was it is an error, said once a frame.
            if not self._data_left and (stream is not None or number > self._last_opened or not number % 2):
                self._reply_reset(number, INVALID_STREAM if stream is None else STREAM_ALREADY_CLOSED)
            return
        stream.received += len(piece)
        if stream.received >= GRANT_AFTER:
            self._reply_window(number, stream.received)
            stream.received = 0
        if ended:
            stream.client_ended = True
            self._forget_if_over(number)
        events.append(Data(number, piece, ended))

    def _count(self, taken: int) -> None:
        self._received += taken
        if self._received >= GRANT_AFTER:
            self._reply_window(0, self._received)
            self._received = 0

    def _control_frame(self, kind: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if kind == SYN_STREAM:
            (number,) = _WORD.unpack_from(payload)
            self._open(number & WINDOW_MAX, bool(flags & FIN), self._headers(payload[10:]), events)
        elif kind in (SYN_REPLY, HEADERS):
            # Nothing of ours is answered and no headers follow; but the decompressor has to see every block.
            _WORD.unpack_from(payload)
            self._headers(payload[4:])
        elif kind == RST_STREAM:
            number, status = _HEAD.unpack_from(payload)
            if self._streams.pop(number, None) is not None:
                events.append(Reset(number, status))
        elif kind == PING:
            (number,) = _WORD.unpack_from(payload)
            if number % 2:  # an even one would be the answer to a ping of ours
                self._replies += _control(PING, 0, _WORD.pack(number))
        elif kind == GOAWAY:
            events.append(Leaving())
        elif kind == WINDOW_UPDATE:
            number, delta = _HEAD.unpack_from(payload)
            self._granted(number & WINDOW_MAX, delta & WINDOW_MAX, events)
        elif kind == SETTINGS:
            self._settings(payload, events)
        # Other types may be ignored (SPDY 2.2.1): NOOP, CREDENTIAL and what is to come.

    def _open(self, number: int, ended: bool, headers: dict[str, str], events: list[Event]) -> None:
        if not number % 2 or number <= self._last_opened:
            raise ProtocolViolation(f"SPDY: stream {number} cannot be opened after stream {self._last_opened}")
        self._last_opened = number
        if len(self._streams) >= limits.SPDY_STREAMS:
            self._reply_reset(number, REFUSED_STREAM)
            return
        self._streams[number] = _Stream(client_ended=ended, credit=self._initial_credit)
        events.append(Opened(number, headers, ended))

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block, limits.SPDY_HEADER_BYTES + 1)
        except zlib.error as error:
            raise ProtocolViolation(f"SPDY: a header block does not decompress: {error}") from None
        if len(text) > limits.SPDY_HEADER_BYTES or self._inflate.unconsumed_tail:
            raise ProtocolViolation(f"SPDY: headers of more than {limits.SPDY_HEADER_BYTES} bytes")
        if self._inflate.eof:
            raise ProtocolViolation("SPDY: the header compression has ended")
        return parse_headers(text)

    # ---- windows ----

    def _reply_window(self, number: int, delta: int) -> None:
        self._replies += _control(WINDOW_UPDATE, 0, _HEAD.pack(number, delta))

    def _granted(self, number: int, delta: int, events: list[Event]) -> None:
        self._counts = True
        if number == 0:
            self._credit = min(self._credit + delta, WINDOW_MAX)
        elif (stream := self._streams.get(number)) is not None:
            stream.credit = min(stream.credit + delta, WINDOW_MAX)
        events.append(Granted())

    def _settings(self, payload: bytes, events: list[Event]) -> None:
        (count,) = _WORD.unpack_from(payload)
        if len(payload) < 4 + 8 * count:
            raise ProtocolViolation("SPDY: a SETTINGS frame is shorter than its list")
        for at in range(count):
            key, value = _HEAD.unpack_from(payload, 4 + 8 * at)
            if key & LENGTH_MAX == SETTINGS_INITIAL_WINDOW_SIZE:
                self._counts = True
                change = min(value, WINDOW_MAX) - self._initial_credit
                self._initial_credit += change
                for stream in self._streams.values():
                    stream.credit += change
                events.append(Granted())

    def room(self, number: int) -> int:
        """Return how many bytes may be sent on a stream now; a client that counts no windows has always room."""
        if not self._counts:
            return WINDOW_MAX
        stream = self._streams.get(number)
        return 0 if stream is None else max(min(stream.credit, self._credit), 0)

    # ---- what we send ----

    def opening(self) -> bytes:
        """Return what comes first: windows so large that a client that counts them is never held back by them."""
        setting = _WORD.pack(1) + _HEAD.pack(SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_MAX)
        more = _HEAD.pack(0, WINDOW_MAX - WINDOW_DEFAULT)
        return _control(SETTINGS, 0, setting) + _control(WINDOW_UPDATE, 0, more)

    def accept(self, number: int) -> bytes:
        """Return the SYN_REPLY that must precede all data on a stream."""
        block = self._deflate.compress(_WORD.pack(0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control(SYN_REPLY, 0, _WORD.pack(number) + block)

    def data(self, number: int, length: int, *, end: bool = False) -> bytes:
        """Return the head of a data frame: ``length`` bytes, at most LENGTH_MAX, must follow it. b"" for a stream that is closed."""
        stream = self._streams.get(number)
        if stream is None or stream.server_ended:
            return b""
        stream.credit -= length
        self._credit -= length
        if end:
            stream.server_ended = True
            self._forget_if_over(number)
        return data_head(number, length, end=end)

    def reset(self, number: int, status: int = CANCEL) -> bytes:
        """Return the frame that closes a stream both ways; b"" if it is closed."""
        if self._streams.pop(number, None) is None:
            return b""
        return _control(RST_STREAM, 0, _HEAD.pack(number, status))

    def leave(self, status: int = GOAWAY_OK) -> bytes:
        """Return the frame that says that this connection takes no more streams."""
        return _control(GOAWAY, 0, _HEAD.pack(self._last_opened, status))

    def is_open(self, number: int) -> bool:
        """May data still be sent on it?"""
        stream = self._streams.get(number)
        return stream is not None and not stream.server_ended

    def _reply_reset(self, number: int, status: int) -> None:
        self._streams.pop(number, None)
        if len(self._replies) < limits.SPDY_CONTROL_BYTES:
            self._replies += _control(RST_STREAM, 0, _HEAD.pack(number, status))

    def _forget_if_over(self, number: int) -> None:
        stream = self._streams[number]
        if stream.client_ended and stream.server_ended:
            del self._streams[number]


def _control(kind: int, flags: int, payload: bytes) -> bytes:
    return _HEAD.pack(CONTROL | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def data_head(number: int, length: int, *, end: bool) -> bytes:
    """Return the head of a data frame, whatever the state of a connection is."""
    return _HEAD.pack(number, (FIN << 24 if end else 0) | length)


def parse_headers(text: bytes) -> dict[str, str]:
    """Return the headers of a decompressed block, names in lower case, the first of several values. Raises ProtocolViolation."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if count > len(text) - at:
            raise ProtocolViolation("SPDY: a header is longer than its block")
        at += count
        return text[at - count : at]

    count = int.from_bytes(take(4), "big")
    if count > limits.SPDY_HEADERS:
        raise ProtocolViolation(f"SPDY: {count} headers, more than {limits.SPDY_HEADERS} are not taken")
    headers: dict[str, str] = {}
    for _ in range(count):
        name = take(int.from_bytes(take(4), "big")).decode("latin-1").lower()
        value = take(int.from_bytes(take(4), "big")).partition(b"\0")[0].decode("latin-1")
        if not name or name in headers:
            raise ProtocolViolation(f"SPDY: header {name!r} is empty or given twice")
        headers[name] = value
    if at != len(text):
        raise ProtocolViolation("SPDY: bytes after the last header")
    return headers
