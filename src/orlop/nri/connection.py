"""One socket between runtime and plugin, with a ttrpc client on one stream of its trunk and a ttrpc server on the other.

Both sides use it, with the streams swapped: plugin.py for the runtime, stub.py for plugins in Python. Owns the socket and the calls under
way. A peer that breaks the protocol loses the connection; it never takes more than limits.py allows. Test: tests/unit/nri/test_connection.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from orlop.base import limits
from orlop.base.errors import DeadlineExceeded, Internal, InvalidArgument, OrlopError, Unavailable
from orlop.base.supervise import Supervisor
from orlop.nri import mux, ttrpc
from orlop.specs.nri_gen import ttrpc_pb2

M = TypeVar("M", bound=Message)
Serve = Callable[[str, str, bytes], Awaitable[Message]]
"""service, method, payload -> answer; an OrlopError becomes the call's status."""


class Connection(asyncio.Protocol):
    """Pass it to loop.create_unix_server or create_unix_connection as the protocol."""

    def __init__(
        self,
        serve: Serve,
        supervisor: Supervisor,
        *,
        calls_on: int = mux.PLUGIN_STREAM,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._serve = serve
        self._supervisor = supervisor
        self._calls_on = calls_on
        self._serves_on = mux.RUNTIME_STREAM if calls_on == mux.PLUGIN_STREAM else mux.PLUGIN_STREAM
        self._trunk = mux.TrunkReader()
        self._readers = {mux.PLUGIN_STREAM: ttrpc.FrameReader(), mux.RUNTIME_STREAM: ttrpc.FrameReader()}
        self._transport: asyncio.Transport | None = None
        self._next_stream = 1
        self._last_served = 0
        self._serving = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reason = ""
        self._on_closed = on_closed
        self.closed = asyncio.Event()
        """Set when the connection is gone, whoever ended it."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(f"connection lost: {error}" if error else "connection closed by the other side")

    def data_received(self, data: bytes) -> None:
        try:
            for stream, payload in self._trunk.feed(data):
                reader = self._readers.get(stream)
                if reader is None:
                    continue  # other streams of the trunk are for other uses; the published reader drops them as well
                for frame in reader.feed(payload):
                    if stream == self._calls_on:
                        self._answered(frame)
                    else:
                        self._called(frame)
        except OrlopError as error:
            self.close(str(error))

    # as a client

    async def call(self, service: str, method: str, request: Message, answer: type[M], seconds: float) -> M:
        """Call the other side. Raises Unavailable when the connection is gone or goes, DeadlineExceeded, ttrpc.CallRefused with the other
        side's status, ResourceExhausted when the request is larger than a message may be, Internal when the answer can't be read."""
        payload = request.SerializeToString()
        envelope = ttrpc_pb2.Request(
            service=service, method=method, payload=payload, timeout_nano=int(seconds * 1_000_000_000)
        )
        stream = self._next_stream
        data = ttrpc.encode(ttrpc.Frame(stream, ttrpc.REQUEST, 0, envelope.SerializeToString()))
        if self._transport is None or self.closed.is_set():
            raise Unavailable(self._reason or "not connected")
        self._next_stream += 2
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = waiting
        try:
            self._transport.write(mux.frames(self._calls_on, data))
            raw = await asyncio.wait_for(waiting, seconds)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer to {method} within {seconds:g}s") from None
        finally:
            self._waiting.pop(stream, None)
        try:
            response = ttrpc_pb2.Response.FromString(raw)
            if response.status.code:
                raise ttrpc.CallRefused(response.status.code, response.status.message)
            return answer.FromString(response.payload)
        except DecodeError as error:
            raise Internal(f"the answer to {method} can't be read: {error}") from error

    def _answered(self, frame: ttrpc.Frame) -> None:
        waiting = self._waiting.get(frame.stream)
        if waiting is None or waiting.done():
            return  # its caller has gone: its time was over
        if frame.kind != ttrpc.RESPONSE:
            raise InvalidArgument(f"ttrpc: a frame of type {frame.kind} where an answer belongs")
        waiting.set_result(frame.payload)

    # as a server

    def _called(self, frame: ttrpc.Frame) -> None:
        if frame.kind != ttrpc.REQUEST:
            raise InvalidArgument(f"ttrpc: a frame of type {frame.kind} where a request belongs")
        if frame.stream % 2 == 0 or frame.stream <= self._last_served:
            raise InvalidArgument(f"ttrpc: stream id {frame.stream} is even or not above {self._last_served}")
        self._last_served = frame.stream
        try:
            request = ttrpc_pb2.Request.FromString(frame.payload)
        except DecodeError as error:
            raise InvalidArgument(f"ttrpc: a request that can't be read: {error}") from error
        if self._serving >= limits.NRI_CALLS_AT_ONCE:
            raise InvalidArgument(f"ttrpc: more than {limits.NRI_CALLS_AT_ONCE} calls at once")
        self._serving += 1
        self._supervisor.spawn(f"nri {request.method}", self._answer(frame.stream, request))

    async def _answer(self, stream: int, request: ttrpc_pb2.Request) -> None:
        response = ttrpc_pb2.Response()
        try:
            answer = await self._serve(request.service, request.method, request.payload)
            response.payload = answer.SerializeToString()
        except DecodeError as error:
            response.status.code = ttrpc.CODES["INVALID_ARGUMENT"]
            response.status.message = f"{request.method}: {error}"
        except OrlopError as error:
            response.status.code = ttrpc.CODES.get(error.code, ttrpc.CODES["UNKNOWN"])
            response.status.message = str(error)
        finally:
            self._serving -= 1
        if self._transport is None:
            return
        try:
            data = ttrpc.encode(ttrpc.Frame(stream, ttrpc.RESPONSE, 0, response.SerializeToString()))
        except OrlopError as error:
            response = ttrpc_pb2.Response()
            response.status.code, response.status.message = ttrpc.CODES["RESOURCE_EXHAUSTED"], str(error)
            data = ttrpc.encode(ttrpc.Frame(stream, ttrpc.RESPONSE, 0, response.SerializeToString()))
        if self._transport.get_write_buffer_size() > limits.NRI_UNREAD_BYTES:
            self.close("does not read the answers to its calls")
            return
        self._transport.write(mux.frames(self._serves_on, data))

    # its end

    def peer_pid(self) -> int:
        """Return the process at the other end, 0 when that is not known."""
        if self._transport is None:
            return 0
        sock = self._transport.get_extra_info("socket")
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little") if sock else 0

    def close(self, reason: str) -> None:
        """End the connection at once: nothing more is sent, every waiting caller gets Unavailable."""
        if self._transport is not None:
            # Not close(): a peer that does not read would keep what is buffered for ever.
            self._transport.abort()
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.closed.is_set():
            return
        self._reason = self._reason or reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(self._reason))
        self._waiting.clear()
        self.closed.set()
        self._on_closed()
