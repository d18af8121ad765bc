"""orlop exec, attach and run in real pseudo-terminals: size, detach keys, and a terminal that is always given back as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pytest

from tests.cri.client import container_config

pytestmark = pytest.mark.cri
SECONDS = 20
SHELL = ["sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do read -r x && echo got $x; done"]


class Terminal:
    """A program in a terminal of 37 rows and 123 columns."""

    def __init__(self, address: str, *words: str) -> None:
        self.ours, self.theirs = os.openpty()
        self.process: subprocess.Popen[bytes] | None = None
        self.size(37, 123)
        self.before = self.modes()
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orlop.cli", "--address", address, *words],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
        )

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.theirs)

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if self.process is not None:
            # The kernel tells the session that the terminal controls, which is nobody's here.
            self.process.send_signal(signal.SIGWINCH)

    def type(self, data: bytes) -> None:
        os.write(self.ours, data)

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, (text, self.shown)
            over = self.process.poll() is not None
            if select.select([self.ours], [], [], 0.2)[0]:
                self.shown += os.read(self.ours, 65536)
            elif over:
                raise AssertionError((text, self.shown))

    def end(self) -> int:
        """Wait for the program's end; its terminal must be as it was."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.ours], [], [], 0.05)[0]:
                self.shown += os.read(self.ours, 65536)
        while select.select([self.ours], [], [], 0)[0]:
            self.shown += os.read(self.ours, 65536)
        assert self.modes() == self.before
        return self.process.returncode

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        with contextlib.suppress(OSError):
            os.close(self.ours)
        os.close(self.theirs)


def test_exec_follows_the_window_and_ends_with_its_code(orlopd, container):
    with Terminal(orlopd.address, "exec", "-it", container, "sh") as terminal:
        terminal.until(b"# ")
        assert terminal.modes() != terminal.before
        terminal.type(b"stty size; tty\n")
        terminal.until(b"37 123\r\n")
        terminal.until(b"/dev/pts/")
        terminal.type(b"while ! stty size | grep '44 99'; do :; done\n")
        terminal.size(44, 99)
        terminal.until(b"44 99\r\n")
        # Not to be taken for the end of this program: it is typed into the container.
        terminal.type(b"sleep 1000\n")
        terminal.until(b"sleep 1000\r\n")
        terminal.type(b"\x03")
        terminal.type(b"echo still $((20+3))\n")
        terminal.until(b"still 23\r\n")
        terminal.type(b"exit 5\n")
        assert terminal.end() == 5


@pytest.fixture
def shell(pod) -> str:
    config = container_config("shell", SHELL)
    config.tty = config.stdin = True
    return pod.launch(config)


@pytest.mark.parametrize(("options", "keys"), [((), (b"\x10", b"\x11")), (("--detach-keys", "ctrl-x,y"), (b"\x18y",))])
def test_attach_and_detach(orlopd, pod, shell, options, keys):
    for word in (b"one", b"two"):
        with Terminal(orlopd.address, "attach", *options, shell) as terminal:
            terminal.type(word + b"\n")
            terminal.until(b"got " + word + b"\r\n")
            for key in keys:
                terminal.type(key)
            assert terminal.end() == 0
            assert b"read escape sequence" in terminal.shown
    assert pod.container_status(shell).state == 1  # CONTAINER_RUNNING


def test_attach_gives_its_window_and_its_changes(orlopd, shell):
    with Terminal(orlopd.address, "attach", shell) as terminal:
        terminal.type(b"x\n")
        terminal.until(b"got x\r\n")
        terminal.size(50, 150)
        terminal.type(b"y\n")
        terminal.until(b"50 150\r\n")
        terminal.type(b"\x10\x11")
        assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(orlopd, container, number):
    with Terminal(orlopd.address, "exec", "-it", container, "sh") as terminal:
        terminal.until(b"# ")
        assert terminal.modes() != terminal.before
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number


def test_keys_that_are_none(orlopd, container):
    with Terminal(orlopd.address, "exec", "-it", "--detach-keys", "ctrl-", container, "sh") as terminal:
        assert terminal.end() == 125
        assert b"--detach-keys" in terminal.shown


def test_a_daemon_that_dies_gives_the_terminal_back(orlopd, container):
    with Terminal(orlopd.address, "exec", "-it", container, "sh") as terminal:
        terminal.until(b"# ")
        orlopd.kill()
        orlopd.start()
        assert terminal.end() == 1
        assert b"orlop exec: " in terminal.shown
