"""The streaming server: gives out URLs, listens, and turns each connection that brings a good token into a session.

    accept -> (TLS) -> request -> token -> protocol agreed -> session -> closed

One task a connection; the bytes themselves go by callbacks (wire.py, pumps.py). Every stage has a limit in base/limits.py. Owns the
listening socket, the connections and the tokens. Test: tests/unit/streamserver/test_server.py, tests/cri/test_streaming.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from http import HTTPStatus
from pathlib import Path

from orlop.base import limits
from orlop.base.errors import FailedPrecondition
from orlop.base.supervise import Supervisor
from orlop.services.node import Node
from orlop.services.streams import AttachWanted, ExecWanted, ForwardWanted, Wanted
from orlop.streaming.channels import (
    FORWARD_TUNNEL,
    SPDY_COMMAND,
    SPDY_FORWARD,
    V4_BASE64,
    WEBSOCKET_COMMAND,
    WEBSOCKET_FORWARD,
)
from orlop.streaming.command import command_of
from orlop.streaming.forward import SpdyForward, WebSocketForward
from orlop.streamserver.command import CommandSession, streams_of
from orlop.streamserver.forward import ForwardSession
from orlop.streamserver.tls import Certificate
from orlop.streamserver.tokens import Tokens
from orlop.streamserver.upgrade import Agreement, HeadReader, Refused, Request, agree, refusal
from orlop.streamserver.wire import TlsWire, Wire

log = logging.getLogger(__name__)

BACKLOG = 512
SWEEP_SECONDS = 5.0
REFUSED_SECONDS = 1.0
_KINDS: dict[str, type[Wanted]] = {"exec": ExecWanted, "attach": AttachWanted, "portforward": ForwardWanted}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class StreamServer:
    """Listens from ``start`` on."""

    def __init__(
        self, node: Node, address: str, port: int, *, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        """``port`` 0: one that is free. Raises FailedPrecondition when the certificate cannot be used."""
        self._node = node
        self._address, self._port = address, port
        self._certificate = Certificate(certificate, key) if certificate is not None and key is not None else None
        self._supervisor = Supervisor("streaming")
        self._tokens: Tokens[Wanted] = Tokens()
        self._listening: socket.socket | None = None
        self._wires: set[Wire] = set()
        self._connections = 0
        self._url = ""

    # ---- URLs ----

    def issue(self, wanted: Wanted) -> str:
        """Return a URL that begins the session, once and soon. Raises ResourceExhausted while too many wait."""
        return f"{self._url}/{_NAMES[type(wanted)]}/{self._tokens.issue(wanted)}"

    # ---- life ----

    def start(self) -> None:
        """Listen. Raises FailedPrecondition when the address cannot be had."""
        ip = ipaddress.ip_address(self._address)
        listening = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind((self._address, self._port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            reason = (error.strerror or str(error)).lower()
            raise FailedPrecondition(f"streaming: address {self._address} port {self._port}: {reason}") from None
        self._listening = listening
        # Kubelet is on this machine: a server for every address is told by its loopback address.
        host = ip
        if ip.is_unspecified:
            host = ipaddress.ip_address("::1" if ip.version == 6 else "127.0.0.1")
        shown = f"[{host}]" if host.version == 6 else str(host)
        scheme = "http" if self._certificate is None else "https"
        self._url = f"{scheme}://{shown}:{listening.getsockname()[1]}"
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)
        self._supervisor.spawn("sweep", self._sweep())
        log.info("streaming: %s", self._url)

    def reload(self) -> None:
        """Read the certificate again."""
        if self._certificate is not None:
            self._certificate.reload()

    async def stop(self) -> None:
        """Take no more connections; tell every session's client, and end the sessions. Commands go on."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        await self._supervisor.close()

    def statistics(self) -> dict[str, int]:
        return {"connections": self._connections, "sessions": len(self._wires), "tokens": len(self._tokens)}

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for wire in tuple(self._wires):
                if loop.time() - wire.active_at >= limits.STREAM_IDLE_SECONDS or wire.is_abandoned():
                    wire.abandon()

    # ---- connections ----

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            if self._listening is None:
                return
            try:
                sock, _peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: those that wait stay in the backlog
                log.error("streaming: cannot accept: %s", (error.strerror or str(error)).lower())
                return
            if self._connections >= limits.STREAM_CONNECTIONS:
                self._turn_away(sock)
                continue
            self._connections += 1
            self._supervisor.spawn("connection", self._serve(sock))

    def _turn_away(self, sock: socket.socket) -> None:
        busy = Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", ("Retry-After", "1"))
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            if self._certificate is None:
                sock.send(refusal(busy))

    async def _serve(self, sock: socket.socket) -> None:
        wire: Wire | None = None
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(limits.STREAM_HEAD_SECONDS):
                wire, sock = await self._secure(sock)
                request = await self._head(wire)
            await self._begin(wire, request)
        except Refused as error:
            if wire is not None:
                await self._refuse(wire, error)
        except (TimeoutError, OSError) as error:
            log.debug("streaming: a connection ended before its request: %s", error)
        finally:
            self._connections -= 1
            if wire is not None:
                self._wires.discard(wire)
                wire.close()
            sock.close()

    async def _secure(self, sock: socket.socket) -> tuple[Wire, socket.socket]:
        if self._certificate is None:
            return Wire(sock), sock
        secured = self._certificate.context().wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        try:
            await _handshake(secured)
        except BaseException:
            secured.close()
            raise
        return TlsWire(secured), secured

    async def _head(self, wire: Wire) -> Request:
        """Return the request. Raises Refused, ConnectionError when the client leaves."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Request] = loop.create_future()
        reader = HeadReader()

        def take(data: memoryview) -> None:
            if found.done():
                return
            try:
                request = reader.feed(bytes(data))
            except Refused as error:
                wire.hold(reader)
                found.set_exception(error)
                return
            if request is not None:
                wire.hold(reader)
                found.set_result(request)

        def end() -> None:
            if not found.done():
                found.set_exception(ConnectionResetError("the client left"))

        wire.start(take, end)
        request = await found
        wire.release(reader)
        return request

    async def _begin(self, wire: Wire, request: Request) -> None:
        kind, wanted = self._redeem(request.path)
        if isinstance(wanted, ForwardWanted):
            agreement = agree(request, SPDY_FORWARD, WEBSOCKET_FORWARD)
        else:
            agreement = agree(request, SPDY_COMMAND, WEBSOCKET_COMMAND)
        log.debug("streaming: %s begins with %s", kind, agreement.protocol or "no protocol")
        self._wires.add(wire)
        if isinstance(wanted, ForwardWanted):
            await self._forward(wire, request, agreement, wanted)
        else:
            carrier = command_of(agreement.protocol, streams_of(wanted), agreement.socket)
            await CommandSession(self._node, wire, carrier, wanted).run(request.rest, agreement.response)

    async def _forward(self, wire: Wire, request: Request, agreement: Agreement, wanted: ForwardWanted) -> None:
        wire.send([agreement.response])
        if agreement.socket is None or agreement.protocol == FORWARD_TUNNEL:
            await ForwardSession(self._node, wire, SpdyForward(agreement.socket), wanted).run(request.rest)
            return
        carrier = WebSocketForward(agreement.socket, wanted.ports, text=agreement.protocol == V4_BASE64)
        await ForwardSession(self._node, wire, carrier, wanted).run(request.rest, tuple(carrier.connections()))

    def _redeem(self, target: str) -> tuple[str, Wanted]:
        """Return what a request's path stands for. A token opens only what it was given for, and is used up even then."""
        path = target.partition("?")[0]
        kind, _, token = path.removeprefix("/").partition("/")
        wanted = self._tokens.redeem(token) if path.startswith("/") else None
        if wanted is None or _NAMES[type(wanted)] != kind:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such session; it may have been used, or be too old")
        return kind, wanted

    async def _refuse(self, wire: Wire, error: Refused) -> None:
        gone = asyncio.Event()
        wire.send([refusal(error)])
        wire.finish()
        # What the client still sends is read and dropped: closing at once would reset the connection before it has read the answer.
        wire.start(lambda _: None, gone.set)
        wire.release_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_SECONDS):
                await gone.wait()


async def _handshake(secured: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            secured.do_handshake()
            return
        except ssl.SSLWantReadError:
            watch, unwatch = loop.add_reader, loop.remove_reader
        except ssl.SSLWantWriteError:
            watch, unwatch = loop.add_writer, loop.remove_writer
        ready: asyncio.Future[None] = loop.create_future()
        watch(secured.fileno(), _settle, ready)
        try:
            await ready
        finally:
            unwatch(secured.fileno())


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
