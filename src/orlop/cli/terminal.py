"""Connect this terminal (or these pipes) to a container: raw mode, window size, signals, detach keys, exit code.

Ctrl-P Ctrl-Q (or what --detach-keys says) detaches: the container goes on. A terminal is given back as it was, also when a signal ends
this program. Test: tests/unit/cli/test_terminal.py, tests/cri/test_cli_terminal.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any

from orlop.base.errors import Internal, InvalidArgument, OrlopError
from orlop.cli.client import Replies
from orlop.specs.cri_gen import orlop_pb2 as pb

DETACH_KEYS = "ctrl-p,ctrl-q"
DETACHED = "read escape sequence"
CONTROLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
READ_BYTES = 8192
ENDING = (signal.SIGTERM, signal.SIGHUP)
PROXIED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT)


def add_detach_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--detach-keys",
        default=DETACH_KEYS,
        type=_keys_option,
        metavar="KEYS",
        help="what leaves it: letters or ctrl-LETTER, with commas between (default ctrl-p,ctrl-q)",
    )


def _keys_option(text: str) -> bytes:
    try:
        return parse_keys(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_keys(text: str) -> bytes:
    """Return the bytes of ``ctrl-p,ctrl-q`` or ``a,b``; "" for none. Raises InvalidArgument."""
    found = bytearray()
    for key in text.split(",") if text else ():
        rest = key.lower().removeprefix("ctrl-")
        if len(key) == 1 and key.isascii() and key.isprintable():
            found += key.encode()
        elif key[:5].lower() == "ctrl-" and len(rest) == 1 and "a" <= rest <= "z":
            found.append(ord(rest) - ord("a") + 1)
        elif key[:5].lower() == "ctrl-" and rest in CONTROLS:
            found.append(CONTROLS[rest])
        else:
            raise InvalidArgument(
                f"{key!r} is not a letter, ctrl-LETTER or one of ctrl-@ ctrl-[ ctrl-\\ ctrl-] ctrl-^ ctrl-_"
            )
    return bytes(found)


def converse(
    call: Callable[[Iterator[Any]], Replies],
    first: Any,
    make: Callable[..., Any],
    *,
    stdin: bool,
    terminal: bool,
    on_signal: Callable[[int], None] | None = None,
    keys: bytes = parse_keys(DETACH_KEYS),
) -> int | None:
    """Run a conversation of Attach or Exec; return the exit code, or None when the user detached.

    ``first`` is its first message; ``make`` builds the later ones from stdin=, stdin_end=, resize=. ``keys`` detach, on a terminal.
    """
    outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
    outgoing.put(first)
    detached = threading.Event()
    with contextlib.ExitStack() as undo:
        if terminal:
            undo.enter_context(_handling(dict.fromkeys(ENDING, _end)))
            undo.enter_context(_raw_terminal())
            undo.enter_context(_handling({signal.SIGWINCH: lambda _: outgoing.put(make(resize=window()))}))
            outgoing.put(make(resize=window()))
        elif on_signal is not None:
            undo.enter_context(_handling(dict.fromkeys(PROXIED, _never_raising(on_signal))))
        replies = call(iter(outgoing.get, None))
        if stdin:
            pump = _Input(outgoing, make, detached, keys=keys if terminal else b"", stop=replies.cancel)
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
    if code is None:
        print(DETACHED, file=sys.stderr)
    return code


def _end(number: int) -> None:
    """A signal that would end this program at once ends it through its cleaning up, with the shell's exit code for it."""
    raise SystemExit(128 + number)


def window() -> pb.Window:
    """Return the size of the terminal, not of what COLUMNS and LINES say: programs change them for their own output."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return pb.Window(rows=rows, columns=columns)


class _Input:
    """Reads standard input in a thread of its own, because a terminal's read can't be waited for together with gRPC's."""

    def __init__(
        self,
        outgoing: Any,
        make: Callable[..., Any],
        detached: threading.Event,
        *,
        keys: bytes,
        stop: Callable[[], None],
    ) -> None:
        self._outgoing, self._make, self._detached, self._keys, self._stop = (
            outgoing,
            make,
            detached,
            keys,
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
            data = self.without_detach_keys(data)
            if self._detached.is_set():
                self._stop()
                return
            if data:
                self._outgoing.put(self._make(stdin=data))

    def without_detach_keys(self, data: bytes) -> bytes:
        """Return what to send; hold back the beginning of the keys until it is known whether the rest follows."""
        if not self._keys:
            return data
        data = self._held + data
        self._held = b""
        if self._keys in data:
            self._detached.set()
            return b""
        for length in range(len(self._keys) - 1, 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = self._keys[:length]
                return data[:-length]
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
        # The terminal itself may be gone: its window was closed.
        with contextlib.suppress(termios.error):
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
