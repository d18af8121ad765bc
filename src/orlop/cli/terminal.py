"""Connect this terminal (or these pipes) to a container: raw mode, window size, signals, detach keys, exit code.

Ctrl-P Ctrl-Q detaches: the container goes on. Test: tests/unit/cli/test_terminal.py, tests/cri/test_cli.py.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any

from orlop.base.errors import Internal, OrlopError
from orlop.specs.cri_gen import orlop_pb2 as pb

DETACH_KEYS = b"\x10\x11"
READ_BYTES = 8192
PROXIED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)


def converse(
    call: Callable[[Iterator[Any]], Iterator[Any]],
    first: Any,
    make: Callable[..., Any],
    *,
    stdin: bool,
    terminal: bool,
    on_signal: Callable[[int], None] | None = None,
) -> int | None:
    """Run a conversation of Attach or Exec; return the exit code, or None when the user detached.

    ``first`` is its first message; ``make`` builds the later ones from stdin=, stdin_end=, resize=.
    """
    outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
    outgoing.put(first)
    detached = threading.Event()
    with contextlib.ExitStack() as undo:
        if terminal:
            undo.enter_context(_raw_terminal())
            undo.enter_context(_handling({signal.SIGWINCH: lambda _: outgoing.put(make(resize=window()))}))
            outgoing.put(make(resize=window()))
        elif on_signal is not None:
            undo.enter_context(_handling(dict.fromkeys(PROXIED, _never_raising(on_signal))))
        replies = call(iter(outgoing.get, None))
        if stdin:
            pump = _Input(outgoing, make, detached, terminal=terminal, stop=lambda: outgoing.put(None))
            threading.Thread(target=pump.run, name="input", daemon=True).start()
        code: int | None = None
        try:
            for reply in replies:
                _write(sys.stdout.fileno(), reply.stdout)
                _write(sys.stderr.fileno(), reply.stderr)
                if reply.exited:
                    code = reply.exit_code
        except OrlopError:
            if not detached.is_set():
                raise
        finally:
            outgoing.put(None)
    if code is None and not detached.is_set():
        raise Internal("the daemon ended the connection before the container's end")
    return code


def window() -> pb.Window:
    columns, rows = shutil.get_terminal_size()
    return pb.Window(rows=rows, columns=columns)


class _Input:
    """Reads standard input in a thread of its own, because a terminal's read can't be waited for together with gRPC's."""

    def __init__(
        self,
        outgoing: Any,
        make: Callable[..., Any],
        detached: threading.Event,
        *,
        terminal: bool,
        stop: Callable[[], None],
    ) -> None:
        self._outgoing, self._make, self._detached, self._terminal, self._stop = (
            outgoing,
            make,
            detached,
            terminal,
            stop,
        )
        self._held = b""

    def run(self) -> None:
        descriptor = sys.stdin.fileno()
        while True:
            try:
                data = os.read(descriptor, READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._outgoing.put(self._make(stdin_end=True))
                return
            if self._terminal:
                data = self.without_detach_keys(data)
                if self._detached.is_set():
                    self._stop()
                    return
            if data:
                self._outgoing.put(self._make(stdin=data))

    def without_detach_keys(self, data: bytes) -> bytes:
        """Return what to send; hold back a Ctrl-P until it is known whether Ctrl-Q follows."""
        data = self._held + data
        self._held = b""
        if DETACH_KEYS in data:
            self._detached.set()
            return b""
        if data.endswith(DETACH_KEYS[:1]):
            self._held = DETACH_KEYS[:1]
            return data[:-1]
        return data


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _never_raising(act: Callable[[int], None]) -> Callable[[int], None]:
    def handle(number: int) -> None:
        # The container may have ended a moment ago; its exit code is on its way and says more than this.
        with contextlib.suppress(OrlopError):
            act(number)

    return handle


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _handling(handlers: dict[signal.Signals, Callable[[int], None]]) -> Iterator[None]:
    def adapt(act: Callable[[int], None]) -> Callable[[int, Any], None]:
        return lambda number, _: act(number)

    before = {number: signal.signal(number, adapt(act)) for number, act in handlers.items()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
