"""One port-forward session after its upgrade: each connection that the client asks for is made inside the pod and pumped both ways.

    Connect -> socket inside the pod -> bytes both ways -> end of one direction told to the other side -> both ended: forgotten

A connection that cannot be made costs only itself. Each has a buffer of its own for what the pod does not take; the client is not read
while one of them is full. Test: tests/cri/test_port_forward.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from orlop.base import limits
from orlop.base.errors import OrlopError
from orlop.services.node import Node
from orlop.services.sandboxes.port_forward import connect_port
from orlop.services.streams import ForwardWanted
from orlop.streaming.forward import Arrived, Connect, ForwardCarrier
from orlop.streaming.spdy import ProtocolViolation
from orlop.streamserver.pumps import Inflow, Outflow
from orlop.streamserver.wire import Wire

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0


class _Connection:
    """One connection: the pod's socket once it is there, and its two directions."""

    def __init__(self, session: ForwardSession, key: int, port: int) -> None:
        self._session = session
        self.key = key
        self.port = port
        self._sock: socket.socket | None = None
        self._out: Outflow | None = None
        self._in: Inflow | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._client_ended = False
        self._told_pod = False
        self._told_client = False
        self.over = False
        self._moved = -1
        self._still_since = 0.0

    async def run(self) -> None:
        """Connect; afterwards everything goes by callbacks."""
        session = self._session
        try:
            sock = await connect_port(session.node, session.wanted.sandbox_id, self.port)
        except OrlopError as error:
            log.info("%s", error)
            session.wire.send(session.carrier.fail(self.key, str(error)))
            self.close()
            return
        if self.over or session.wire.closed:
            sock.close()
            return
        self._sock = sock
        self._in = Inflow(sock.fileno(), session.wire, write=sock.sendmsg)
        self._out = Outflow(
            sock.fileno(),
            session.wire,
            room=lambda: session.carrier.room(self.key),
            frame=lambda data: session.carrier.frame(self.key, data),
            on_end=self._pod_ended,
        )
        for data in self._early:
            self._in.take(data)
        self._early.clear()
        session.wire.release(self)
        if self._client_ended:
            self._in.end(self._end_of_client)

    def take(self, arrived: Arrived) -> None:
        if self.over or self._client_ended:
            if arrived.dropped:
                self.close()
            return
        if arrived.dropped:
            self.close()
            return
        if self._in is not None:
            self._in.take(arrived.data)
        elif len(arrived.data):
            self._early.append(bytes(arrived.data))
            self._early_bytes += len(arrived.data)
            if self._early_bytes > limits.FORWARD_KEPT_BYTES:
                self._session.wire.hold(self)
        if arrived.ended:
            self._client_ended = True
            if self._in is not None:
                self._in.end(self._end_of_client)

    def _end_of_client(self) -> None:
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        self._told_pod = True
        self._close_if_over()

    def _pod_ended(self) -> None:
        if self.over:
            return
        session = self._session
        if self._out is not None and self._out.error:
            # Not a word on the error stream: kubectl would give up all its connections for one that a server has reset.
            self.close()
            return
        self._told_client = True
        session.wire.send(session.carrier.end(self.key))
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._told_pod and self._told_client:
            self.close()

    def resume(self) -> None:
        """A window may have been opened."""
        if self._out is not None and self._out.waits:
            self._out.resume()

    def expire(self, now: float) -> None:
        """Give up what is ended on one side while nothing moves on the other."""
        if not (self._told_pod or self._told_client):
            return
        moved = (0 if self._in is None else self._in.total) + (0 if self._out is None else self._out.total)
        if moved != self._moved or (self._out is not None and self._out.waits):
            self._moved, self._still_since = moved, now
        elif now - self._still_since >= limits.FORWARD_HALF_SECONDS:
            self.close()

    def close(self) -> None:
        if self.over:
            return
        self.over = True
        session = self._session
        if self._out is not None:
            self._out.stop()
        if self._in is not None:
            self._in.stop()
        session.wire.release(self)
        session.wire.send(session.carrier.drop(self.key))
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        session.forget(self)


class ForwardSession:
    """Runs on a wire whose upgrade has been answered; owns the sockets into the pod, not the wire."""

    def __init__(self, node: Node, wire: Wire, carrier: ForwardCarrier, wanted: ForwardWanted) -> None:
        self.node = node
        self.wire = wire
        self.carrier = carrier
        self.wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, _Connection] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._all_over: asyncio.Future[None] = self._loop.create_future()
        self._ends_when_over = False

    async def run(self, rest: bytes, at_start: tuple[Connect, ...] = ()) -> None:
        """Serve the session to its end. ``rest`` came behind the request; ``at_start``: what is connected unasked."""
        self.wire.send(self.carrier.opening())
        self._ends_when_over = bool(at_start)
        for each in at_start:
            self._connect(each)
        self.wire.start(self._received, self._lose)
        if rest:
            self._received(memoryview(rest))
        try:
            while not self._gone.done() and not self._all_over.done():
                await asyncio.wait(
                    (self._gone, self._all_over), timeout=SWEEP_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                self._sweep()
            await self._farewell()
        finally:
            for task in tuple(self._connecting):
                task.cancel()
            for connection in tuple(self._connections.values()):
                connection.close()

    async def _farewell(self) -> None:
        if self._gone.done():
            return
        self.wire.send(self.carrier.finish())
        await self.wire.drained()
        await asyncio.wait((self._gone,), timeout=limits.STREAM_LINGER_SECONDS)

    def _sweep(self) -> None:
        now = self._loop.time()
        self.wire.send(self.carrier.expire(now - limits.FORWARD_PAIR_SECONDS))
        for connection in tuple(self._connections.values()):
            connection.expire(now)
        if self.node.live.get(self.wanted.sandbox_id) is None and not self._connections:
            self._lose()

    def _received(self, data: memoryview) -> None:
        try:
            arrived = self.carrier.receive(data, self._loop.time())
        except ProtocolViolation as error:
            log.info("sandbox %s: port-forward: %s", self.wanted.sandbox_id, error)
            self.wire.send(self.carrier.take_replies())
            self._lose()
            return
        self.wire.send(self.carrier.take_replies())
        for each in arrived:
            if isinstance(each, Connect):
                self._connect(each)
            elif (connection := self._connections.get(each.key)) is not None:
                connection.take(each)
        if self.carrier.take_granted():
            for connection in self._connections.values():
                connection.resume()
        if self.carrier.left and not self._connections:
            self._lose()

    def _connect(self, wanted: Connect) -> None:
        connection = _Connection(self, wanted.key, wanted.port)
        self._connections[wanted.key] = connection
        task = self.node.supervisor.spawn(f"port {wanted.port}", connection.run())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def forget(self, connection: _Connection) -> None:
        self._connections.pop(connection.key, None)
        if self._ends_when_over and not self._connections and not self._all_over.done():
            self._all_over.set_result(None)

    def _lose(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
