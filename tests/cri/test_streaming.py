"""Exec and attach through the streaming server of a real daemon, over SPDY and over WebSockets."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from orlop.base.errors import InvalidArgument, NotFound
from orlop.specs.cri_gen import api_pb2 as cri
from tests.cri.client import container_config
from tests.cri.streams import ERROR, STDERR, STDIN, STDOUT, Command, Gone, SpdyClient, WebSocket, ask, dial, exit_code

pytestmark = pytest.mark.cri


def exec_url(client, container: str, *command: str, stdin=False, stdout=True, stderr=None, tty=False) -> str:
    request = cri.ExecRequest(
        container_id=container,
        cmd=command,
        stdin=stdin,
        stdout=stdout,
        stderr=(not tty if stderr is None else stderr),
        tty=tty,
    )
    return client.runtime.Exec(request, timeout=30).url


def attach_url(client, container: str, *, stdin=False, tty=False) -> str:
    request = cri.AttachRequest(container_id=container, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
    return client.runtime.Attach(request, timeout=30).url


def run(client, container: str, *command: str, stdin: bytes | None = None, protocol="v4.channel.k8s.io"):
    url = exec_url(client, container, *command, stdin=stdin is not None)
    with Command(url, stdin=stdin is not None, protocol=protocol) as session:
        if stdin is not None:
            session.write(stdin, end=True)
        status = session.finish()
        return session.out(STDOUT), session.out(STDERR), status


def test_output_and_exit_code_come_apart_and_whole(client, container):
    out, err, status = run(client, container, "sh", "-c", "echo to stdout; echo to stderr >&2; exit 42")
    assert (out, err, exit_code(status)) == (b"to stdout\n", b"to stderr\n", 42)
    out, err, status = run(client, container, "echo", "-n", "no newline")
    assert (out, err, exit_code(status)) == (b"no newline", b"", 0)


def test_a_signal_is_128_and_its_number(client, container):
    _, _, status = run(client, container, "sh", "-c", "kill -TERM $$")
    assert exit_code(status) == 143


def test_what_cannot_be_executed_is_said_on_the_error_channel(client, container):
    out, _, status = run(client, container, "/no/such/program")
    assert out == b""
    assert status["status"] == "Failure"
    assert status["reason"] == "InternalError"
    assert "/no/such/program" in status["message"]


@pytest.mark.parametrize("protocol", ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io"])
def test_older_protocols_say_failures_as_text(client, container, protocol):
    out, _, text = run(client, container, "echo", "fine", protocol=protocol)
    assert (out, text) == (b"fine\n", b"")
    _, _, text = run(client, container, "sh", "-c", "exit 3", protocol=protocol)
    assert b"exit code 3" in text


def test_the_end_of_stdin_is_a_half_close(client, container):
    data = bytes(range(256)) * 4096
    out, _, status = run(client, container, "sh", "-c", "sha256sum; echo after", stdin=data)
    assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert out.endswith(b"after\n")
    assert exit_code(status) == 0


def test_no_last_byte_is_lost(client, container):
    for _ in range(20):
        out, _, _ = run(client, container, "sh", "-c", "head -c 100000 /dev/zero; echo last")
        assert len(out) == 100005
        assert out.endswith(b"last\n")


def test_a_terminal_has_one_output_a_size_and_its_changes(client, container):
    url = exec_url(client, container, "sh", stdin=True, tty=True)
    with Command(url, stdin=True, stderr=False, tty=True) as session:
        session.resize(33, 111)
        session.write(b"trap 'stty size' WINCH; stty size; tty; echo error >&2; read x\n")
        session.until_out(b"33 111")
        session.until_out(b"/dev/pts/")
        session.until_out(b"error\r\n")
        session.resize(44, 99)
        session.until_out(b"44 99")
        session.write(b"\nexit 5\n")
        assert exit_code(session.finish()) == 5


def test_a_slow_reader_slows_only_itself(client, container, orlopd):
    url = exec_url(client, container, "sh", "-c", "yes | head -c 200000000")
    with Command(url, receive_buffer=4096) as slow:
        before = rss(orlopd.pid)
        for _ in range(10):
            began = time.monotonic()
            out, _, _ = run(client, container, "echo", "quick")
            assert out == b"quick\n"
            assert time.monotonic() - began < 5
        assert rss(orlopd.pid) - before < 16 << 20
        slow.frames.dropped = slow.streams[STDOUT]
        assert exit_code(slow.finish()) == 0
        assert sum(length for number, length, _ in slow.frames.order if number == slow.streams[STDOUT]) == 200000000


def rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_hundred_sessions_at_once(client, container, orlopd):
    results: dict[int, tuple[bytes, int]] = {}

    def one(number: int) -> None:
        url = exec_url(client, container, "sh", "-c", "read line; echo got $line; exit $line", stdin=True)
        with Command(url, stdin=True) as session:
            together.wait(60)
            session.write(b"%d\n" % number, end=True)
            results[number] = (session.out(), exit_code(session.finish()))
            results[number] = (session.out(), results[number][1])

    together = threading.Barrier(100)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: (b"got %d\n" % number, number) for number in range(100)}


def test_a_client_that_goes_leaves_nothing_of_its_session(client, container, orlopd):
    url = exec_url(client, container, "sh", "-c", "cat; echo over > /tmp/over", stdin=True)
    with Command(url, stdin=True) as session:
        session.write(b"x")
        session.until_out(b"x")
    deadline = time.monotonic() + 20
    while run(client, container, "cat", "/tmp/over")[0] != b"over\n":
        assert time.monotonic() < deadline, "the command did not see the end of its input"


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v5.channel.k8s.io"])
def test_websocket_exec(client, container, protocol):
    url = exec_url(client, container, "sh", "-c", "read x; echo got $x; echo error >&2; exit 7", stdin=True)
    with WebSocket(url, protocol) as session:
        assert session.protocol == protocol
        session.until(lambda: session.messages)
        assert session.messages[0] == bytes((STDOUT,))
        session.ping(b"are you there")
        session.until(lambda: session.pongs)
        session.send_parts(b"\0in p", b"ie", b"ces\n")
        assert exit_code(session.finish()) == 7
        assert session.out(STDOUT) == b"got in pieces\n"
        assert session.out(STDERR) == b"error\n"
        assert session.code == 1000


def test_websocket_v5_ends_stdin(client, container):
    url = exec_url(client, container, "sh", "-c", "cat; echo end", stdin=True)
    with WebSocket(url, "v5.channel.k8s.io") as session:
        session.send(b"\0some\n")
        session.send(bytes((255, STDIN)))
        assert exit_code(session.finish()) == 0
        assert session.out(STDOUT) == b"some\nend\n"


def test_websocket_base64_and_bare(client, container):
    with WebSocket(exec_url(client, container, "echo", "hello"), "v4.base64.channel.k8s.io") as session:
        session.until(lambda: session.code is not None)
        assert b"1aGVsbG8K" in session.messages
    with WebSocket(exec_url(client, container, "sh", "-c", "echo hello; exit 9")) as session:
        assert session.protocol is None
        session.until(lambda: session.code is not None)
        assert session.out(STDOUT) == b"hello\n"
        assert b"exit code 9" in session.out(ERROR)


def test_attach_sees_output_and_feeds_stdin_once(client, pod):
    config = container_config(command=["sh", "-c", "while read x; do echo got $x; echo e$x >&2; done; exit 0"])
    config.stdin = config.stdin_once = True
    container = pod.launch(config)
    with Command(attach_url(client, container, stdin=True), stdin=True) as session:
        session.write(b"one\n")
        session.until_out(b"got one\n")
        session.until_out(b"eone\n", STDERR)
        session.write(b"two\n", end=True)
        assert session.finish()["status"] == "Success"
        assert session.out() == b"got one\ngot two\n"


def test_an_attached_client_that_does_not_read_is_let_go_and_told(client, pod, orlopd):
    config = container_config(
        command=["sh", "-c", "read x; yes | head -c 150000000; echo over > /tmp/over; sleep 1000"]
    )
    config.stdin, config.log_path = True, ""
    container = pod.launch(config)
    with Command(attach_url(client, container, stdin=True), stdin=True, receive_buffer=4096) as session:
        before = rss(orlopd.pid)
        session.write(b"\n")
        deadline = time.monotonic() + 60
        while pod.exec(container, "cat", "/tmp/over").stdout != b"over\n":
            assert time.monotonic() < deadline, "the container waits for who watches it"
            time.sleep(0.05)
        assert rss(orlopd.pid) - before < 16 << 20
        session.frames.dropped = session.streams[STDOUT]
        assert "reads more slowly than the container writes" in session.finish()["message"]


def test_attach_to_a_terminal_resizes_it(client, pod):
    config = container_config(command=["sh", "-c", "while :; do stty size; sleep 0.1; done"])
    config.stdin = config.tty = True
    container = pod.launch(config)
    with WebSocket(attach_url(client, container, stdin=True, tty=True), "v5.channel.k8s.io") as session:
        session.send(b'\4{"Width": 81, "Height": 25}')
        session.until(lambda: b"25 81" in session.out(STDOUT))


def test_what_is_wrong_is_refused_before_there_is_a_url(client, container):
    for wrong, message in (
        ({"cmd": ["x"], "container_id": ""}, "container_id: is empty"),
        ({"stdout": True}, "cmd is empty"),
        ({"cmd": ["x"]}, "one of stdin, stdout and stderr"),
        ({"cmd": ["x"], "stdout": True, "stderr": True, "tty": True}, "tty and stderr"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            client.runtime.Exec(cri.ExecRequest(**{"container_id": container, **wrong}), timeout=30)
    with pytest.raises(NotFound):
        client.runtime.Exec(cri.ExecRequest(container_id="0" * 32, cmd=["x"], stdout=True), timeout=30)


def test_tokens_open_once_and_only_what_they_are_for(client, container):
    url = exec_url(client, container, "echo", "x")
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v4.channel.k8s.io")]
    with Command(url) as session:
        assert exit_code(session.finish()) == 0
    for wrong in (url, url[:-1], url + "A", url.rpartition("/")[0] + "/", url.replace("/exec/", "/attach/")):
        with dial(wrong) as sock:
            assert ask(sock, wrong, upgrade).status == 404
    other = exec_url(client, container, "echo", "x").replace("/exec/", "/attach/")
    with dial(other) as sock:
        assert ask(sock, other, upgrade).status == 404


def test_negotiation(client, container):
    url = exec_url(client, container, "echo", "x")
    with SpdyClient(url, "v9.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io") as session:
        assert session.protocol == "v3.channel.k8s.io"
    url = exec_url(client, container, "echo", "x")
    with dial(url) as sock:
        headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v9")]
        answer = ask(sock, url, headers)
    assert answer.status == 403
    assert "v4.channel.k8s.io" in answer.headers["x-accepted-stream-protocol-versions"]
    url = exec_url(client, container, "echo", "x")
    with dial(url) as sock:
        assert ask(sock, url, []).status == 400
    with WebSocket(exec_url(client, container, "echo", "x"), "v9.channel.k8s.io") as session:
        assert session.rejected == 403


def test_pings_are_answered_and_windows_are_told(client, container):
    url = exec_url(client, container, "sh", "-c", "read x", stdin=True)
    with Command(url, stdin=True) as session:
        session.frames.control(6, (77).to_bytes(4, "big"))
        session.frames.until(lambda: session.frames.pongs == [77])
        assert (0, (1 << 31) - 1 - 65536) in session.frames.windows
        session.write(b"\n")
        session.finish()


def test_a_client_that_counts_windows_is_obeyed(client, container):
    with Command(exec_url(client, container, "sh", "-c", "head -c 300000 /dev/zero")) as session:
        # The first word about windows may come behind the first data: what was sent until then counts.
        session.frames.control(4, (1).to_bytes(4, "big") + (7).to_bytes(4, "big") + (65536).to_bytes(4, "big"))
        number = session.streams[STDOUT]
        while number not in session.frames.ended:
            before = len(session.frames.data[number])
            session.frames.read_frame()
            taken = len(session.frames.data[number]) - before
            if taken:
                for target in (number, 0):
                    session.frames.control(9, target.to_bytes(4, "big") + taken.to_bytes(4, "big"))
        assert len(session.out()) == 300000
        assert exit_code(session.finish()) == 0


def test_a_reset_output_closes_the_pipe(client, container):
    url = exec_url(client, container, "sh", "-c", "yes; echo over $? >&2")
    with Command(url, receive_buffer=4096) as session:
        session.frames.until(session.out)
        session.frames.control(3, session.streams[STDOUT].to_bytes(4, "big") + (5).to_bytes(4, "big"))
        del session.streams[STDOUT]
        assert exit_code(session.finish()) == 0
        assert session.out(STDERR) == b"over 141\n"


def test_a_terminal_has_its_size_from_the_start(client, container):
    for _ in range(10):
        url = exec_url(client, container, "stty", "size", tty=True)
        with Command(url, stderr=False, tty=True, size=(31, 77)) as session:
            session.finish()
            assert session.out() == b"31 77\r\n"


def test_a_client_that_goes_hangs_up_the_terminal(client, container):
    script = "trap 'echo yes > /tmp/hup; exit' HUP; echo ready; while :; do sleep 0.05; done"
    with Command(exec_url(client, container, "sh", "-c", script, tty=True), stderr=False, tty=True) as session:
        session.until_out(b"ready")
    deadline = time.monotonic() + 20
    while run(client, container, "cat", "/tmp/hup")[0] != b"yes\n":
        assert time.monotonic() < deadline, "the shell did not hear of it"


def test_an_exec_outlives_the_daemon(client, pod, orlopd):
    """Both kinds go on writing although nobody reads; the clients see their connections end."""
    container = pod.launch(container_config("survivor"))
    script = "i=0; while [ $i -lt 250 ]; do echo line $i; echo $i > /tmp/{0}; i=$((i+1)); sleep 0.01; done; echo end > /tmp/{0}"
    sessions = []
    for tty in (False, True):
        name = "tty" if tty else "pipe"
        session = Command(
            exec_url(client, container, "sh", "-c", script.format(name), tty=tty), stderr=not tty, tty=tty
        )
        session.until_out(b"line 100")
        sessions.append(session)
    orlopd.kill()
    for session in sessions:
        status = session.finish()
        assert "orlopd has ended unexpectedly" in status["message"]
        with pytest.raises(Gone):
            session.frames.read_frame()
        session.close()
    orlopd.start()
    deadline = time.monotonic() + 60
    for name in ("pipe", "tty"):
        while pod.exec(container, "cat", f"/tmp/{name}").stdout != b"end\n":
            assert time.monotonic() < deadline, f"{name}: it did not go on to its end"
            time.sleep(0.1)


def test_a_terminal_whose_output_nobody_wants_does_not_stop(client, container):
    url = exec_url(client, container, "sh", stdin=True, stdout=False, tty=True)
    with Command(url, stdin=True, stdout=False, stderr=False, tty=True) as session:
        session.write(b"yes | head -c 300000; exit 3\n")
        assert exit_code(session.finish()) == 3
