"""Requests from strangers: what is taken, what is refused with which answer, and what any bytes at all can do."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.streaming.channels import SPDY_COMMAND, WEBSOCKET_COMMAND
from orlop.streamserver.upgrade import HeadReader, Refused, Request, agree, refusal

SPDY = b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"


def request(*lines: bytes, method: bytes = b"POST", rest: bytes = b"") -> Request:
    text = method + b" /exec/t HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + rest
    found = HeadReader().feed(text)
    assert found is not None
    return found


def spdy(*lines: bytes, **more: bytes) -> Request:
    return request(b"Connection: keep-alive, Upgrade", b"Upgrade: SPDY/3.1", *lines, **more)


def refused(asked: Request) -> Refused:
    with pytest.raises(Refused) as caught:
        agree(asked, SPDY_COMMAND, WEBSOCKET_COMMAND)
    return caught.value


def test_spdy_and_what_comes_behind_the_request():
    asked = spdy(
        b"X-Stream-Protocol-Version: v9, v3.channel.k8s.io",
        b"X-Stream-Protocol-Version: v4.channel.k8s.io",
        rest=b"\x80\x03",
    )
    assert (asked.method, asked.path, asked.rest) == ("POST", "/exec/t", b"\x80\x03")
    agreed = agree(asked, SPDY_COMMAND, WEBSOCKET_COMMAND)
    assert agreed.protocol == "v3.channel.k8s.io"
    assert agreed.socket is None
    assert agreed.response.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n" in agreed.response


def test_websocket():
    key = (
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
    )
    agreed = agree(
        request(*key, b"Sec-WebSocket-Protocol: v5.channel.k8s.io", method=b"GET"), SPDY_COMMAND, WEBSOCKET_COMMAND
    )
    assert agreed.socket is not None
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in agreed.socket.response()
    assert agree(request(*key, method=b"GET"), SPDY_COMMAND, WEBSOCKET_COMMAND).protocol == ""
    assert refused(request(*key, b"Sec-WebSocket-Protocol: v9", method=b"GET")).status == 403
    assert refused(request(*key, b"Sec-WebSocket-Protocol: v5.channel.k8s.io")).status == 405
    assert refused(request(*key[:2], b"Sec-WebSocket-Protocol: v5.channel.k8s.io", method=b"GET")).status == 400


def test_refusals():
    assert refused(request()).status == 400
    assert refused(request(b"Connection: Upgrade", b"Upgrade: h2c")).status == 400
    assert refused(spdy()).status == 400
    assert refused(spdy(b"X-Stream-Protocol-Version: v4.channel.k8s.io", method=b"PUT")).status == 405
    unknown = refused(spdy(b"X-Stream-Protocol-Version: v9"))
    answer = refusal(unknown)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert answer.count(b"X-Accepted-Stream-Protocol-Versions: ") == len(SPDY_COMMAND)
    assert b"\r\nConnection: close\r\n" in answer


def test_a_request_in_single_bytes():
    reader = HeadReader()
    text = b"GET /exec/t HTTP/1.1\r\nHost: x\r\n\r\n"
    found = [reader.feed(bytes((byte,))) for byte in text]
    assert found[:-1] == [None] * (len(text) - 1)
    assert found[-1] is not None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
        (b"GET /" + b"a" * limits.STREAM_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * limits.STREAM_HEAD_BYTES + b"\r\n\r\n", None),
    ],
)
def test_what_is_no_request(text, status):
    try:
        found = HeadReader().feed(text)
    except Refused as error:
        assert error.status == status
        assert refusal(error).startswith(b"HTTP/1.1 %d " % status)
    else:
        assert status is None
        assert found is None or len(text) < 2 * limits.STREAM_HEAD_BYTES


@given(st.binary(max_size=300))
@example(SPDY)
def test_noise_is_refused_or_waited_for(noise):
    try:
        HeadReader().feed(noise)
    except Refused as error:
        assert refusal(error).startswith(b"HTTP/1.1 4")
