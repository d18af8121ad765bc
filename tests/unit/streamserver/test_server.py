"""The server before any session: URLs, limits, strangers, certificates."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from tests.images.certificates import Authority

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, ResourceExhausted
from orlop.base.ids import ContainerId
from orlop.services.streams import ExecWanted
from orlop.streamserver.server import StreamServer
from orlop.streamserver.tls import Certificate

WANTED = ExecWanted(container_id=ContainerId("c"), command=("x",), stdin=False, stdout=True, stderr=False, tty=False)
NO_NODE = cast(Any, None)


@pytest.fixture
async def server() -> AsyncIterator[StreamServer]:
    made = StreamServer(NO_NODE, "127.0.0.1", 0)
    made.start()
    yield made
    await made.stop()
    assert made.statistics()["connections"] == 0


async def talk(server: StreamServer, text: bytes, **more: Any) -> bytes:
    """Send bytes, return all that comes until the server closes."""
    where = urlsplit(server.issue(WANTED))
    reader, writer = await asyncio.open_connection(where.hostname, where.port, **more)
    writer.write(text)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def request(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


async def test_urls(server):
    first, second = (server.issue(WANTED) for _ in range(2))
    assert first != second
    assert first.startswith("http://127.0.0.1:")
    assert urlsplit(first).path.startswith("/exec/")


@pytest.mark.parametrize(("address", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")])
async def test_urls_of_other_addresses(address, shown):
    made = StreamServer(NO_NODE, address, 0)
    made.start()
    assert made.issue(WANTED).startswith(f"http://{shown}:")
    await made.stop()


async def test_an_address_that_is_taken(server):
    port = urlsplit(server.issue(WANTED)).port
    with pytest.raises(FailedPrecondition, match=f"streaming: address 127.0.0.1 port {port}: address already in use"):
        StreamServer(NO_NODE, "127.0.0.1", port).start()


@pytest.mark.parametrize(
    "path",
    ["/", "/exec/", "/exec/x", "/attach/x", "/portforward/x", "*", "/exec/../exec/x", "/metrics", "http://x/exec/x"],
)
async def test_unknown_paths(server, path):
    assert (await talk(server, request(path))).startswith(b"HTTP/1.1 404 ")


async def test_a_token_of_another_kind_is_used_up(server):
    path = urlsplit(server.issue(WANTED)).path
    for asked in (path.replace("/exec/", "/attach/"), path):
        assert (await talk(server, request(asked))).startswith(b"HTTP/1.1 404 ")


async def test_a_token_is_used_up_by_a_request_that_asks_for_nothing_known(server):
    path = urlsplit(server.issue(WANTED)).path
    assert (await talk(server, request(path))).startswith(b"HTTP/1.1 400 ")
    assert (await talk(server, request(path))).startswith(b"HTTP/1.1 404 ")


async def test_garbage(server, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_HEAD_SECONDS", 0.3)
    for text in (
        os.urandom(1000),
        b"\x80\x03\0\x01" + bytes(100),
        b"\0" * 1000,
        b"GET / HTTP/1.1\r\n" + b"A" * 300_000,
    ):
        answer = await talk(server, text)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_who_says_nothing_is_let_go(server, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_HEAD_SECONDS", 0.1)
    assert await talk(server, b"") == b""
    assert await talk(server, b"GET / HTTP/1.1\r\nHost:") == b""


async def test_only_so_many_connections(server, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_CONNECTIONS", 3)
    where = urlsplit(server.issue(WANTED))
    open_ones = [await asyncio.open_connection(where.hostname, where.port) for _ in range(3)]
    while server.statistics()["connections"] < 3:
        await asyncio.sleep(0.01)
    assert b"503 Service Unavailable" in await talk(server, b"")
    for _, writer in open_ones:
        writer.close()
    while server.statistics()["connections"]:
        await asyncio.sleep(0.01)
    assert (await talk(server, request("/"))).startswith(b"HTTP/1.1 404 ")


async def test_only_so_many_urls_wait(server):
    with pytest.raises(ResourceExhausted):
        for _ in range(limits.STREAM_TOKENS + 1):
            server.issue(WANTED)


async def test_stop_ends_connections_that_have_no_session_yet():
    made = StreamServer(NO_NODE, "127.0.0.1", 0)
    made.start()
    where = urlsplit(made.issue(WANTED))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    while not made.statistics()["connections"]:
        await asyncio.sleep(0.01)
    await made.stop()
    assert await reader.read() == b""
    writer.close()


# ---- TLS ----


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.path))


def serial_of(context: ssl.SSLContext, server: StreamServer) -> str:
    where = urlsplit(server.issue(WANTED))
    with (
        socket.create_connection((where.hostname, where.port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        certificate = sock.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


async def test_certificates_are_read_again(authority):
    files = authority.issue("server", "127.0.0.1")
    made = StreamServer(NO_NODE, "127.0.0.1", 0, certificate=files[0], key=files[1])
    made.start()
    try:
        context = trusting(authority)
        assert made.issue(WANTED).startswith("https://127.0.0.1:")
        assert (await talk(made, request("/x"), ssl=context)).startswith(b"HTTP/1.1 404 ")
        first = await asyncio.to_thread(serial_of, context, made)
        authority.issue("server", "127.0.0.1")
        second = await asyncio.to_thread(serial_of, context, made)
        assert second != first
        files[1].write_text("half written")
        assert await asyncio.to_thread(serial_of, context, made) == second
        made.reload()
        assert await asyncio.to_thread(serial_of, context, made) == second
        # Plain HTTP, noise and silence at the TLS port cost their own connection.
        assert await talk(made, request("/x")) != b"HTTP/1.1 404 "
        assert await asyncio.to_thread(serial_of, context, made) == second
    finally:
        await made.stop()


def test_a_certificate_that_cannot_be_used(authority, tmp_path):
    files = authority.issue("server", "127.0.0.1")
    with pytest.raises(FailedPrecondition, match="no such file"):
        Certificate(tmp_path / "none.crt", files[1])
    other = authority.issue("other", "127.0.0.1")
    with pytest.raises(FailedPrecondition, match=r"streaming: certificate .*server\.crt with key .*other\.key: "):
        Certificate(files[0], other[1])


async def test_a_silent_handshake_is_let_go(authority, monkeypatch):
    monkeypatch.setattr(limits, "STREAM_HEAD_SECONDS", 0.1)
    files = authority.issue("server", "127.0.0.1")
    made = StreamServer(NO_NODE, "127.0.0.1", 0, certificate=files[0], key=files[1])
    made.start()
    assert await talk(made, b"\x16\x03\x01") == b""
    await made.stop()
