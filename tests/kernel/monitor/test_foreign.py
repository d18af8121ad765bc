"""Containers and execs that a program of another runtime makes (op foreign): a shell script stands for the program."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from orlop.kernel import mount
from orlop.monitor.client import MonitorError
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.codec import encode
from orlop.oci.ops import Fd, make_plan
from tests.kernel.monitor.harness import SOON_MS, Cgroups, PodUnderTest, logged

pytestmark = pytest.mark.kernel

SEND_TERMINAL = """
import array, os, pty, socket, sys
leader, follower = pty.openpty()
s = socket.socket(socket.AF_UNIX); s.connect("console.sock")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [leader]))])
if (pid := os.fork()) == 0:
    os.dup2(follower, 0); os.dup2(follower, 1); os.dup2(follower, 2)
    os.closerange(3, 100)
    os.execv("/bin/sh", ["sh", "-c", "echo on $(tty); read line; echo got $line; exit 4"])
open("pid", "w").write(str(pid))
"""


class Foreign:
    """Runs scripts of the host in the pod's monitor, in a directory where they leave the number of what they left."""

    def __init__(self, pod: PodUnderTest) -> None:
        self.pod = pod
        self.directory = pod.base / "bundle"
        (self.directory / "rootfs").mkdir(parents=True)

    def plan(
        self,
        argv: tuple[str, ...],
        *,
        foreign: bool,
        piped: bool = False,
        console: bool = False,
        tree: bool = False,
        gate: bool = False,
    ) -> bytes:
        null = Fd("null")
        steps: list[ops.Op] = [ops.Clone(flags=k.CLONE_NEWNS, cgroup=None)]
        if foreign:
            terminal = Fd("console") if console else None
            steps.append(ops.Foreign(directory=Fd("directory"), pid_file="pid", console=terminal))
        steps.append(ops.RootPropagation(flags=k.MS_SLAVE | k.MS_REC))
        if tree:
            steps.append(ops.Place(tree=Fd("tree"), path=str(self.directory / "rootfs")))
        quiet = None if piped else null
        steps.append(ops.Stdio(in_=null, out=quiet, err=quiet))
        if gate:
            steps.append(ops.Gate())
        steps.append(ops.Exec(path=argv[0], argv=argv, envp=("PATH=/usr/bin:/bin",)))
        return encode(make_plan(steps))

    def fds(
        self, stack: ExitStack, *, foreign: bool, console: socket.socket | None = None, tree: int = -1
    ) -> list[int]:
        """The plan's fds in the order of its ops."""

        def opened(path: object, flags: int) -> int:
            fd = os.open(str(path), flags | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return fd

        found = [opened(self.directory, os.O_RDONLY | os.O_DIRECTORY)] if foreign else []
        if console is not None:
            found.append(console.fileno())
        if tree >= 0:
            found.append(tree)
        return [*found, opened("/dev/null", os.O_RDWR)]

    async def create(
        self, name: str, script: str, *, cgroups: Cgroups | None = None, argv: tuple[str, ...] = ()
    ) -> int:
        plan = self.plan(argv or ("/bin/sh", "-c", f"cd {self.directory}; {script}"), foreign=True, piped=True)
        with ExitStack() as stack:
            log = os.open(self.pod.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            stack.callback(os.close, log)
            kill = -1
            if cgroups:
                kill = os.open(cgroups.freezer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, kill)
            created = await self.pod.client.create(
                name, plan, self.fds(stack, foreign=True), log_fd=log, cgroup_fd=kill
            )
        os.close(created.pidfd)
        return created.pid

    async def run(self, name: str, container: str, script: str, **options: bool) -> None:
        plan = self.plan(("/bin/sh", "-c", script), foreign=False)
        with ExitStack() as stack:
            await self.pod.client.exec(name, container, plan, self.fds(stack, foreign=False), **options)  # type: ignore[arg-type]


@pytest.fixture
def foreign(pod: PodUnderTest) -> Foreign:
    return Foreign(pod)


async def states(pod: PodUnderTest) -> dict[str, str]:
    await pod.client.hello()
    return {each.id: each.state for each in pod.client.containers}


async def nothing_left(pod: PodUnderTest) -> None:
    """The answer to a failed launch may come before its process is reaped."""
    async with asyncio.timeout(10):
        while await states(pod):
            await asyncio.sleep(0.002)


LEAVE = "(until [ -e go ]; do sleep 0.01; done; echo out; echo err >&2; exit 7) & echo $! > pid"


async def test_what_a_program_left_is_a_container(pod: PodUnderTest, foreign: Foreign) -> None:
    pid = await foreign.create("c1", LEAVE)
    assert int((foreign.directory / "pid").read_text()) == pid
    assert await states(pod) == {"c1": "created"}
    await foreign.run("s1", "c1", f"touch {foreign.directory}/go", starts=True)
    assert (await pod.exit_of("s1")).exit_code == 0
    event = await pod.exit_of("c1")
    assert (event.pid, event.exit_code, event.is_exec) == (pid, 7, False)
    assert logged(pod.log("c1"), "stdout") == b"out\n"
    assert logged(pod.log("c1"), "stderr") == b"err\n"
    record = pod.record("c1")
    assert record is not None and record.exit_code == 7


async def test_it_runs_once_its_start_has_ended_well(pod: PodUnderTest, foreign: Foreign) -> None:
    await foreign.create("c1", "sleep 1000 & echo $! > pid")
    await foreign.run("s1", "c1", "exit 3", starts=True)
    assert (await pod.exit_of("s1")).exit_code == 3
    assert await states(pod) == {"c1": "created"}
    with pytest.raises(MonitorError) as caught:
        await pod.client.start("c1")
    assert caught.value.errno == errno.ESRCH
    await foreign.run("s2", "c1", "exec sleep 0.2", starts=True)
    assert (await states(pod))["c1"] == "starting"
    with pytest.raises(MonitorError, match="waits for its start"):
        await foreign.run("s3", "c1", "exit 0", starts=True)
    await pod.exit_of("s2")
    assert await states(pod) == {"c1": "running"}
    await pod.client.kill("c1", signal.SIGTERM)
    assert (await pod.exit_of("c1")).signal == signal.SIGTERM


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 5", "program: exit code 5"),
        ("kill -9 $$", "program: ended by signal 9"),
        ("true", "left no number"),
        ("echo 12x > pid", "left no number"),
        ("echo 1 > pid", "left no number"),
        ("echo $PPID > pid", "not our child"),
        ("(exit 3) & echo $! > pid; wait", "not our child"),
    ],
)
async def test_a_program_that_fails_leaves_nothing(pod: PodUnderTest, foreign: Foreign, script: str, said: str) -> None:
    with pytest.raises(MonitorError, match=said) as caught:
        await foreign.create("c1", script)
    assert caught.value.op == "program"
    await nothing_left(pod)
    assert pod.record("c1") is None


async def test_a_program_that_cannot_be_executed(pod: PodUnderTest, foreign: Foreign) -> None:
    with pytest.raises(MonitorError, match='exec: "/nope": no such file'):
        await foreign.create("c1", "", argv=("/nope",))
    await nothing_left(pod)


async def test_removal_kills_what_was_created_and_the_program_before(
    pod: PodUnderTest, foreign: Foreign, cgroups: Callable[..., Cgroups]
) -> None:
    pid = await foreign.create("c1", "sleep 1000 & echo $! > pid")
    await pod.client.remove("c1")
    assert not Path(f"/proc/{pid}").exists()
    own = cgroups()
    join = f"echo 0 > {own.freezer}/tasks"
    creating = asyncio.ensure_future(foreign.create("c2", f"{join}; sleep 1000 & touch begun; wait", cgroups=own))
    await pod.wait_for((foreign.directory / "begun").exists)
    await pod.client.remove("c2")
    with pytest.raises(MonitorError, match="removed by another request"):
        await creating
    await pod.wait_for(lambda: own.pids() == [])
    await nothing_left(pod)


async def test_an_exec_that_ended_before_its_program_keeps_its_code(pod: PodUnderTest, foreign: Foreign) -> None:
    await foreign.create("c1", "sleep 1000 & echo $! > pid")
    await foreign.run("s1", "c1", "true", starts=True)
    await pod.exit_of("s1")
    for number in range(20):
        # The left process is orphaned and reaped while the program still runs: its code must not be lost with it.
        script = f"cd {foreign.directory}; (sh -c 'until [ -e gone ]; do :; done; exit {number}' & echo $! > pid); touch gone; sleep 0.02; rm gone"
        plan = foreign.plan(("/bin/sh", "-c", script), foreign=True)
        with ExitStack() as stack:
            await pod.client.exec(f"e{number}", "c1", plan, foreign.fds(stack, foreign=True))
        event = await pod.exit_of(f"e{number}")
        assert (event.exit_code, event.is_exec) == (number, True)


async def test_an_exec_whose_program_hangs_is_ended_at_its_timeout(
    pod: PodUnderTest, foreign: Foreign, cgroups: Callable[..., Cgroups]
) -> None:
    await foreign.create("c1", "sleep 1000 & echo $! > pid")
    await foreign.run("s1", "c1", "true", starts=True)
    await pod.exit_of("s1")
    plan = foreign.plan(("/usr/bin/sleep", "1000"), foreign=True)
    with ExitStack() as stack, pytest.raises(MonitorError, match="ended by signal 9") as caught:
        await pod.client.exec("e1", "c1", plan, foreign.fds(stack, foreign=True), timeout_ms=SOON_MS)
    assert caught.value.errno == errno.ETIMEDOUT
    assert await states(pod) == {"c1": "running"}


async def test_a_program_beside_the_containers_needs_none(pod: PodUnderTest, foreign: Foreign) -> None:
    await foreign.run("h1", "", "exit 6")
    event = await pod.exit_of("h1")
    assert (event.exit_code, event.is_exec) == (6, True)
    with pytest.raises(MonitorError, match="waits for its start"):
        await foreign.run("h2", "", "exit 0", starts=True)
    await pod.run("native", "sleep 1000")
    with pytest.raises(MonitorError, match="waits for its start"):
        await foreign.run("h3", "native", "exit 0", starts=True)


async def test_a_terminal_comes_through_the_console_socket(pod: PodUnderTest, foreign: Foreign) -> None:
    listener = socket.socket(socket.AF_UNIX)
    with listener, ExitStack() as stack:
        listener.bind(str(foreign.directory / "console.sock"))
        listener.listen(1)
        argv = ("/usr/bin/python3", "-c", f"import os; os.chdir({str(foreign.directory)!r})\n{SEND_TERMINAL}")
        plan = foreign.plan(argv, foreign=True, console=True)
        log = os.open(pod.log("c1"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        stack.callback(os.close, log)
        created = await pod.client.create(
            "c1", plan, foreign.fds(stack, foreign=True, console=listener), tty=True, stdin=True, log_fd=log
        )
        os.close(created.pidfd)
    await foreign.run("s1", "c1", "true", starts=True)
    client = await pod.client.attach("c1", stdin=True)
    await asyncio.get_running_loop().sock_sendall(client, b"word\n")
    assert (await pod.exit_of("c1")).exit_code == 4
    client.close()
    text = logged(pod.log("c1"))
    assert b"on /dev/pts/" in text and b"got word" in text


async def test_a_program_that_hands_over_no_terminal_fails(pod: PodUnderTest, foreign: Foreign) -> None:
    listener = socket.socket(socket.AF_UNIX)
    with listener, ExitStack() as stack:
        listener.bind(str(foreign.directory / "console.sock"))
        listener.listen(1)
        script = f"cd {foreign.directory}; sleep 1000 & echo $! > pid"
        plan = foreign.plan(("/bin/sh", "-c", script), foreign=True, console=True)
        with pytest.raises(MonitorError, match="no terminal"):
            await pod.client.create("c1", plan, foreign.fds(stack, foreign=True, console=listener), tty=True)
    await nothing_left(pod)


async def test_mounts_are_placed_for_the_program_alone(pod: PodUnderTest, foreign: Foreign) -> None:
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    mount.fsconfig_create(context)
    tree = mount.fsmount(context, mount.FSMOUNT_CLOEXEC, 0)
    os.close(context)
    target = foreign.directory / "rootfs"
    script = f"cd {foreign.directory}; grep -c ' {target} ' /proc/self/mountinfo; touch rootfs/inside; sleep 1000 & echo $! > pid"
    plan = foreign.plan(("/bin/sh", "-c", script), foreign=True, piped=True, tree=True)
    with ExitStack() as stack:
        log = os.open(pod.log("c1"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        stack.callback(os.close, log)
        created = await pod.client.create("c1", plan, foreign.fds(stack, foreign=True, tree=tree), log_fd=log)
        os.close(created.pidfd)
    os.close(tree)
    await pod.client.remove("c1")
    assert logged(pod.log("c1")) == b"1\n"
    assert list(target.iterdir()) == []
    assert str(target) not in Path("/proc/self/mountinfo").read_text()


async def test_a_program_of_an_exec_waits_at_its_gate(pod: PodUnderTest, foreign: Foreign) -> None:
    await foreign.create("c1", "sleep 1000 & echo $! > pid")
    await foreign.run("s1", "c1", "true", starts=True)
    await pod.exit_of("s1")

    async def opened() -> None:
        assert not (foreign.directory / "ran").exists()
        (foreign.directory / "word").touch()

    async def run(name: str, script: str) -> None:
        plan = foreign.plan(("/bin/sh", "-c", f"cd {foreign.directory}; touch ran; {script}"), foreign=True, gate=True)
        with ExitStack() as stack:
            await pod.client.exec(name, "c1", plan, foreign.fds(stack, foreign=True), gate=opened)

    await run("e1", "[ -e word ] || exit 1; (until [ -e gone ]; do :; done; exit 6) & echo $! > pid")
    (foreign.directory / "gone").touch()
    assert (await pod.exit_of("e1")).exit_code == 6
    (foreign.directory / "ran").unlink()
    with pytest.raises(MonitorError, match="program: exit code 3"):
        await run("e2", "exit 3")
    assert not any(event.id == "e2" for event in pod.events)
    assert await states(pod) == {"c1": "running"}


async def test_a_program_gets_a_null_device_of_its_own(pod: PodUnderTest, foreign: Foreign) -> None:
    """It may give it to its container's user, as crun does: the host's own /dev/null must keep its owner."""
    script = f"cd {foreign.directory}; stat -L -c '%t:%T %d:%i' /proc/self/fd/0 > said; echo gone"
    steps = [
        ops.Clone(flags=k.CLONE_NEWNS, cgroup=None),
        ops.RootPropagation(flags=k.MS_SLAVE | k.MS_REC),
        ops.Stdio(in_=None, out=None, err=None),
        ops.Exec(path="/bin/sh", argv=("/bin/sh", "-c", script), envp=("PATH=/usr/bin:/bin",)),
    ]
    await pod.client.exec("h1", "", encode(make_plan(steps)), [])
    assert (await pod.exit_of("h1")).exit_code == 0
    device, place = (foreign.directory / "said").read_text().split()
    host = os.stat("/dev/null")
    assert device == "1:3"
    assert place != f"{host.st_dev}:{host.st_ino}"
