"""A connection to one pod's monitor: requests, replies, unasked events. Owns the socket; keeps no state of containers.

All methods raise MonitorError for an error reply, Unavailable when the monitor is gone or silent for limits.MONITOR_REPLY_SECONDS.
fds that are passed in stay the caller's; fds that come back are the caller's. Test: tests/kernel/monitor/.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orlop.base import limits
from orlop.base.errors import Internal, Unavailable
from orlop.monitor.protocol import VERSION, Fds, Packet, decode, encode

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
CREATE_TTY, CREATE_STDIN, CREATE_STDIN_ONCE, CREATE_V2, CREATE_KILL_BY_CGROUP = 1, 2, 4, 8, 16
EXEC_TTY, EXEC_KILL_ON_DISCONNECT, EXEC_V2 = 1, 2, 8
ATTACH_STDIN, ATTACH_STDOUT, ATTACH_STDERR = 1, 2, 4


class MonitorError(Internal):
    """An error reply: the step of the plan (or the request) that failed, its errno, and what it was about."""

    def __init__(self, subject: str, op: str, op_index: int, errno: int, detail: str) -> None:
        self.op, self.op_index, self.errno, self.detail = op, op_index, errno, detail
        about = f"{detail}: " if detail else ""
        super().__init__(f"{subject}: {op}: {about}{os.strerror(errno).lower()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveContainer:
    """One line of the monitor's table of containers and execs."""

    id: str
    is_exec: bool
    state: str
    """creating, created, starting, running or exited."""
    pid: int
    start_time: int
    exit_code: int
    signal: int
    oom_kills: int
    finished_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNamespaces:
    """fds of the pod's own namespaces, -1 where it uses the host's; a netlink socket made inside its network namespace."""

    netns_fd: int
    netlink: socket.socket | None
    ipc_fd: int
    uts_fd: int
    pid_fd: int
    init_pid: int

    def close_unused(self) -> None:
        """Close the fds that the daemon has no use for."""
        for fd in (self.ipc_fd, self.uts_fd, self.pid_fd):
            if fd >= 0:
                os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    pid: int
    start_time: int
    pidfd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStarted:
    pid: int
    start_time: int
    master_fd: int
    """The terminal's master, -1 without a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    id: str
    pid: int
    exit_code: int
    signal: int
    oom_killed: bool
    finished_ns: int
    is_exec: bool
    timed_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Oom:
    id: str
    count: int


def plan_memfd(plan: bytes) -> int:
    """Return a sealed memfd with a plan, so that what the monitor validates is what it runs."""
    fd = os.memfd_create("orlop-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(plan)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class MonitorClient:
    """Requests may overlap; each reply finds its request by number."""

    def __init__(self, sandbox_id: str, sock: socket.socket, *, pid: int = 0, start_time: int = 0) -> None:
        self.subject = f"sandbox {sandbox_id[:12]}"
        self.pid = pid
        self.start_time = start_time
        self.containers: tuple[LiveContainer, ...] = ()
        """As the last hello told."""
        self.on_event: Callable[[Exited | Oom], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._socket = sock
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[Packet]] = {}
        self._loop = asyncio.get_running_loop()
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    # requests

    async def hello(self) -> None:
        """Learn the monitor's pid and its table of containers."""
        _, pid, start_time, lines = (await self._ask("hello", VERSION)).fields
        assert isinstance(pid, int)
        assert isinstance(start_time, int)
        assert isinstance(lines, tuple)
        self.pid, self.start_time = pid, start_time
        self.containers = tuple(_live(line) for line in lines)

    async def pod(self, plan: bytes) -> PodNamespaces:
        """Make the pod's namespaces; once."""
        fd = plan_memfd(plan)
        try:
            return _namespaces(await self._ask("pod", fd))
        finally:
            os.close(fd)

    async def namespaces(self) -> PodNamespaces:
        """The same again, for a daemon that was started anew."""
        return _namespaces(await self._ask("namespaces", 0))

    async def create(
        self,
        container_id: str,
        plan: bytes,
        plan_fds: Sequence[int],
        *,
        tty: bool = False,
        stdin: bool = False,
        stdin_once: bool = False,
        log_fd: int = -1,
        cgroup_fd: int = -1,
        oom_fd: int = -1,
        v2: bool = False,
        kill_by_cgroup: bool = False,
        log_line_max: int = 0,
    ) -> Created:
        """Park a container's init at its gate."""
        flags = (
            (CREATE_TTY if tty else 0)
            | (CREATE_STDIN if stdin else 0)
            | (CREATE_STDIN_ONCE if stdin_once else 0)
            | (CREATE_V2 if v2 else 0)
            | (CREATE_KILL_BY_CGROUP if kill_by_cgroup else 0)
        )
        fd = plan_memfd(plan)
        try:
            packet = await self._ask(
                "create", container_id, fd, Fds(tuple(plan_fds)), flags, log_fd, cgroup_fd, oom_fd, log_line_max
            )
        finally:
            os.close(fd)
        pid, start_time, pidfd = _ints(packet)
        return Created(pid=pid, start_time=start_time, pidfd=pidfd)

    async def start(self, container_id: str) -> int:
        """Open the gate; return when the exec succeeded, in nanoseconds since the epoch."""
        return _ints(await self._ask("start", container_id))[0]

    async def kill(self, container_id: str, signal: int, *, all: bool = False) -> None:
        await self._ask("kill", container_id, signal, int(all))

    async def remove(self, container_id: str) -> None:
        """Forget a container that has ended or stands at its gate (it is killed then)."""
        await self._ask("remove", container_id)

    async def exec(
        self,
        exec_id: str,
        container_id: str,
        plan: bytes,
        plan_fds: Sequence[int],
        *,
        stdin: int = -1,
        stdout: int = -1,
        stderr: int = -1,
        tty: bool = False,
        cgroup_fd: int = -1,
        v2: bool = False,
        timeout_ms: int = 0,
        kill_on_disconnect: bool = False,
    ) -> ExecStarted:
        """Run a process in a container; its end comes as an Exited event with its exec id."""
        flags = (
            (EXEC_TTY if tty else 0) | (EXEC_KILL_ON_DISCONNECT if kill_on_disconnect else 0) | (EXEC_V2 if v2 else 0)
        )
        fd = plan_memfd(plan)
        try:
            packet = await self._ask(
                "exec",
                exec_id,
                container_id,
                fd,
                Fds(tuple(plan_fds)),
                flags,
                cgroup_fd,
                timeout_ms,
                stdout,
                stderr,
                stdin,
            )
        finally:
            os.close(fd)
        pid, start_time, master = _ints(packet)
        return ExecStarted(pid=pid, start_time=start_time, master_fd=master)

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        await self._ask("resize", container_id, rows, columns)

    async def reopen_log(self, container_id: str, log_fd: int) -> None:
        await self._ask("reopen_log", container_id, log_fd)

    async def attach(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool) -> socket.socket:
        """Return a SEQPACKET socket: from it one byte stream (1, 2) and data, into it raw stdin."""
        flags = (ATTACH_STDIN if stdin else 0) | (ATTACH_STDOUT if stdout else 0) | (ATTACH_STDERR if stderr else 0)
        return socket.socket(fileno=_ints(await self._ask("attach", container_id, flags))[0])

    async def close_stdin(self, container_id: str) -> None:
        await self._ask("close_stdin", container_id)

    async def connect(self, port: int, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket that is connecting to a port of localhost inside the pod."""
        return socket.socket(fileno=_ints(await self._ask("connect", port, int(family)))[0])

    async def keep_fd(self, name: str, fd: int) -> None:
        await self._ask("keep_fd", name, fd)

    async def kept_fd(self, name: str) -> int:
        return _ints(await self._ask("kept_fd", name))[0]

    async def shutdown(self, *, force: bool) -> None:
        """End the monitor; with force all containers are killed first."""
        await self._ask("shutdown", int(force))

    # transport

    async def _ask(self, name: str, *fields: object) -> Packet:
        if self._closed:
            raise Unavailable(f"{self.subject}: its monitor is gone")
        self._seq += 1
        seq = self._seq
        data, fds = encode(name, seq, fields)
        future: asyncio.Future[Packet] = self._loop.create_future()
        self._waiting[seq] = future
        try:
            try:
                socket.send_fds(self._socket, [data], fds)
            except BlockingIOError:
                await self._writable()
                socket.send_fds(self._socket, [data], fds)
            async with asyncio.timeout(limits.MONITOR_REPLY_SECONDS):
                packet = await future
        except TimeoutError:
            raise Unavailable(
                f"{self.subject}: monitor did not answer {name} in {limits.MONITOR_REPLY_SECONDS:g}s"
            ) from None
        except (BrokenPipeError, ConnectionResetError):
            self._lose()
            raise Unavailable(f"{self.subject}: its monitor is gone") from None
        finally:
            self._waiting.pop(seq, None)
        if packet.name == "error":
            errno, op, index, detail = packet.fields
            assert isinstance(errno, int)
            assert isinstance(index, int)
            raise MonitorError(self.subject, str(op), index, errno, str(detail))
        return packet

    async def _writable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._socket.fileno(), ready.set)
        try:
            async with asyncio.timeout(limits.MONITOR_REPLY_SECONDS):
                await ready.wait()
        finally:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while not self._closed:
            try:
                data, fds, flags, _ = socket.recv_fds(self._socket, limits.MONITOR_MESSAGE_BYTES, limits.MONITOR_FDS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, fds, flags = b"", [], 0
            if not data:
                self._lose()
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Internal(f"{self.subject}: a packet of the monitor was cut")
            self._take(decode(data, fds), fds)

    def _take(self, packet: Packet, fds: Sequence[int]) -> None:
        if packet.seq:
            future = self._waiting.get(packet.seq)
            if future is not None and not future.done():
                future.set_result(packet)
            else:  # nobody waits any more: what came with it must not leak
                for fd in fds:
                    os.close(fd)
        elif self.on_event is not None:
            if packet.name == "exited":
                self.on_event(_exited(packet))
            elif packet.name == "oom":
                container_id, count = packet.fields
                assert isinstance(count, int)
                self.on_event(Oom(id=str(container_id), count=count))

    def _lose(self) -> None:
        if self._closed:
            return
        self.close()
        if self.on_lost is not None:
            self.on_lost()

    def close(self) -> None:
        """Close the connection; the monitor goes on. Whoever waits for a reply gets Unavailable."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"{self.subject}: its monitor is gone"))


def _ints(packet: Packet) -> tuple[int, ...]:
    values = packet.fields
    assert all(isinstance(value, int) for value in values)
    return values  # type: ignore[return-value]


def _namespaces(packet: Packet) -> PodNamespaces:
    net, netlink, ipc, uts, pid, init = _ints(packet)
    return PodNamespaces(
        netns_fd=net,
        netlink=None if netlink < 0 else socket.socket(fileno=netlink),
        ipc_fd=ipc,
        uts_fd=uts,
        pid_fd=pid,
        init_pid=init,
    )


def _live(line: object) -> LiveContainer:
    fields = str(line).split(" ")
    name = fields[0]
    pid, start_time, exit_code, signal, oom_kills, finished_ns = (int(each) for each in fields[2:])
    return LiveContainer(
        id=name.removeprefix("exec:"),
        is_exec=name.startswith("exec:"),
        state=fields[1],
        pid=pid,
        start_time=start_time,
        exit_code=exit_code,
        signal=signal,
        oom_kills=oom_kills,
        finished_ns=finished_ns,
    )


def _exited(packet: Packet) -> Exited:
    name, pid, code, signal, oom_killed, finished_ns, is_exec, timed_out = packet.fields
    assert isinstance(pid, int)
    assert isinstance(code, int)
    assert isinstance(signal, int)
    assert isinstance(finished_ns, int)
    return Exited(
        id=str(name),
        pid=pid,
        exit_code=code,
        signal=signal,
        oom_killed=bool(oom_killed),
        finished_ns=finished_ns,
        is_exec=bool(is_exec),
        timed_out=bool(timed_out),
    )
