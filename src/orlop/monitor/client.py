"""One connection to one pod's monitor: requests as coroutines, events as callbacks, fds as return values.

Owns the socket and the requests under way. Never owns the pod: closing a client, or losing it, touches no container. An fd passed in
stays the caller's; an fd that comes back is the caller's from then on. Test: tests/kernel/monitor/.

    client = await spawn_monitor(sandbox_id, pod_dir, binary)          (spawn.py)
    namespaces = await client.pod(pod_plan)
    created = await client.create(container_id, plan, plan_fds, ...)   the process stands at its gate
    started_ns = await client.start(container_id)                      it has executed its command
    client.on_event(Exited(...))                                       its exit record is on disk already
    await client.remove(container_id); await client.shutdown()
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from orlop.base import limits
from orlop.base.errors import DeadlineExceeded, Internal, OrlopError, ResourceExhausted, Unavailable
from orlop.monitor import protocol
from orlop.monitor.protocol import Message

M = TypeVar("M", bound=Message)

NOT_AN_OP: Final = 0xFFFFFFFF
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_FDS_SPACE: Final = socket.CMSG_SPACE(limits.MONITOR_FDS * array.array("i").itemsize)
_PACKETS_A_TURN: Final = 64
"""Packets read before the event loop gets its turn again."""


class MonitorError(Internal):
    """The monitor refused or failed a request: ``op`` is an op of the plan or the request itself, ``detail`` says which object."""

    def __init__(self, subject: str, op: str, op_index: int, errno: int, detail: str) -> None:
        reason = os.strerror(errno).lower() if errno else "failed"
        super().__init__(": ".join(part for part in (subject, op, detail, reason) if part))
        self.op = op
        self.reason = ": ".join(part for part in (detail, reason) if part)
        """Which object, and why: the message without who was doing what."""
        self.op_index = None if op_index == NOT_AN_OP else op_index
        self.errno = errno
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveContainer:
    """One line of the monitor's table: a container's init, or an exec."""

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
    """fds of the pod's own namespaces, -1 where it uses the host's or they were not asked for; a NETLINK_ROUTE socket made inside its network
    namespace. The caller closes what it gets."""

    netns_fd: int
    netlink: socket.socket | None
    ipc_fd: int
    uts_fd: int
    pid_fd: int
    init_pid: int
    """PID 1 of a shared PID namespace, 0 when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A container's init at its gate."""

    pid: int
    start_time: int
    pidfd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStarted:
    """An exec that runs."""

    pid: int
    start_time: int
    master_fd: int
    """The terminal's master, -1 without a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A container's init or an exec has ended. A container's exit record is on disk already."""

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
    """The kernel has killed processes of a container for memory, ``count`` since it began."""

    id: str
    count: int


Event = Exited | Oom
OnEvent = Callable[[Event], None]
OnLost = Callable[[], None]


def plan_memfd(plan: bytes) -> int:
    """Return a sealed memfd with the plan's bytes; the caller closes it. Raises ResourceExhausted for a plan beyond PLAN_BYTES."""
    if len(plan) > limits.PLAN_BYTES:
        raise ResourceExhausted(f"plan: {len(plan)} bytes, limit {limits.PLAN_BYTES}")
    fd = os.memfd_create("orlop-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(plan)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _live(row: str) -> LiveContainer:
    name, state, *numbers = row.split(" ")
    pid, start_time, exit_code, signal, oom_kills, finished_ns = map(int, numbers)
    return LiveContainer(
        id=name.removeprefix("exec:"),
        is_exec=name.startswith("exec:"),
        state=state,
        pid=pid,
        start_time=start_time,
        exit_code=exit_code,
        signal=signal,
        oom_kills=oom_kills,
        finished_ns=finished_ns,
    )


def _some(fd: int) -> int | None:
    return None if fd < 0 else fd


def _number(fd: int | None) -> int:
    return -1 if fd is None else fd


class MonitorClient:
    """Requests may be made concurrently; each awaits its own reply. Events that come before ``on_event`` is set wait for it."""

    def __init__(self, sandbox_id: str, sock: socket.socket) -> None:
        self.subject = f"sandbox {sandbox_id[:12]}"
        self.pid = 0
        self.start_time = 0
        self.containers: tuple[LiveContainer, ...] = ()
        """As the last hello told."""
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._unsent: deque[tuple[int, bytes, list[int]]] = deque()
        self._events: deque[Event] = deque()
        self._on_event: OnEvent | None = None
        self._on_lost: OnLost | None = None
        self._lost: OrlopError | None = None
        self._closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    # ---- requests ----

    async def hello(self) -> None:
        """Learn the monitor's pid, start time and table of containers."""
        reply = await self._request(protocol.Hello(), protocol.HelloOk)
        if reply.protocol != protocol.VERSION:
            raise Internal(f"{self.subject}: monitor speaks protocol {reply.protocol}, this daemon {protocol.VERSION}")
        try:
            self.containers = tuple(_live(row) for row in reply.containers)
        except ValueError as error:
            raise Internal(f"{self.subject}: monitor's table does not parse: {error}") from error
        self.pid, self.start_time = reply.pid, reply.start_time

    async def pod(self, plan: bytes) -> PodNamespaces:
        """Run the pod plan in the monitor, once. Raises MonitorError with the op that failed."""
        fd = plan_memfd(plan)
        try:
            return self._pod_namespaces(await self._request(protocol.Pod(plan=fd), protocol.PodOk), every=False)
        finally:
            os.close(fd)

    async def namespaces(self, *, every: bool = False) -> PodNamespaces:
        """Return the pod's namespaces again, as fresh fds; ``every``: also those that only the monitor itself needs (ipc, uts, pid)."""
        return self._pod_namespaces(await self._request(protocol.Namespaces(), protocol.PodOk), every=every)

    @staticmethod
    def _pod_namespaces(reply: protocol.PodOk, *, every: bool) -> PodNamespaces:
        others = [_number(fd) for fd in (reply.ipcns, reply.utsns, reply.pidns)]
        if not every:
            _close_fds(fd for fd in others if fd >= 0)
            others = [-1, -1, -1]
        ipc, uts, pid = others
        return PodNamespaces(
            netns_fd=_number(reply.netns),
            netlink=None if reply.netlink is None else socket.socket(fileno=reply.netlink),
            ipc_fd=ipc,
            uts_fd=uts,
            pid_fd=pid,
            init_pid=reply.init_pid,
        )

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
        log_rate: int = 0,
    ) -> Created:
        """Launch a container up to its gate. Raises MonitorError with the op that failed; then nothing of it is left."""
        flags = (
            tty * protocol.CREATE_TTY
            | stdin * protocol.CREATE_STDIN
            | stdin_once * protocol.CREATE_STDIN_ONCE
            | v2 * protocol.CREATE_V2
            | kill_by_cgroup * protocol.CREATE_KILL_BY_CGROUP
        )
        fd = plan_memfd(plan)
        try:
            reply = await self._request(
                protocol.Create(
                    id=container_id,
                    plan=fd,
                    planfds=tuple(plan_fds),
                    flags=flags,
                    log=_some(log_fd),
                    cgroup=_some(cgroup_fd),
                    oom=_some(oom_fd),
                    log_line_max=log_line_max,
                    log_rate=log_rate,
                ),
                protocol.Created,
            )
        finally:
            os.close(fd)
        if reply.pidfd is None:
            raise Internal(f"{self.subject}: monitor created container {container_id} without a pidfd")
        return Created(pid=reply.pid, start_time=reply.start_time, pidfd=reply.pidfd)

    async def start(self, container_id: str) -> int:
        """Open the container's gate; return when it started (CLOCK_REALTIME, ns). Raises MonitorError when its command cannot be executed."""
        return (await self._request(protocol.Start(id=container_id), protocol.Started)).started_ns

    async def kill(self, container_id: str, signal: int, *, all: bool = False) -> None:
        """Send a signal to a container's init or to an exec; ``all``: to every process of it. MonitorError ESRCH when it has ended."""
        await self._request(protocol.Kill(id=container_id, signal=signal, all=int(all)), protocol.Ok)

    async def remove(self, container_id: str) -> None:
        """Forget a container that has exited, or that never started: then it is killed first."""
        await self._request(protocol.Remove(id=container_id), protocol.Ok)

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
        starts: bool = False,
        hold: bool = False,
        gate: Callable[[], Awaitable[None]] | None = None,
    ) -> ExecStarted:
        """Run a command in a running container at once, on the caller's pipes. Its end comes as an event with ``is_exec``.

        ``hold``: its outputs and terminal outlive this connection, until hang_up. ``gate``, for a plan that has one: awaited while the
        process stands there; if it raises, the process is the caller's to kill.
        An empty ``container_id``: a program beside the containers. ``starts``: the plan's program starts the container, which a plan with
        op foreign created; it runs once the program has ended with 0.
        """
        flags = (
            tty * protocol.EXEC_TTY
            | kill_on_disconnect * protocol.EXEC_KILL_ON_DISCONNECT
            | v2 * protocol.EXEC_V2
            | starts * protocol.EXEC_STARTS
            | hold * protocol.EXEC_HOLD
        )
        fd = plan_memfd(plan)
        try:
            request = protocol.Exec(
                id=exec_id,
                container=container_id,
                plan=fd,
                planfds=tuple(plan_fds),
                flags=flags,
                cgroup=_some(cgroup_fd),
                timeout_ms=timeout_ms,
                stdout_pipe=_some(stdout),
                stderr_pipe=_some(stderr),
                stdin_pipe=_some(stdin),
            )
            if gate is None:
                reply = await self._request(request, protocol.ExecOk)
            else:
                _close_fds(_fds_of(await self._request(request, protocol.Created)))
        finally:
            os.close(fd)
        if gate is not None:
            await gate()
            reply = await self._request(protocol.Start(id=exec_id), protocol.ExecOk)
        return ExecStarted(pid=reply.pid, start_time=reply.start_time, master_fd=_number(reply.master))

    async def hang_up(self, exec_id: str) -> None:
        """Let an exec's outputs and terminal go, which were held: it learns of it as of any broken pipe or lost terminal."""
        await self._request(protocol.HangUp(id=exec_id), protocol.Ok)

    async def last_words(self, exec_id: str, to: int, words: bytes) -> None:
        """Let the monitor write ``words`` to the socket ``to``, and end it, should this connection end before the exec does."""
        fd = plan_memfd(words)
        try:
            await self._request(protocol.LastWords(id=exec_id, to=to, words=fd), protocol.Ok)
        finally:
            os.close(fd)

    async def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Set the size of the terminal of a container or an exec."""
        await self._request(protocol.Resize(id=container_id, rows=rows, cols=columns), protocol.Ok)

    async def reopen_log(self, container_id: str, log_fd: int) -> None:
        """Write later log lines to this file; -1 discards them."""
        await self._request(protocol.ReopenLog(id=container_id, log=_some(log_fd)), protocol.Ok)

    async def attach(
        self, container_id: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> socket.socket:
        """Return a SEQPACKET socket: packets of one stream byte (1 stdout, 2 stderr) and data come, stdin goes as raw packets.

        A reader that falls too far behind is disconnected; the container never waits for it.
        """
        flags = stdin * protocol.ATTACH_STDIN | stdout * protocol.ATTACH_STDOUT | stderr * protocol.ATTACH_STDERR
        reply = await self._request(protocol.Attach(id=container_id, flags=flags), protocol.Fd)
        return self._socket(reply)

    async def close_stdin(self, container_id: str) -> None:
        """Close the container's stdin: it reads an end of file."""
        await self._request(protocol.CloseStdin(id=container_id), protocol.Ok)

    async def connect(self, port: int, family: int = socket.AF_INET) -> socket.socket:
        """Return a TCP connection to localhost:port inside the pod's network namespace. Raises Unavailable when nobody accepts it."""
        sock = self._socket(await self._request(protocol.Connect(port=port, family=family), protocol.Fd))
        try:
            code = await self._connect_outcome(sock)
        except BaseException:
            sock.close()
            raise
        if code:
            sock.close()
            raise Unavailable(f"{self.subject}: cannot connect to port {port}: {os.strerror(code).lower()}")
        return sock

    async def _connect_outcome(self, sock: socket.socket) -> int:
        writable: asyncio.Future[None] = self._loop.create_future()

        def ready() -> None:
            if not writable.done():
                writable.set_result(None)

        self._loop.add_writer(sock.fileno(), ready)
        try:
            await writable
        finally:
            self._loop.remove_writer(sock.fileno())
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _socket(self, reply: protocol.Fd) -> socket.socket:
        if reply.fd is None:
            raise Internal(f"{self.subject}: monitor's reply has no fd")
        sock = socket.socket(fileno=reply.fd)
        sock.setblocking(False)
        return sock

    async def shutdown(self, *, force: bool = False) -> None:
        """End the monitor. Without ``force`` MonitorError EBUSY while a container lives; with it all are killed first.

        The monitor is gone when ``on_lost`` is called.
        """
        await self._request(protocol.Shutdown(force=int(force)), protocol.Ok)

    async def keep_fd(self, name: str, fd: int) -> None:
        """Let the monitor hold an fd under a name for as long as the pod lives."""
        await self._request(protocol.KeepFd(name=name, fd=fd), protocol.Ok)

    async def kept_fd(self, name: str) -> int:
        """Return a new fd for what is kept under the name. MonitorError ENOENT when nothing is."""
        reply = await self._request(protocol.KeptFd(name=name), protocol.Fd)
        if reply.fd is None:
            raise Internal(f"{self.subject}: monitor's reply has no fd")
        return reply.fd

    # ---- events ----

    @property
    def on_event(self) -> OnEvent | None:
        """Called with each Exited and Oom, in order, from the event loop."""
        return self._on_event

    @on_event.setter
    def on_event(self, callback: OnEvent | None) -> None:
        self._on_event = callback
        while self._events and self._on_event is not None:
            self._on_event(self._events.popleft())

    @property
    def on_lost(self) -> OnLost | None:
        """Called once when the connection has ended without ``close``: the monitor died, or has shut down as asked."""
        return self._on_lost

    @on_lost.setter
    def on_lost(self, callback: OnLost | None) -> None:
        self._on_lost = callback
        if callback is not None and self._lost is not None and not self._closed:
            callback()

    @property
    def lost(self) -> OrlopError | None:
        """Why requests can no longer be made; None while they can."""
        return self._lost

    def close(self) -> None:
        """End the connection, not the monitor. Requests under way raise Unavailable; ``on_lost`` is not called."""
        self._closed = True
        self._on_lost = None
        self._lose(Unavailable(f"{self.subject}: connection to the monitor is closed"))

    # ---- the socket ----

    async def _request(self, message: Message, expected: type[M]) -> M:
        if self._lost is not None:
            raise self._lost
        self._seq = seq = self._seq % 0xFFFFFFFF + 1
        packet, fds = protocol.encode(message, seq)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[seq] = future
        try:
            self._send(seq, packet, fds)
            async with asyncio.timeout(limits.MONITOR_REPLY_SECONDS):
                reply = await future
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.subject}: monitor did not answer {message.msgname} "
                f"within {limits.MONITOR_REPLY_SECONDS:g} seconds"
            ) from None
        finally:
            # A reply that comes later finds nobody: its fds are closed there. Fds of an unsent packet may be closed by the caller.
            self._waiting.pop(seq, None)
            if self._unsent:
                self._unsent = deque(item for item in self._unsent if item[0] != seq)
        if isinstance(reply, protocol.Error):
            raise MonitorError(self.subject, reply.op, reply.op_index, reply.errnum, reply.detail)
        if not isinstance(reply, expected):
            _close_fds(_fds_of(reply))
            raise Internal(f"{self.subject}: monitor answered {message.msgname} with {reply.msgname}")
        return reply

    def _send(self, seq: int, packet: bytes, fds: list[int]) -> None:
        if self._unsent or not self._try_send(packet, fds):
            if not self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            self._unsent.append((seq, packet, fds))

    def _try_send(self, packet: bytes, fds: list[int]) -> bool:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([packet], control, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            # The reader sees the same end; first it takes the replies that still wait in the socket.
            return True
        return True

    def _writable(self) -> None:
        while self._unsent:
            _, packet, fds = self._unsent[0]
            if not self._try_send(packet, fds):
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            if self._lost is not None:
                return
            try:
                data, control, flags, _ = self._sock.recvmsg(
                    limits.MONITOR_MESSAGE_BYTES, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:
                data, control, flags = b"", [], 0
            fds = _received_fds(control)
            if not data:
                self._lose(Unavailable(f"{self.subject}: monitor has ended the connection"))
                return
            try:
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    raise Internal(f"{self.subject}: monitor's packet was cut off")  # noqa: TRY301
                seq, message = protocol.decode(data, fds)
            except Internal as error:
                _close_fds(fds)
                self._lose(error)
                return
            _close_fds(set(fds) - set(_fds_of(message)))
            self._received(seq, message)

    def _received(self, seq: int, message: Message) -> None:
        if isinstance(message, protocol.Exited | protocol.Oom):
            event = _event(message)
            if self._on_event is not None:
                self._on_event(event)
            else:
                self._events.append(event)
            return
        future = self._waiting.pop(seq, None)
        if future is not None and not future.done():
            future.set_result(message)
            return
        _close_fds(_fds_of(message))
        if seq == 0 and isinstance(message, protocol.Error):
            self._lose(Internal(f"{self.subject}: monitor refused a packet: {message.detail}"))

    def _lose(self, reason: OrlopError) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._unsent.clear()
        self._sock.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(reason)
        if self._on_lost is not None:
            self._on_lost()

    def statistics(self) -> dict[str, int]:
        return {"requests": len(self._waiting), "unsent": len(self._unsent), "events": len(self._events)}


def _event(message: protocol.Exited | protocol.Oom) -> Event:
    if isinstance(message, protocol.Oom):
        return Oom(id=message.id, count=message.count)
    return Exited(
        id=message.id,
        pid=message.pid,
        exit_code=message.exit_code,
        signal=message.signal,
        oom_killed=bool(message.oom_killed),
        finished_ns=message.finished_ns,
        is_exec=bool(message.is_exec),
        timed_out=bool(message.timed_out),
    )


def _fds_of(message: Message) -> list[int]:
    fields = protocol.wire_fields(type(message))
    return [fd for kind, name in fields if kind == "FD" and (fd := getattr(message, name)) is not None]


def _received_fds(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += (fd for (fd,) in struct.iter_unpack("i", data[: len(data) - len(data) % 4]))
    return fds


def _close_fds(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
