"""SPDY frames: golden bytes, any cutting of the same bytes gives the same events, and nothing a client sends does more than end it."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.streaming import spdy
from orlop.streaming.spdy import Data, Granted, Leaving, Opened, ProtocolViolation, Reset, SpdyServer
from orlop.streaming.spdy_dictionary import DICTIONARY


class Peer:
    """A client's compressor, and its frames."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def block(self, headers: list[tuple[bytes, bytes]], count: int | None = None) -> bytes:
        plain = struct.pack(">I", len(headers) if count is None else count)
        for pair in headers:
            for text in pair:
                plain += struct.pack(">I", len(text)) + text
        return self.compress(plain)

    def compress(self, plain: bytes) -> bytes:
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def open(self, number: int, flags: int = 0, **headers: str) -> bytes:
        block = self.block([(name.encode(), value.encode()) for name, value in headers.items()])
        return control(1, struct.pack(">IIBB", number, 0, 0, 0) + block, flags)


def control(kind: int, payload: bytes, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", number, flags << 24 | len(payload)) + payload


def opened(*numbers: int) -> tuple[SpdyServer, Peer]:
    server, peer = SpdyServer(), Peer()
    for number in numbers:
        server.receive(memoryview(peer.open(number, streamtype="data")))
        server.accept(number)
    return server, peer


def test_the_dictionary_is_the_protocols():
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_golden_bytes():
    server, _ = opened(1, 3)
    assert server.data(1, 5).hex() == "0000000100000005"
    assert server.data(1, 0, end=True).hex() == "0000000101000000"
    assert server.reset(3, spdy.CANCEL).hex() == "80030003000000080000000300000005"
    assert server.leave().hex() == "80030007000000080000000300000000"
    assert server.opening().hex() == "800300040000000c00000001000000077fffffff8003000900000008000000007ffeffff"
    server.receive(memoryview(control(6, b"\0\0\0\x07")))
    assert server.take_replies().hex() == "800300060000000400000007"
    assert server.take_replies() == b""


def test_a_reply_is_understood_by_an_inflater_of_the_whole_connection():
    server, inflate = SpdyServer(), zlib.decompressobj(zdict=DICTIONARY)
    peer = Peer()
    for number in (1, 3, 5):
        server.receive(memoryview(peer.open(number, a="b")))
        reply = server.accept(number)
        assert reply[:4] == b"\x80\x03\0\x02"
        assert struct.unpack_from(">I", reply, 8) == (number,)
        assert inflate.decompress(reply[12:]) == b"\0\0\0\0"


def test_events():
    server, peer = SpdyServer(), Peer()
    frames = peer.open(1, Streamtype="stdin") + peer.open(3, flags=1, Streamtype="stdout")
    frames += data(1, b"abc") + data(1, b"", 1) + control(3, struct.pack(">II", 3, 5)) + control(7, bytes(8))
    found = server.receive(memoryview(frames))
    assert found == [
        Opened(1, {"streamtype": "stdin"}, False),
        Opened(3, {"streamtype": "stdout"}, True),
        Data(1, memoryview(b"abc"), False),
        Data(1, memoryview(b""), True),
        Reset(3, 5),
        Leaving(),
    ]


@given(st.data())
def test_any_cutting_gives_the_same_bytes(draws):
    peer = Peer()
    wire = peer.open(1, streamtype="stdin") + peer.open(3, streamtype="x" * 300)
    sent = {1: b"", 3: b""}
    for number, payload in draws.draw(
        st.lists(st.tuples(st.sampled_from([1, 3]), st.binary(max_size=60)), max_size=20)
    ):
        wire += data(number, payload)
        sent[number] += payload
    wire += control(6, b"\0\0\0\x01") + data(1, b"", 1) + data(3, b"end", 1)
    sent[3] += b"end"
    cuts = sorted(draws.draw(st.lists(st.integers(0, len(wire)), max_size=30)))
    server = SpdyServer()
    got, ended = {1: b"", 3: b""}, set()
    for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        for event in server.receive(memoryview(wire[begin:end])):
            if isinstance(event, Data):
                got[event.stream] += bytes(event.data)
                assert event.stream not in ended
                if event.ended:
                    ended.add(event.stream)
    assert (got, ended) == (sent, {1, 3})
    assert server.take_replies() == control(6, b"\0\0\0\x01")


@given(st.binary(max_size=400), st.booleans())
def test_nothing_but_a_violation_comes_of_lies(noise, framed):
    server, peer = SpdyServer(), Peer()
    server.receive(memoryview(peer.open(1, streamtype="stdin")))
    wire = control(noise[0] % 12, noise[1:]) if framed and noise else noise
    try:
        for event in server.receive(memoryview(wire)):
            assert isinstance(event, Opened | Data | Reset | Leaving | Granted)
    except ProtocolViolation as error:
        assert "SPDY" in str(error)
    assert len(server.take_replies()) <= limits.SPDY_CONTROL_BYTES + 64


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (control(1, b"", version=2), "version 2"),
        (struct.pack(">HHI", 0x8003, 1, limits.SPDY_CONTROL_BYTES + 1), "more than"),
        (control(1, b"\0\0"), "too short"),
        (control(9, b"\0"), "too short"),
        (control(4, b"\0\0\0\x09"), "shorter than its list"),
        (control(1, struct.pack(">IIBB", 1, 0, 0, 0) + b"not zlib"), "does not decompress"),
    ],
)
def test_violations(wire, message):
    with pytest.raises(ProtocolViolation, match=message):
        SpdyServer().receive(memoryview(wire))


def opening(peer: Peer, block: bytes, number: int = 1) -> memoryview:
    return memoryview(control(1, struct.pack(">IIBB", number, 0, 0, 0) + block))


def test_headers_that_lie():
    for block, message in (
        (lambda peer: peer.block([(b"a", b"b")], count=2), "longer than its block"),
        (lambda peer: peer.block([(b"a", b"b"), (b"A", b"c")]), "given twice"),
        (lambda peer: peer.block([(b"", b"b")]), "empty"),
        (lambda peer: peer.block([], count=1 << 31), "headers, more than"),
        (lambda peer: peer.compress(b"\0\0\0\0more"), "after the last header"),
        (lambda peer: peer.compress(bytes(limits.SPDY_HEADER_BYTES + 1)), "headers of more than"),
        (lambda peer: peer.compress(bytes(50_000_000)), "headers of more than|more than .* not taken"),
    ):
        peer = Peer()
        with pytest.raises(ProtocolViolation, match=message):
            SpdyServer().receive(opening(peer, block(peer)))


def test_streams_that_cannot_be():
    server, peer = opened(1, 5)
    for number in (2, 3, 5, 0):
        with pytest.raises(ProtocolViolation, match="cannot be opened"):
            server.receive(opening(peer, peer.block([]), number))
    server, peer = SpdyServer(), Peer()
    for number in range(1, 2 * limits.SPDY_STREAMS, 2):
        server.receive(memoryview(peer.open(number, a="b")))
    assert server.take_replies() == b""
    last = 2 * limits.SPDY_STREAMS + 1
    assert server.receive(memoryview(peer.open(last, a="b"))) == []
    assert server.take_replies() == control(3, struct.pack(">II", last, spdy.REFUSED_STREAM))


def test_data_where_no_stream_is():
    server, _ = opened(1)
    assert server.receive(memoryview(data(99, b"x"))) == []
    assert server.take_replies() == control(3, struct.pack(">II", 99, spdy.INVALID_STREAM))
    server.receive(memoryview(data(1, b"", 1)))
    assert server.receive(memoryview(data(1, b"late"))) == []
    assert server.take_replies() == control(3, struct.pack(">II", 1, spdy.STREAM_ALREADY_CLOSED))
    assert server.data(1, 3) == b""


def test_windows_of_a_client_that_counts():
    server, peer = opened(1)
    assert server.room(1) == spdy.WINDOW_MAX
    server.data(1, 60000)
    assert server.receive(memoryview(control(9, struct.pack(">II", 1, 1000)))) == [Granted()]
    assert server.room(1) == 65536 - 60000  # the connection's own window is smaller
    server.receive(memoryview(control(9, struct.pack(">II", 0, 1000))))
    assert server.room(1) == 65536 - 60000 + 1000
    server.data(1, 6536)
    assert server.room(1) == 0
    setting = struct.pack(">III", 1, 7, 10)
    server.receive(memoryview(control(4, setting)))
    assert server.room(1) == 0
    server.receive(memoryview(peer.open(3, a="b")))
    server.receive(memoryview(control(9, struct.pack(">II", 0, 1 << 30))))
    assert server.room(3) == 10


def test_the_clients_window_is_filled_up():
    server, _ = opened(1)
    piece = memoryview(bytes(1 << 20))
    for _ in range(1024):
        server.receive(memoryview(struct.pack(">II", 1, len(piece))))
        server.receive(piece)
    assert server.take_replies() == control(9, struct.pack(">II", 0, 1 << 30)) + control(
        9, struct.pack(">II", 1, 1 << 30)
    )


def test_a_closed_stream_is_forgotten():
    server, peer = SpdyServer(), Peer()
    for number in range(1, 10 * limits.SPDY_STREAMS, 2):
        server.receive(memoryview(peer.open(number, flags=1, a="b")))
        server.data(number, 0, end=True)
    assert server.take_replies() == b""
