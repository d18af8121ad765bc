"""crictl's exec, attach and port-forward, over SPDY and over WebSockets, with a terminal and without."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cri.client import container_config
from tests.cri.test_port_forward import until_listening
from tests.tools.build import tool

pytestmark = pytest.mark.cri
SECONDS = 30
TRANSPORTS = pytest.mark.parametrize("transport", ["spdy", "websocket"])
Crictl = Callable[..., list[str]]


@pytest.fixture
def crictl(orlopd, tmp_path: Path) -> Crictl:
    config = tmp_path / "crictl.yaml"
    config.write_text(f"runtime-endpoint: {orlopd.address}\nimage-endpoint: {orlopd.address}\ntimeout: 30\n")
    return lambda *words: [tool("crictl"), "--config", str(config), *map(str, words)]


@TRANSPORTS
def test_exec_through_pipes(crictl, container, transport):
    command = crictl("exec", "-i", "--transport", transport, container, "sh", "-c", "cat; echo error >&2; exit 4")
    done = subprocess.run(command, input=b"some input", capture_output=True, timeout=SECONDS, check=False)
    assert done.stdout == b"some input"
    assert b"error\n" in done.stderr
    assert b"exit code 4" in done.stderr
    assert done.returncode != 0


def in_terminal(command: list[str], *, typed: bytes, until: bytes) -> tuple[bytes, int]:
    """Run a command in a terminal of 37 rows and 123 columns, type at its prompt, return what it showed and its exit code."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 37, 123, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown, sent = b"", False
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 4096)
                except OSError:
                    break
            if not sent and b"# " in shown:
                os.write(ours, typed)
                sent = True
            if until in shown:
                break
        return shown, process.wait(SECONDS)
    finally:
        process.kill()
        os.close(ours)


@TRANSPORTS
def test_exec_in_a_terminal(crictl, container, transport):
    command = crictl("exec", "-it", "--transport", transport, container, "sh")
    shown, code = in_terminal(command, typed=b"stty size; echo $((6*7)); exit\n", until=b"42\r\n")
    assert b"37 123" in shown
    assert b"42\r\n" in shown
    assert code == 0


@TRANSPORTS
def test_attach(crictl, pod, transport):
    config = container_config("shell", ["sh", "-c", "while read x; do echo got $x; done"])
    config.stdin = config.stdin_once = True
    made = pod.launch(config)
    command = crictl("attach", "-i", "--transport", transport, made)
    done = subprocess.run(command, input=b"one\ntwo\n", capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"got one\ngot two\n"


@TRANSPORTS
def test_port_forward(crictl, pod, transport):
    page = "HTTP/1.0 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nhello\\n"
    pod.launch(container_config("web", ["nc", "-lk", "-p", "80", "-e", "sh", "-c", f"read x; printf '{page}'"]))
    until_listening(pod, 80)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = crictl("port-forward", "--transport", transport, pod.id, f"{port}:80")
    forwarding = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert forwarding.stdout is not None
        assert b"Forwarding from" in forwarding.stdout.readline()
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SECONDS) as answer:
                assert answer.read() == b"hello\n"
    finally:
        forwarding.terminate()
        forwarding.wait(SECONDS)
        assert forwarding.stdout is not None
        forwarding.stdout.close()
