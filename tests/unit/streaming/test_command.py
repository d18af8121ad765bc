"""Exec and attach sessions on their carriers: which channel gets what, in both directions."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.streaming.test_spdy import Peer, control, data
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Request, TextMessage

from orlop.streaming import spdy
from orlop.streaming.channels import ERROR, STDERR, STDIN, STDOUT, V1, V4, V4_BASE64, V5, Outcome, Streams
from orlop.streaming.command import Incoming, SpdyCommand, WebSocketCommand
from orlop.streaming.spdy import ProtocolViolation
from orlop.streaming.websocket import WebSocketServer, message_head

ALL = Streams(stdin=True, stdout=True, stderr=True, tty=False)


def spdy_session(protocol: str = V4) -> tuple[SpdyCommand, Peer]:
    command, peer = SpdyCommand(ALL, protocol), Peer()
    for number, kind in ((1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")):
        assert not command.complete
        command.receive(memoryview(peer.open(number, streamtype=kind)))
        assert command.take_replies()[:4] == b"\x80\x03\0\x02"
    assert command.complete
    return command, peer


def test_spdy_channels():
    command, _ = spdy_session()
    assert command.receive(memoryview(data(3, b"in", 1))) == [Incoming(STDIN, memoryview(b"in"), True)]
    assert command.receive(memoryview(data(5, b"nobody asked"))) == []
    assert command.frame(STDOUT, b"out") == [data(5, b"out")[:8], b"out"]
    command.receive(memoryview(control(3, struct.pack(">II", 7, 5))))
    assert command.frame(STDERR, b"x") == []
    assert not command.wants(STDERR)
    end = b"".join(command.finish(Outcome(exit_code=3)))
    assert end.startswith(data(5, b"", 1) + data(3, b"", 1))
    assert json.loads(end[-(len(end) - 24) :])["reason"] == "NonZeroExitCode"


def test_spdy_unknown_and_second_streams_are_refused():
    command, peer = spdy_session()
    for number, kind in ((9, "stdin"), (11, "video")):
        command.receive(memoryview(peer.open(number, streamtype=kind)))
        assert command.take_replies() == control(3, struct.pack(">II", number, spdy.REFUSED_STREAM))


def test_spdy_v1_ends_our_half_of_stdin_at_once():
    command, peer = SpdyCommand(ALL, V1), Peer()
    command.receive(memoryview(peer.open(1, streamtype="stdin")))
    assert command.take_replies().endswith(data(1, b"", 1))


def websocket(protocol: str) -> tuple[WSConnection, WebSocketServer]:
    client = WSConnection(ConnectionType.CLIENT)
    head = client.send(Request(host="x", target="/exec/t", subprotocols=[protocol] if protocol else []))
    lines = head.decode().split("\r\n")[1:]
    pairs = [line.split(": ", 1) for line in lines if line]
    server = WebSocketServer([(name.lower().encode(), value.encode()) for name, value in pairs], "/exec/t", protocol)
    client.receive_data(server.response())
    list(client.events())
    return client, server


def ws_session(protocol: str) -> tuple[WSConnection, WebSocketCommand]:
    client, server = websocket(protocol)
    return client, WebSocketCommand(server, ALL, protocol)


def taken(found: list[Incoming]) -> list[tuple[int, bytes, bool]]:
    return [(each.channel, bytes(each.data), each.ended) for each in found]


def test_websocket_channels():
    client, command = ws_session(V5)
    first = b"".join(command.opening()[1:])
    assert first == b"\x82\x01\x01"
    wire = client.send(Message(data=b"\0he", message_finished=False)) + client.send(Ping(payload=b"p"))
    wire += (
        client.send(BytesMessage(data=b"llo"))
        + client.send(BytesMessage(data=b""))
        + client.send(BytesMessage(data=b"\x07?"))
    )
    wire += client.send(BytesMessage(data=b"\xff\0")) + client.send(BytesMessage(data=b"\0late"))
    found = command.receive(memoryview(wire))
    assert taken(found) == [(STDIN, b"he", False), (STDIN, b"llo", False), (STDIN, b"", True)]
    assert command.take_replies() == b"\x8a\x01p"
    client.receive_data(b"".join(command.frame(STDOUT, b"x" * 70000)) + b"".join(command.finish(Outcome())))
    events = list(client.events())
    text = b"".join(bytes(each.data) for each in events if isinstance(each, BytesMessage))
    assert text.startswith(b"\x01" + b"x" * 70000)
    assert b'\x03{"metadata":{},"status":"Success"}' in text
    assert isinstance(events[-1], CloseConnection)
    assert events[-1].code == 1000


def test_v4_knows_no_end_of_stdin():
    client, command = ws_session(V4)
    assert command.receive(memoryview(client.send(BytesMessage(data=b"\xff\0")))) == []


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_base64_in_any_pieces(payload, cuts):
    client, command = ws_session(V4_BASE64)
    text = "0" + base64.b64encode(payload).decode()
    marks = sorted(min(cut, len(text)) for cut in cuts)
    wire = b""
    for begin, end in zip([0, *marks], [*marks, len(text)], strict=True):
        wire += client.send(
            TextMessage(data=text[begin:end], message_finished=end == len(text) and begin == (marks or [0])[-1])
        )
    got = b"".join(piece for channel, piece, _ in taken(command.receive(memoryview(wire))) if channel == STDIN)
    assert got == payload
    assert command.frame(STDOUT, b"out")[1] == b"1" + base64.b64encode(b"out")


def test_base64_that_is_none():
    client, command = ws_session(V4_BASE64)
    with pytest.raises(ProtocolViolation, match="base64"):
        command.receive(memoryview(client.send(TextMessage(data="0!!!!"))))


def test_a_close_is_answered():
    client, command = ws_session(V4)
    command.receive(memoryview(client.send(CloseConnection(code=1000))))
    assert command.left
    client.receive_data(command.take_replies())
    assert [each.code for each in client.events()] == [1000]


@given(st.binary(max_size=300))
def test_lies_end_the_session_and_no_more(noise):
    _, command = ws_session(V4)
    try:
        command.receive(memoryview(noise))
        command.receive(memoryview(noise))
    except ProtocolViolation:
        pass
    assert len(command.take_replies()) < 4096


@pytest.mark.parametrize(
    ("length", "head"), [(0, "8200"), (125, "827d"), (126, "827e007e"), (65536, "827f0000000000010000")]
)
def test_heads_of_messages(length, head):
    assert message_head(length).hex() == head
    assert ERROR == 3
