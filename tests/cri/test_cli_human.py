"""What people do with containers at a shell: copy files, forward ports, look at processes and events; against a real daemon."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cri.client import container_config
from tests.cri.test_port_forward import until_listening

pytestmark = pytest.mark.cri
Orlop = Callable[..., subprocess.CompletedProcess[bytes]]


def command(orlopd, *words: object) -> list[str]:
    return [sys.executable, "-m", "orlop.cli", "--address", orlopd.address, *map(str, words)]


@pytest.fixture
def orlop(orlopd) -> Orlop:
    def run(*words: object, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(command(orlopd, *words), input=stdin, capture_output=True, timeout=60, check=False)
        assert done.returncode == code, (words, done.returncode, done.stdout[:2000], done.stderr)
        return done

    return run


def said(pod, container: str, script: str) -> str:
    answer = pod.exec(container, "sh", "-c", script)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout.decode()


def test_files_go_in_and_come_out(orlop, pod, container, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "data").write_bytes(data)
    (tmp_path / "tree" / "link").symlink_to("sub/data")
    (tmp_path / "tree" / "run.sh").write_text("echo it runs\n")
    (tmp_path / "tree" / "run.sh").chmod(0o755)
    told = orlop("cp", tmp_path / "tree", f"{container[:12]}:/srv").stderr.decode()
    assert told == f"Successfully copied 3MB to {container[:12]}:/srv\n"
    digest = hashlib.sha256(data).hexdigest()
    assert said(pod, container, "sha256sum < /srv/link").split()[0] == digest
    assert said(pod, container, "stat -c '%u %a' /srv/run.sh; /srv/run.sh") == "0 755\nit runs\n"
    orlop("cp", "-q", tmp_path / "tree" / "run.sh", f"{container}:/srv/sub")
    orlop("cp", "-q", f"{tmp_path}/tree/.", f"{container}:/srv/sub")
    assert said(pod, container, "ls /srv /srv/sub").split() == (
        ["/srv:", "link", "run.sh", "sub", "/srv/sub:", "data", "link", "run.sh", "sub"]
    )

    orlop("cp", f"{container}:/srv", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "sub" / "data").read_bytes() == data
    assert os.readlink(tmp_path / "back" / "link") == "sub/data"
    orlop("cp", "-L", f"{container}:srv/link", tmp_path / "followed")
    assert (tmp_path / "followed").read_bytes() == data


def test_archives_on_standard_input_and_output(orlop, pod, container):
    said(pod, container, "mkdir /srv && echo hello > /srv/file && chown 7:8 /srv/file && ln -s file /srv/link")
    out = orlop("cp", f"{container}:/srv", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        found = {each.name: (each.uid, each.gid, each.linkname) for each in archive}
    assert found == {"srv": (0, 0, ""), "srv/file": (7, 8, ""), "srv/link": (0, 0, "file")}
    orlop("cp", "-", f"{container}:/tmp", stdin=out)
    assert said(pod, container, "cat /tmp/srv/link; stat -c %u:%g /tmp/srv/file") == "hello\n7:8\n"
    assert b"not a tar archive" in orlop("cp", "-", f"{container}:/tmp", stdin=b"nonsense" * 200, code=1).stderr


def test_no_link_of_a_container_leads_out_of_it(orlop, pod, container, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    said(
        pod,
        container,
        f"ln -s {outside} /way; ln -s /../../../..{outside}/secret /file; ln -s /proc/1/root/{outside} /magic",
    )
    for path in ("/way/secret", "/magic/secret", f"/../..{outside}/secret"):
        orlop("cp", f"{container}:{path}", tmp_path / "stolen", code=1)
    orlop("cp", "-L", f"{container}:/file", tmp_path / "stolen", code=1)
    assert not (tmp_path / "stolen").exists()
    (tmp_path / "mine").write_text("mine")
    for path in ("/way/secret", "/magic/new", "/way/"):
        orlop("cp", tmp_path / "mine", f"{container}:{path}", code=1)
    orlop("cp", tmp_path / "mine", f"{container}:/file")
    assert sorted(each.name for each in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "of the host"
    orlop("cp", f"{container}:/way", tmp_path / "copied")
    assert os.readlink(tmp_path / "copied") == str(outside)


def test_what_cannot_be_copied_is_said(orlop, pod, container, tmp_path):
    (tmp_path / "file").write_text("x")
    assert b"no such file" in orlop("cp", f"{container}:/nope", tmp_path, code=1).stderr
    assert b"there is no such directory" in orlop("cp", tmp_path / "file", f"{container}:/nope/", code=1).stderr
    assert b"is not a directory" in orlop("cp", tmp_path, f"{container}:/etc/passwd", code=1).stderr
    assert b"between containers" in orlop("cp", f"{container}:/a", f"{container}:/b", code=1).stderr
    assert b"must be CONTAINER:PATH" in orlop("cp", tmp_path / "file", tmp_path / "other", code=1).stderr
    assert b"device" in orlop("cp", f"{container}:/dev/null", tmp_path / "null", code=1).stderr
    pod.stop_container(container)
    assert b"does not run" in orlop("cp", tmp_path / "file", f"{container}:/", code=1).stderr


def test_the_processes_of_a_container(orlop, orlopd, container):
    with running(orlopd, "exec", "-i", container, "sh", "-c", "echo ready; read x") as inside:
        assert inside.stdout.readline() == b"ready\n"
        rows = json.loads(orlop("top", container, "--format", "json").stdout)
    assert [each["Command"] for each in rows] == ["sleep 3600", "sh -c echo ready; read x"]
    heading, first, *_ = orlop("top", container).stdout.decode().splitlines()
    assert heading.split() == ["UID", "PID", "PPID", "S", "RSS", "STIME", "TIME", "CMD"]
    assert first.split()[-2:] == ["sleep", "3600"]


@contextmanager
def running(orlopd, *words: object) -> Iterator[Any]:
    process = subprocess.Popen(
        command(orlopd, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_events_as_they_happen(orlopd, pod):
    with running(orlopd, "events", "--format", "json", "-f", f"pod={pod.id}") as events:
        lines: list[dict[str, Any]] = []

        def read() -> None:
            lines.extend(json.loads(line) for line in events.stdout)

        reader = threading.Thread(target=read)
        reader.start()
        # A subscriber hears of what comes after it: begin anew until it is there.
        deadline = time.monotonic() + 30
        while not lines:
            assert time.monotonic() < deadline
            made = pod.launch(container_config("seen", ["sh", "-c", "exit 3"]))
            pod.stop_container(made)
            pod.remove_container(made)
        made = pod.launch(container_config("main"))
        pod.stop_container(made)
        while not any(each["ID"] == made and each["Action"] == "die" for each in lines):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pod.remove_container(made)
        while not any(each["ID"] == made and each["Action"] == "destroy" for each in lines):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        events.terminate()
        reader.join(30)
    of_it = [each for each in lines if each["ID"] == made]
    assert [each["Action"] for each in of_it] == ["create", "start", "die", "destroy"]
    assert of_it[2]["ExitCode"] == 137
    assert {each["Type"] for each in of_it} == {"container"}
    assert of_it[1]["Name"] == "main"


def test_events_end_when_they_shall(orlop):
    orlop("events", "--until", str((time.time_ns() + 10**9) / 1e9))
    assert b"is over" in orlop("events", "--until", "10m", code=1).stderr


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
        sender.join()
        return found


def test_ports_of_a_pod(orlopd, pod):
    pod.launch(container_config("echo", ["tcpsvd", "-b", "64", "-c", "64", "127.0.0.1", "7000", "cat"]))
    until_listening(pod, 7000)
    with running(orlopd, "port-forward", pod.id[:12], ":7000", ":7001") as forwarding:
        line = forwarding.stdout.readline().decode()
        assert line.startswith("Forwarding from 127.0.0.1:")
        assert line.endswith(" -> 7000\n")
        port = int(line.split()[2].rpartition(":")[2])
        closed = int(forwarding.stdout.readline().split()[2].rpartition(b":")[2])
        data = os.urandom(8 << 20)
        assert exchange(port, data) == data
        results: list[bytes] = []
        threads = [threading.Thread(target=lambda: results.append(exchange(port, data[: 1 << 18]))) for _ in range(10)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert results == [data[: 1 << 18]] * 10
        # Nobody listens there: said, and the others go on.
        with socket.create_connection(("127.0.0.1", closed), timeout=30) as connection:
            assert connection.recv(1) == b""
        assert b"port 7001: cannot connect" in forwarding.stderr.readline()
        assert exchange(port, b"still") == b"still"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as given_up:
            given_up.sendall(b"x")
            assert given_up.recv(1) == b"x"
        assert exchange(port, b"still") == b"still"


def test_ports_that_cannot_be_forwarded(orlop, pod):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert b"cannot listen" in orlop("port-forward", pod.id, f"{number}:80", code=1).stderr
    assert b"between 1 and 65535" in orlop("port-forward", pod.id, ":70000", code=1).stderr
    assert b"there is no such pod" in orlop("port-forward", "no-such-pod", ":80", code=1).stderr
