"""One client's connection without asyncio's streams: bytes go between the socket and big buffers, nothing is copied that can be passed on.

Owns the socket. Reading stops while somebody holds it (a receiver that is slower than the client); what cannot be sent waits here, and
whoever makes output asks ``blocked`` first and comes back when_drained(): a slow client slows its own session, and costs one piece of
memory. Test: tests/unit/streamserver/test_wire.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from orlop.base import limits
from orlop.streaming.command import Buffer

log = logging.getLogger(__name__)

_PIECES_AT_ONCE = 64
_TCP_ESTABLISHED = 1
_BUFFER = memoryview(bytearray(limits.STREAM_READ_BYTES))
"""One for all: what is read is handed on, or copied to where it waits, before anything else is read."""


class Wire:
    """A connected socket. ``on_data`` gets what is read, ``on_end`` is called once when the client is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._holders: set[object] = set()
        self._reading = False
        self._writing = False
        self._finishing = False
        self._waiters: list[Callable[[], None]] = []
        self.on_data: Callable[[memoryview], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self.closed = False
        self.ended = False
        """The client sends nothing more, or the connection is broken."""
        self.active_at = self._loop.time()

    # ---- reading ----

    def start(self, on_data: Callable[[memoryview], None], on_end: Callable[[], None]) -> None:
        """Read from now on."""
        self.on_data, self.on_end = on_data, on_end
        self._watch()

    def hold(self, holder: object) -> None:
        """Read nothing more until everybody who holds has released."""
        self._holders.add(holder)
        self._watch()

    def release(self, holder: object) -> None:
        self._holders.discard(holder)
        self._watch()

    def release_all(self) -> None:
        """Read again, whoever holds: what comes is only dropped."""
        self._holders.clear()
        self._watch()

    def _watch(self) -> None:
        # A client that sends without reading is not read either once its answers pile up.
        wanted = not (self._holders or self.ended or self.closed) and self._unsent_bytes <= limits.STREAM_READ_BYTES
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._sock.fileno(), self._readable)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        if not self._reading:
            return
        try:
            taken = self._receive(_BUFFER)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            taken = 0
        if not taken:
            self._end()
            return
        self.active_at = self._loop.time()
        if self.on_data is not None:
            self.on_data(_BUFFER[:taken])

    def _receive(self, buffer: memoryview) -> int:
        return self._sock.recv_into(buffer)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._watch()
        if self.on_end is not None:
            self.on_end()

    def plain_copy(self) -> socket.socket | None:
        """Return the socket once more, for somebody else to write to as it is; the caller closes it. None when nobody can."""
        return None if self.closed else self._sock.dup()

    # ---- sending ----

    @property
    def blocked(self) -> bool:
        """Is there something that the client has not taken yet?"""
        return bool(self._unsent)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once, when the client has taken everything, or when it is gone."""
        if self.closed or not self._unsent:
            self._loop.call_soon(callback)
        elif callback not in self._waiters:
            self._waiters.append(callback)

    async def drained(self) -> None:
        """Wait until the client has taken everything, or is gone."""
        while self._unsent and not self.closed:
            woken: asyncio.Future[None] = self._loop.create_future()
            self.when_drained(lambda woken=woken: woken.done() or woken.set_result(None))  # type: ignore[misc]
            await woken

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send parts one after the other; they may be changed afterwards. What is sent to a client that is gone is dropped."""
        if self.closed or not parts:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._transmit(parts)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = 0
            except OSError:
                self._break()
                return
            if sent:
                self.active_at = self._loop.time()
        for part in parts:
            length = len(part)
            if sent >= length:
                sent -= length
                continue
            rest = memoryview(bytes(memoryview(part)[sent:]))
            self._unsent.append(rest)
            self._unsent_bytes += len(rest)
            sent = 0
        if self._unsent:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._writable)
            self._watch()

    def _transmit(self, parts: Sequence[Buffer]) -> int:
        return self._sock.sendmsg(parts)

    def _writable(self) -> None:
        try:
            sent = self._transmit(list(islice(self._unsent, _PIECES_AT_ONCE)))
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._break()
            return
        self.active_at = self._loop.time()
        self._unsent_bytes -= sent
        self._watch()
        while sent:
            first = self._unsent[0]
            if sent < len(first):
                self._unsent[0] = first[sent:]
                break
            sent -= len(first)
            self._unsent.popleft()
        if self._unsent:
            return
        self._writing = False
        self._loop.remove_writer(self._sock.fileno())
        if self._finishing:
            self._shut_down()
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for at, callback in enumerate(waiters):
            if self._unsent and not self.closed:
                # The others first next time.
                self._waiters = waiters[at:] + self._waiters
                break
            callback()

    def _break(self) -> None:
        """Sending has failed: the client is gone."""
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        self._end()
        self._wake()

    # ---- the end ----

    def is_abandoned(self) -> bool:
        """Has the client gone while nobody was reading? Asked for by the server now and then."""
        if self._reading or self.ended or self.closed:
            return False
        state = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state != _TCP_ESTABLISHED

    def abandon(self) -> None:
        """Treat the client as gone."""
        self._break()

    def finish(self) -> None:
        """Say that nothing more is sent, after all that waits has been."""
        if self._unsent:
            self._finishing = True
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection; nothing is called any more."""
        if self.closed:
            return
        self.closed = True
        self.on_data = self.on_end = None
        self._watch()
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        self._unsent.clear()
        # Another process may hold the connection as well (last words): it ends for all.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._wake()


class TlsWire(Wire):
    """The same over TLS, after its handshake."""

    _sock: ssl.SSLSocket

    def plain_copy(self) -> None:
        return None

    def _receive(self, buffer: memoryview) -> int:
        taken = self._sock.recv_into(buffer)
        # What TLS has decrypted already makes no event of the socket.
        if taken and self._sock.pending():
            self._loop.call_soon(self._readable)
        return taken

    def _transmit(self, parts: Sequence[Buffer]) -> int:
        # OpenSSL wants the same bytes again after a send that could not be done: they are, for what is unsent is kept in order.
        return self._sock.send(b"".join(parts))
