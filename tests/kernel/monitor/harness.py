"""A pod with its real monitor: containers of busybox in a directory, on the real kernel, driven by the Python client.

ORLOP_NATIVE=asan runs the build with ASan and UBSan. Whatever a test makes is below its own directory or named orlop-test-*.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from orlop.monitor.client import Created, Event, Exited, MonitorClient, Oom
from orlop.monitor.exit_record import ExitRecord, load_exit_record
from orlop.monitor.program import MonitorProgram, seal_monitor
from orlop.monitor.spawn import connect_monitor, spawn_monitor
from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.codec import encode
from orlop.oci.ops import Fd, Op, make_plan
from tests.kernel.executor.harness import DEV, NEW, NODES, PROC, ROOT, VARIANT, container, no_report
from tests.kernel.monitor.guard import watch_over

SANITIZER = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
SECONDS = 20.0 if VARIANT == "release" else 60.0
SOON_MS = 200 if VARIANT == "release" else 1500
"""A timeout that must come after the exec has begun, on a busy machine too."""


@cache
def program() -> MonitorProgram:
    """The sealed copy that a daemon would start; it lives as long as this process."""
    return seal_monitor(built())


def binary() -> Path:
    """What tests start: the sealed copy; of a sanitizer's build the file itself, which reports can name lines of."""
    return built() if VARIANT == "asan" else program().path


@cache
def built() -> Path:
    target = f"../build/native/{VARIANT}/orlop-monitor"
    subprocess.run(["make", "-s", "-C", ROOT / "native", f"VARIANT={VARIANT}", target], check=True)
    return (ROOT / "native" / target).resolve()


@dataclass(frozen=True, slots=True)
class LogLine:
    stamp: str
    stream: str
    tag: str
    text: bytes


def read_log(path: Path) -> list[LogLine]:
    """Parse a CRI log; every line must have the exact form."""
    lines = []
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    for raw in data.split(b"\n")[:-1]:
        stamp, stream, tag, text = raw.split(b" ", 3)
        lines.append(LogLine(stamp.decode(), stream.decode(), tag.decode(), text))
    return lines


def logged(path: Path, stream: str | None = None) -> bytes:
    """What a reader of the log puts together: text of F lines ends in a newline, that of P lines goes on."""
    return b"".join(
        line.text + (b"\n" if line.tag == "F" else b"") for line in read_log(path) if stream in (None, line.stream)
    )


@dataclass(kw_only=True)
class PodUnderTest:
    base: Path
    events: list[Event] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[MonitorClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("pod", "root/bin", "root/proc", "root/sys", "root/dev", "root/tmp"):
            (self.base / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.base / "root/bin/busybox")
        (self.base / "root/bin/sh").symlink_to("busybox")
        (self.base / "root/bin/cat").symlink_to("busybox")
        for name in (
            "sleep",
            "seq",
            "dd",
            "head",
            "echo",
            "kill",
            "true",
            "yes",
            "od",
            "tail",
            "nc",
            "stty",
            "ps",
            "id",
        ):
            (self.base / "root/bin" / name).symlink_to("busybox")

    @property
    def directory(self) -> Path:
        return self.base / "pod"

    @property
    def client(self) -> MonitorClient:
        return self.clients[-1]

    @property
    def pid(self) -> int:
        return self.client.pid

    def _listen(self, client: MonitorClient) -> MonitorClient:
        self.clients.append(client)
        watch_over(client.pid, client.start_time)
        client.on_event = self._event
        client.on_lost = self.lost.set
        return client

    def _event(self, event: Event) -> None:
        self.events.append(event)

    async def spawn(self) -> MonitorClient:
        if VARIANT == "release":
            client = await spawn_monitor("orlop-test", self.directory, binary())
        else:
            client = await spawn_monitor(
                "orlop-test", self.directory, binary(), environment=SANITIZER, stderr=str(self.report)
            )
        return self._listen(client)

    @property
    def report(self) -> Path:
        """What the monitor, and its children before their exec, have to say: a sanitizer's report."""
        return self.base / "stderr"

    async def reconnect(self) -> MonitorClient:
        self.lost.clear()
        return self._listen(await connect_monitor("orlop-test", self.directory))

    async def pod(self, *more: Op) -> None:
        plan = make_plan(
            more or (ops.PodUnshare(flags=k.CLONE_NEWNET | k.CLONE_NEWIPC | k.CLONE_NEWUTS), ops.PodLoopbackUp())
        )
        namespaces = await self.client.pod(encode(plan))
        if namespaces.netlink is not None:
            namespaces.netlink.close()
            os.close(namespaces.netns_fd)

    def plan(
        self,
        script: str,
        *,
        flags: int = NEW,
        tasks: Sequence[Fd] = (),
        spawn: Sequence[Op] = (),
        terminal: bool = False,
        argv: tuple[str, ...] = (),
    ) -> bytes:
        mounts = [PROC, *DEV, *NODES]
        if terminal:
            mounts.append(ops.Terminal(rows=24, cols=80))
        joins = [ops.CgroupJoin(tasks=label) for label in tasks]
        return encode(
            make_plan(
                container(
                    argv=argv or ("/bin/sh", "-c", script),
                    path=argv[0] if argv else "/bin/sh",
                    flags=flags,
                    spawn=spawn,
                    join=(*joins, ops.Setsid()),
                    rootfs=ops.Rootfs(tree=None, source=str(self.base / "root"), flags=0),
                    mounts=mounts,
                )
            )
        )

    def exec_plan(self, container_id: str, script: str, *, tasks: Sequence[Fd] = (), into: Fd | None = None) -> bytes:
        return encode(
            make_plan(
                [
                    ops.Clone(flags=0, cgroup=into),
                    ops.JoinPidOf(container=container_id),
                    ops.JoinMntOf(container=container_id),
                    *(ops.CgroupJoin(tasks=label) for label in tasks),
                    ops.Setsid(),
                    ops.ChrootFd(),
                    ops.Stdio(in_=None, out=None, err=None),
                    ops.Exec(path="/bin/sh", argv=("/bin/sh", "-c", script), envp=("PATH=/bin",)),
                ]
            )
        )

    def log(self, container_id: str) -> Path:
        return self.base / f"{container_id}.log"

    async def create(
        self,
        container_id: str,
        script: str,
        *,
        cgroups: Cgroups | None = None,
        tty: bool = False,
        stdin: bool = False,
        stdin_once: bool = False,
        shared: bool = False,
        log: bool = True,
        log_line_max: int = 0,
        log_rate: int = 0,
        flags: int | None = None,
        argv: tuple[str, ...] = (),
    ) -> Created:
        """Create a container whose log is ``log(id)``; ``shared``: in the pod's PID namespace, killed by its cgroup."""
        with ExitStack() as stack:

            def opened(path: Path, mode: int) -> int:
                fd = os.open(path, mode | os.O_CLOEXEC, 0o640)
                stack.callback(os.close, fd)
                return fd

            tasks = cgroups.tasks() if cgroups else {}
            plan = self.plan(
                script,
                flags=flags if flags is not None else (NEW & ~k.CLONE_NEWPID if shared else NEW),
                tasks=[Fd(name) for name in tasks],
                spawn=(ops.JoinPodInit(),) if shared else (),
                terminal=tty,
                argv=argv,
            )
            created = await self.client.create(
                container_id,
                plan,
                [opened(path, os.O_WRONLY) for path in tasks.values()],
                tty=tty,
                stdin=stdin,
                stdin_once=stdin_once,
                log_fd=opened(self.log(container_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else -1,
                cgroup_fd=opened(cgroups.freezer, os.O_RDONLY | os.O_DIRECTORY) if cgroups else -1,
                oom_fd=opened(cgroups.memory, os.O_RDONLY | os.O_DIRECTORY) if cgroups else -1,
                kill_by_cgroup=shared,
                log_line_max=log_line_max,
                log_rate=log_rate,
            )
        os.close(created.pidfd)
        watch_over(created.pid, created.start_time)
        return created

    async def run(self, container_id: str, script: str, **options: object) -> Created:
        created = await self.create(container_id, script, **options)  # type: ignore[arg-type]
        await self.client.start(container_id)
        return created

    async def exec(
        self, exec_id: str, container_id: str, script: str, *, cgroup: Cgroups | None = None, **options: object
    ) -> int:
        """Run a command; return the reading end of a pipe that is its stdout and stderr."""
        reading, writing = os.pipe()
        with ExitStack() as stack:
            stack.callback(os.close, writing)
            tasks = cgroup.tasks() if cgroup else {}
            fds = []
            for path in tasks.values():
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            kill = -1
            if cgroup:
                kill = os.open(cgroup.freezer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, kill)
            plan = self.exec_plan(container_id, script, tasks=[Fd(name) for name in tasks])
            await self.client.exec(
                exec_id,
                container_id,
                plan,
                fds,
                stdout=writing,
                stderr=writing,
                cgroup_fd=kill,
                **options,  # type: ignore[arg-type]
            )
        return reading

    async def exit_of(self, name: str) -> Exited:
        return await self.wait_for(
            lambda: next((e for e in self.events if isinstance(e, Exited) and e.id == name), None)
        )

    async def oom_of(self, name: str) -> Oom:
        return await self.wait_for(lambda: next((e for e in self.events if isinstance(e, Oom) and e.id == name), None))

    async def wait_for(self, condition):  # type: ignore[no-untyped-def]
        """Return the first true value of a condition, looked at whenever the loop has turned."""
        async with asyncio.timeout(SECONDS):
            while not (value := condition()):
                await asyncio.sleep(0.002)
        return value

    def record(self, container_id: str) -> ExitRecord | None:
        return load_exit_record(self.directory / f"{container_id}.exit")

    async def end(self) -> None:
        """Shut the monitor down by force; nothing of the pod may remain."""
        if not self.clients:
            return
        if self.client.lost is not None:
            self.look_for_reports()
        if self.client.lost is not None and (self.directory / "monitor.sock").exists():
            await self.reconnect()
        if self.client.lost is None:
            await self.client.shutdown(force=True)
            await asyncio.wait_for(self.lost.wait(), SECONDS)
        for client in self.clients:
            client.close()
        self.look_for_reports()

    def look_for_reports(self) -> None:
        """A sanitizer's build has said nothing: not the monitor until its end, not what it launched."""
        if self.report.exists():
            assert not self.report.read_text()
        for log in self.base.glob("*.log"):
            no_report(log.read_bytes(), log)


class Cgroups:
    """Own cgroups in the v1 freezer and memory hierarchies."""

    def __init__(self, parent: Cgroups | None = None) -> None:
        name = f"orlop-test-{uuid.uuid4().hex[:12]}"
        self.freezer = (parent.freezer if parent else Path("/sys/fs/cgroup/freezer")) / name
        self.memory = (parent.memory if parent else Path("/sys/fs/cgroup/memory")) / name
        self.freezer.mkdir()
        self.memory.mkdir()

    def tasks(self) -> dict[str, Path]:
        return {"freezer": self.freezer / "tasks", "memory": self.memory / "tasks"}

    def pids(self) -> list[int]:
        return [int(pid) for path in (self.freezer, self.memory) for pid in (path / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        for path in (self.freezer, self.memory):
            path.rmdir()


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))
