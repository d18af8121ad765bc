"""What kubectl and kubelet stream with (client-go, k8s.io/cri-client) against a real daemon, over SPDY and over WebSockets.

The client is stream_client/main.go. ORLOP_STREAM_BYTES makes the copies longer: 1073741824 is what the goals of the project speak of.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.cri.client import container_config
from tests.cri.test_port_forward import until_listening
from tests.tools.build import tool

pytestmark = pytest.mark.cri
SECONDS = 300
BYTES = int(os.environ.get("ORLOP_STREAM_BYTES", str(64 << 20)))
Run = Callable[..., subprocess.CompletedProcess[bytes]]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(params=["spdy", "websocket"])
def run(orlopd, request) -> Run:
    def run(*words: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [tool("stream-client"), "-endpoint", orlopd.address, "-transport", request.param, *map(str, words)]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)

    return run


@pytest.fixture
def ask(run) -> Ask:
    def ask(*words: object) -> dict[str, Any]:
        done = run(*words)
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return ask


def test_streams_and_exit_code_of_exec(run, container):
    done = run("exec", container, "sh", "-c", "cat; echo error >&2; exit 43", stdin=b"some input")
    assert (done.stdout, done.stderr, done.returncode) == (b"some input", b"error\n", 43)
    done = run("exec", container, "/no/such/program")
    assert done.returncode == 1
    assert b"/no/such/program" in done.stderr


def test_all_bytes_come_back_through_exec(ask, container):
    answer = ask("copy", container, BYTES)
    assert answer == {"sent": BYTES, "received": BYTES, "same": True, "code": 0}


def test_the_end_of_stdin_is_a_half_close(ask, container):
    size = 3_000_001
    answer = ask("half-close", container, size)
    assert answer == {"sent": size, "same": True, "stderr": "after\n", "code": 9}


def test_a_hundred_sessions_are_open_at_once(ask, container):
    assert ask("many", container, 100) == {"sessions": 100}


def test_a_reader_that_does_not_read_holds_up_nobody(ask, container):
    size = 64 << 20
    answer = ask("slow", container, size, 10)
    assert answer == {"others": 10, "waited": True, "received": size, "same": True}


def test_a_terminal_follows_its_window(ask, container):
    answer = ask("resize", container)
    assert answer == {"seen": ["31 101", "32 102", "53 203"], "code": 3}


def test_attach(run, pod):
    config = container_config("shell", ["sh", "-c", "while read x; do echo got $x; echo error $x >&2; done; exit 5"])
    config.stdin = config.stdin_once = True
    done = run("attach", pod.launch(config), stdin=b"one\ntwo\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"got one\ngot two\n", b"error one\nerror two\n", 0)


def test_all_bytes_come_back_through_a_forwarded_port(ask, pod):
    pod.launch(container_config("echo", ["nc", "-lk", "-p", "7000", "-e", "cat"]))
    until_listening(pod, 7000)
    answer = ask("forward", pod.id, 7000, BYTES, 1)
    assert answer == {"connections": 1, "bytes": BYTES, "complaints": ""}


def test_connections_beside_each_other_through_one_session(ask, pod):
    pod.launch(container_config("echo", ["tcpsvd", "-b", "64", "-c", "64", "0.0.0.0", "7000", "cat"]))
    until_listening(pod, 7000)
    answer = ask("forward", pod.id, 7000, 1 << 20, 20)
    assert answer == {"connections": 20, "bytes": 1 << 20, "complaints": ""}
