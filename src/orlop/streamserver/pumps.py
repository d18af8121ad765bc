"""Bytes between a wire and a descriptor, by callbacks of the event loop: Outflow reads a descriptor when the client takes it, Inflow writes
one and holds the wire when it does not take it.

A piece of output goes from the kernel into one buffer and from there to the socket; input goes from the wire's buffer to the
descriptor, and only what did not fit is copied. Neither owns its descriptor. Test: tests/unit/streamserver/test_pumps.py.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections import deque
from collections.abc import Callable, Sequence

from orlop.base import limits
from orlop.streaming.command import Buffer
from orlop.streamserver.wire import Wire

_BUFFER = memoryview(bytearray(limits.STREAM_FRAME_BYTES))
"""One for all: what is read is sent, or copied to where it waits, before anything else is read."""
_PIECES_A_TURN = 4
_VECTORS = 64
AFTER_EXIT_BYTES = 1 * limits.MIB
"""What of the output of children that outlive their command is sent on, beyond what was written before its end."""


WIDE_PIPE_BYTES = 1 * limits.MIB
WIDE_AFTER_BYTES = 4 * limits.MIB
"""A pipe that so much has gone through is widened: fewer, larger pieces."""
WIDE_PIPES = 16
"""At once. A user's pipes share a limit of 64 MiB (fs.pipe-user-pages-soft), and containers may run as the same user."""


class Widening:
    """One pipe's part in the few wide ones."""

    _used = 0

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._tried = self._has = False

    def consider(self, total: int) -> None:
        if self._tried or total < WIDE_AFTER_BYTES or Widening._used >= WIDE_PIPES:
            return
        self._tried = True
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)
        except OSError:
            return  # no pipe, or no more room for this user: it is only slower
        self._has = True
        Widening._used += 1

    def end(self) -> None:
        """Give the part back; the pipe itself is narrow again, or closed soon."""
        if self._has:
            self._has = False
            Widening._used -= 1


class Outflow:
    """Sends what a descriptor gives. ``room`` says how much the client takes, ``frame`` what is sent for it."""

    def __init__(
        self,
        descriptor: int,
        wire: Wire,
        *,
        room: Callable[[], int],
        frame: Callable[[memoryview], Sequence[Buffer]],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._fd = descriptor
        self._wire = wire
        self._room = room
        self._frame = frame
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._watching = False
        self._widening = Widening(descriptor)
        self._left = -1
        self.ended = asyncio.Event()
        """End of file, an error, or stop()."""
        self.total = 0
        self.error = 0
        """errno, when it was an error. EIO of a terminal: its last user is gone."""
        self.waits = False
        """It is the client that is waited for."""
        self.resume()

    def resume(self) -> None:
        """Go on reading: the client takes something again."""
        self.waits = False
        if not self._watching and not self.ended.is_set():
            self._watching = True
            self._loop.add_reader(self._fd, self._readable)

    def _pause(self) -> None:
        self.waits = True
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)

    def read(self) -> None:
        """Send what is there now, without waiting for the event loop's turn."""
        if self._watching:
            self._readable()

    def _readable(self) -> None:
        for _ in range(_PIECES_A_TURN):
            if self.ended.is_set():
                return
            if self._wire.blocked:
                self._pause()
                self._wire.when_drained(self.resume)
                return
            room = min(self._room(), limits.STREAM_FRAME_BYTES)
            if room <= 0:
                self._pause()  # resume() is called when the client opens its window
                return
            if self._left >= 0:
                room = min(room, self._left)
                if not room:
                    self.stop()
                    return
            try:
                count = os.readv(self._fd, [_BUFFER[:room]])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.error = error.errno or 0
                count = 0
            if not count:
                self.stop()
                return
            self.total += count
            self._widening.consider(self.total)
            if self._left >= 0:
                self._left -= count
            self._wire.send(self._frame(_BUFFER[:count]))

    def limit(self) -> None:
        """The writer has ended: send what it has written, and of what others still write only so much."""
        waiting = array.array("i", [0])
        try:
            fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        except OSError:
            waiting[0] = 0
        self._left = waiting[0] + AFTER_EXIT_BYTES

    def stop(self) -> None:
        """Read nothing more."""
        self._unwatch()
        if not self.ended.is_set():
            self._widening.end()
            self.ended.set()
            if self._on_end is not None:
                self._on_end()


class Inflow:
    """Hands on to ``write`` what a client sends; holds the wire while something is left over."""

    def __init__(self, descriptor: int, wire: Wire, *, write: Callable[[Sequence[Buffer]], int]) -> None:
        self._fd = descriptor
        self._wire = wire
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._kept: deque[memoryview] = deque()
        self._watching = False
        self._widening = Widening(descriptor)
        self._ending: Callable[[], None] | None = None
        self._broken = descriptor < 0
        self.total = 0

    @property
    def kept(self) -> int:
        """Bytes that the receiver has not taken yet."""
        return sum(map(len, self._kept))

    def take(self, data: Buffer) -> None:
        """Write now what can be; keep the rest. What a receiver that is gone does not take is dropped."""
        if self._broken or not len(data):
            return
        view = memoryview(data)
        if not self._kept:
            view = view[self._push([view]) :]
        if view and not self._broken:
            self._kept.append(memoryview(bytes(view)))
            self._wire.hold(self)
            self._watch(True)

    def end(self, callback: Callable[[], None]) -> None:
        """Call back once when all has been written (or cannot be): nothing more comes."""
        if self._kept:
            self._ending = callback
        else:
            self._broken = True
            callback()

    def _push(self, parts: Sequence[Buffer]) -> int:
        try:
            count = self._write(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.stop()
            return 0
        self.total += count
        self._widening.consider(self.total)
        return count

    def _writable(self) -> None:
        parts = [self._kept[at] for at in range(min(len(self._kept), _VECTORS))]
        count = self._push(parts)
        while count and self._kept:
            first = self._kept[0]
            if count < len(first):
                self._kept[0] = first[count:]
                break
            count -= len(first)
            self._kept.popleft()
        if self._kept:
            return
        self._watch(False)
        self._wire.release(self)
        if self._ending is not None:
            callback, self._ending = self._ending, None
            self._broken = True
            callback()

    def _watch(self, wanted: bool) -> None:
        if wanted != self._watching:
            self._watching = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def stop(self) -> None:
        """Write nothing more; what is kept is dropped. Must come before the descriptor is closed."""
        self._broken = True
        self._widening.end()
        self._watch(False)
        self._kept.clear()
        self._wire.release(self)
        if self._ending is not None:
            callback, self._ending = self._ending, None
            callback()
