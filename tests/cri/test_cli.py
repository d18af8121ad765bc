"""The command line against a real orlopd: docker's words, outputs and exit codes; nothing remains of what was run."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.images.conformance import BUSYBOX

pytestmark = pytest.mark.cri
HOST = ("--network", "host")


@pytest.fixture
def orlop(orlopd, client):
    made: list[str] = []

    def run(*words, stdin=b"", code=0):
        if "--name" in words:
            made.append(words[words.index("--name") + 1])
        done = subprocess.run(
            [sys.executable, "-m", "orlop.cli", "--address", orlopd.address, *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done

    yield run
    for name in made:
        run("rm", "-f", name)


def test_output_streams_and_exit_code(orlop):
    done = orlop("run", "--rm", *HOST, BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    assert done.stdout == b"out\n"
    assert done.stderr.endswith(b"err\n")


@pytest.mark.parametrize(("command", "code"), [("/nope", 127), ("/etc/passwd", 126)])
def test_commands_that_cannot_be_run(orlop, command, code):
    assert command.encode() in orlop("run", "--rm", *HOST, BUSYBOX, command, code=code).stderr


def test_usage_and_daemon_errors_are_125(orlop):
    orlop("run", "--no-such-option", BUSYBOX, code=125)
    orlop("run", "-p", "80", BUSYBOX, code=125)


def test_input_environment_user_and_directory(orlop):
    assert orlop("run", "--rm", "-i", *HOST, BUSYBOX, "cat", stdin=b"through").stdout == b"through"
    words = ("-e", "A=b", "-w", "/tmp", "-u", "1000:1000")
    done = orlop("run", "--rm", *HOST, *words, BUSYBOX, "sh", "-c", "echo $A; pwd; id -u; id -g")
    assert done.stdout.split() == [b"b", b"/tmp", b"1000", b"1000"]


def test_all_of_a_long_output_arrives(orlop):
    done = orlop("run", "--rm", *HOST, BUSYBOX, "sh", "-c", "dd if=/dev/zero bs=1M count=8 2>/dev/null")
    assert len(done.stdout) == 8 << 20


def test_a_terminal(orlop, orlopd):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "orlop.cli", "--address", orlopd.address, "run", "--rm", "-it", *HOST, BUSYBOX]
        + ["sh", "-c", "tty; exit 5"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(leader)
    assert process.wait(30) == 5
    assert b"/dev/pts/0" in shown


def test_the_life_of_a_container_in_the_background(orlop):
    script = "echo begun; while true; do sleep 1; done"
    identity = (
        orlop("run", "-d", "--name", "orlop-test-web", *HOST, BUSYBOX, "sh", "-c", script).stdout.decode().strip()
    )
    assert len(identity) == 64
    (row,) = json.loads(orlop("ps", "--filter", "name=orlop-test-web", "--format", "json").stdout)
    assert identity.startswith(row["ID"])
    assert (row["Names"], row["State"]) == ("orlop-test-web", "running")
    assert orlop("ps", "-q", "--no-trunc", "-f", "name=orlop-test-web").stdout.decode().strip() == identity
    orlop("run", "-d", "--name", "orlop-test-web", *HOST, BUSYBOX, code=125)

    assert orlop("exec", identity[:12], "echo", "hi").stdout == b"hi\n"
    orlop("exec", "orlop-test-web", "sh", "-c", "exit 7", code=7)
    orlop("exec", "orlop-test-web", "/nope", code=127)
    assert orlop("exec", "-i", "orlop-test-web", "cat", stdin=b"data").stdout == b"data"

    assert orlop("logs", "--tail", "1", "orlop-test-web").stdout == b"begun\n"
    (found,) = json.loads(orlop("inspect", "orlop-test-web").stdout)
    assert found["status"]["id"] == identity
    assert orlop("inspect", "-f", "{{.status.state}}", "orlop-test-web").stdout == b"CONTAINER_RUNNING\n"
    (figures,) = json.loads(orlop("stats", "--no-stream", "--format", "json", "orlop-test-web").stdout)
    assert figures["MemBytes"] > 0
    assert b"together" in orlop("timings", "orlop-test-web").stdout
    assert b"pivot_root" in orlop("plan", "orlop-test-web").stdout

    orlop("rm", "orlop-test-web", code=1)
    orlop("rmi", BUSYBOX, code=1)
    orlop("kill", "-s", "KILL", "orlop-test-web")
    assert orlop("wait", "orlop-test-web").stdout == b"137\n"
    orlop("stop", "orlop-test-web")
    (row,) = json.loads(orlop("ps", "-a", "-f", "name=orlop-test-web", "--format", "json").stdout)
    assert row["ExitCode"] == 137
    orlop("rm", "orlop-test-web")
    assert orlop("ps", "-aq", "-f", "name=orlop-test-web").stdout == b""


def test_the_daemon_removes_what_ran_in_the_background(orlop):
    identity = orlop("run", "--rm", "-d", *HOST, BUSYBOX, "sh", "-c", "read x", code=0).stdout.decode().strip()
    for _ in range(200):
        if orlop("ps", "-aq", "-f", f"id={identity}").stdout == b"":
            return
    raise AssertionError("it is still there")


def test_images(orlop):
    identity = orlop("pull", "-q", BUSYBOX).stdout.decode().strip()
    listed = json.loads(orlop("images", "--no-trunc", "--format", "json").stdout)
    assert identity in {each["ID"] for each in listed}
    orlop("rmi", "no.such.host/image:1", code=1)
    orlop("pull", "NOT/a/reference", code=1)


def test_the_daemon_says_how_it_is(orlop):
    assert b"RuntimeReady: yes" in orlop("info").stdout
    facts = json.loads(orlop("version", "--format", "json").stdout)
    assert facts["Server"]["Name"] == "orlop"
