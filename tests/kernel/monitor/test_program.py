"""CVE-2019-5736: a container that makes the kernel run the monitor's program again gets hold of a file that nobody can change."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import Internal
from orlop.monitor.program import MonitorProgram, seal_monitor
from orlop.monitor.spawn import spawn_monitor
from orlop.oci import ops
from orlop.oci.codec import encode
from orlop.oci.ops import make_plan
from tests.kernel.executor.harness import ROOT, VARIANT
from tests.kernel.monitor.harness import PodUnderTest, built, logged, program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(VARIANT != "release", reason="a sanitizer's build is run from its file"),
]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def on_the_host() -> Iterator[None]:
    """The file on the disk is the same after each test, to its last byte and bit."""
    before = digest(built()), built().stat()
    yield
    after = built().stat()
    assert digest(built()) == before[0]
    assert (after.st_mode, after.st_ino, after.st_mtime_ns) == (
        before[1].st_mode,
        before[1].st_ino,
        before[1].st_mtime_ns,
    )


def full_pipe() -> tuple[int, int]:
    """A pipe in which nothing more fits: who writes to it waits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


ATTACK = """
exec 9< /proc/{pid}/exe || exit 1
head -c 4 <&9 | od -c | head -n 1
(echo broken >> /proc/{pid}/exe) 2>&1
(echo broken > /proc/self/fd/9) 2>&1
chmod 0 /proc/self/fd/9 2>&1
"""


@pytest.mark.parametrize("command", ["/script", "/proc/self/exe"])
async def test_the_program_that_a_container_gets_hold_of(pod: PodUnderTest, command: str) -> None:
    script = pod.base / "root/script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    (pod.base / "root/bin/chmod").symlink_to("busybox")
    await pod.run("c1", "sleep 1000")
    reading, writing = full_pipe()
    plan = encode(
        make_plan(
            [
                ops.Clone(flags=0, cgroup=None),
                ops.JoinPidOf(container="c1"),
                ops.JoinMntOf(container="c1"),
                ops.Setsid(),
                ops.ChrootFd(),
                ops.Stdio(in_=None, out=None, err=None),
                ops.Exec(path=command, argv=(command,), envp=()),
            ]
        )
    )
    # It is the monitor's program, which says how it wants to be started, and waits in the middle of it.
    running = await pod.client.exec("held", "c1", plan, [], stderr=writing)
    os.close(writing)
    assert os.readlink(f"/proc/{running.pid}/exe").startswith("/memfd:orlop-monitor")
    own = next(
        line.split()[-1]
        for line in Path(f"/proc/{running.pid}/status").read_text().splitlines()
        if line.startswith("NSpid:")
    )
    leaked = os.open(f"/proc/{running.pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open(await pod.exec("attack", "c1", ATTACK.format(pid=own))) as output:
            said = output.read()
        await pod.exit_of("attack")
        assert "177   E   L   F" in said
        assert said.count("nonexistent") == 0
        assert said.count("Text file busy") + said.count("Operation not permitted") >= 2, said
        os.close(reading)
        await pod.exit_of("held")

        # Where the file is not busy any more: nothing runs it.
        await pod.end()
        assert fcntl.fcntl(leaked, fcntl.F_GET_SEALS) & 0xF == 0xF
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(PermissionError):
                fd = os.open(f"/proc/self/fd/{leaked}", flags)
                try:
                    os.write(fd, b"broken")
                finally:
                    os.close(fd)
        with pytest.raises(OSError):
            os.ftruncate(leaked, 0)
        assert os.stat(leaked).st_dev != built().stat().st_dev or os.stat(leaked).st_ino != built().stat().st_ino
        assert hashlib.sha256(Path(f"/proc/self/fd/{leaked}").read_bytes()).hexdigest() == digest(built())
    finally:
        os.close(leaked)


async def test_an_entrypoint_that_is_the_program_itself(pod: PodUnderTest) -> None:
    """As PID 1 of the container, with the arguments that the daemon would give: it finds no pod there, and ends."""
    script = pod.base / "root/script"
    script.write_text("#!/proc/self/exe --pod\n")
    script.chmod(0o755)
    await pod.run("c1", "", argv=("/script",))
    event = await pod.exit_of("c1")
    assert event.exit_code == 2
    assert logged(pod.log("c1"), "stderr").startswith(b"usage: orlop-monitor")


async def test_a_mode_that_was_taken_away_comes_back(pod: PodUnderTest, tmp_path: Path) -> None:
    leaked = os.open(f"/proc/{pod.pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):  # sealed, since kernel 6.3
        os.fchmod(leaked, 0o444)
    os.close(leaked)
    (tmp_path / "second").mkdir()
    client = await spawn_monitor("orlop-test", tmp_path / "second", program().path)
    await client.shutdown(force=True)
    client.close()


async def test_a_new_program_on_the_disk_leaves_pods_and_daemon_alone(pod: PodUnderTest, tmp_path: Path) -> None:
    """An upgrade, even one that writes over the file: what runs goes on, and the daemon goes on to start what it knows."""
    installed = tmp_path / "orlop-monitor"
    installed.write_bytes(built().read_bytes())
    copy = seal_monitor(installed)
    clients = []
    try:
        for name, change in (("before", b""), ("after", b"#!/bin/false\n"), ("removed", None)):
            if change is None:
                installed.unlink()
            elif change:
                installed.write_bytes(change)
            (tmp_path / name).mkdir()
            clients.append(await spawn_monitor("orlop-test", tmp_path / name, copy.path))
        assert (Path(f"/proc/{clients[0].pid}/comm")).read_text() == "orlop-monitor\n"
        copy.close()  # the daemon ends
        for client in clients:
            await client.hello()
    finally:
        copy.close()
        for client in clients:
            await client.shutdown(force=True)
            client.close()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Internal, match="monitor .*/none: cannot be copied: .*No such file"):
        seal_monitor(tmp_path / "none")


WITHOUT_MEMFD = """
import asyncio, errno, os, sys
from pathlib import Path
from orlop.monitor.program import seal_monitor
from orlop.monitor.spawn import spawn_monitor
Path("/proc/sys/vm/memfd_noexec").write_text("2")
copy = seal_monitor(Path(sys.argv[1]))
assert not copy.is_memfd
async def main():
    client = await spawn_monitor("orlop-test", Path(sys.argv[2]), copy.path)
    exe = f"/proc/{client.pid}/exe"
    assert os.readlink(exe) == "/orlop-monitor", os.readlink(exe)
    leaked = os.open(exe, os.O_RDONLY)
    await client.shutdown(force=True)
    client.close()
    for attack in (lambda: os.open(f"/proc/self/fd/{leaked}", os.O_WRONLY), lambda: os.fchmod(leaked, 0), lambda: os.fchown(leaked, 1, 1),
                   lambda: os.setxattr(leaked, "trusted.x", b"y")):
        try:
            attack()
        except OSError as error:
            assert error.errno == errno.EROFS, error
        else:
            raise AssertionError("it can be changed")
    print("held")
asyncio.run(main())
"""


def test_where_no_memfd_may_be_executed(tmp_path: Path) -> None:
    """vm.memfd_noexec belongs to a PID namespace: here to one of the test's own."""
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("the kernel cannot forbid it (before 6.3)")
    done = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--mount",
            "--mount-proc",
            sys.executable,
            "-c",
            WITHOUT_MEMFD,
            built(),
            tmp_path,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "held\n", done.stderr


def test_the_copy_is_closed_once() -> None:
    copy: MonitorProgram = seal_monitor(built())
    fd = int(copy.path.name)
    copy.close()
    copy.close()
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
