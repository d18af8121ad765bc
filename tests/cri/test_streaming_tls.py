"""Sessions over TLS: whole in both directions, over a change of the certificate, and with the words of a daemon that stops."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.cli.client import Client
from tests.cri.client import Pod, container_config, pull, sandbox_config
from tests.cri.daemons import Orlopd
from tests.cri.harness import Source
from tests.cri.streams import STDOUT, Command, WebSocket, exit_code
from tests.cri.test_streaming import exec_url
from tests.images.certificates import Authority
from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server", "127.0.0.1")
    return made


@pytest.fixture(scope="module")
def secured(registry: Source, authority: Authority) -> Iterator[Orlopd]:
    daemon = Orlopd(registry.certs_d)
    server = authority.directory / "server"
    daemon.more_config = f'[streaming]\ntls_cert_file = "{server}.crt"\ntls_key_file = "{server}.key"\n'
    with daemon:
        yield daemon
        daemon.remove_pods()


@pytest.fixture
def client(secured: Orlopd) -> Iterator[Client]:
    with Client(secured.address) as connected:
        yield connected


@pytest.fixture
def container(client: Client, secured: Orlopd) -> Iterator[str]:
    pull(client, BUSYBOX)
    config = sandbox_config()
    config.linux.cgroup_parent = secured.cgroup_parent
    pod = Pod.run(client, config)
    yield pod.launch(container_config(log_path=""))
    pod.remove()


def test_sessions(client, container, authority):
    context = ssl.create_default_context(cafile=str(authority.path))
    data = os.urandom(20 << 20)
    url = exec_url(client, container, "cat", stdin=True)
    assert url.startswith("https://127.0.0.1:")
    with Command(url, stdin=True, context=context) as session:
        # The command echoes; what it has sent must be read for it to take more.
        for at in range(0, len(data), 1 << 20):
            session.write(data[at : at + (1 << 20)])
            session.frames.until(lambda at=at: len(session.out()) >= at)
        session.write(b"", end=True)
        assert exit_code(session.finish()) == 0
        assert session.out() == data
    with WebSocket(exec_url(client, container, "echo", "x"), "v5.channel.k8s.io", context=context) as socket_:
        assert exit_code(socket_.finish()) == 0
        assert socket_.out(STDOUT) == b"x\n"


def serial(session: Command) -> str:
    assert isinstance(session.sock, ssl.SSLSocket)
    return str((session.sock.getpeercert() or {})["serialNumber"])


def test_a_session_goes_on_over_a_change_of_the_certificate(client, container, authority):
    context = ssl.create_default_context(cafile=str(authority.path))
    with Command(exec_url(client, container, "cat", stdin=True), stdin=True, context=context) as old:
        authority.issue("server", "127.0.0.1")
        with Command(exec_url(client, container, "echo", "x"), context=context) as new:
            assert serial(new) != serial(old)
            assert exit_code(new.finish()) == 0
        old.write(b"still here", end=True)
        assert exit_code(old.finish()) == 0
        assert old.out() == b"still here"


def test_a_daemon_that_stops_says_so_and_the_command_goes_on(client, container, authority, secured, tmp_path: Path):
    context = ssl.create_default_context(cafile=str(authority.path))
    script = "echo begun; sleep 2; echo read by nobody; echo over > /tmp/over"
    with Command(exec_url(client, container, "sh", "-c", script), context=context) as session:
        session.until_out(b"begun")
        secured.terminate()
        status = session.finish()
        assert status["reason"] == "InternalError"
        assert "orlopd is stopping" in status["message"]
    secured.start()
    with Client(secured.address) as again:
        deadline = time.monotonic() + 30
        while True:
            with Command(exec_url(again, container, "cat", "/tmp/over"), context=context) as look:
                if exit_code(look.finish()) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
