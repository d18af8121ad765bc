"""ExecSync: run a command in a container, collect its output, within a time. Test: tests/kernel/services/test_execs.py.

    running? -> sub-cgroup -> join plan (pure) -> monitor runs it with our pipes -> read to the cap -> exit status

The command has a cgroup of its own: at the deadline everything in it is killed, children that left the session too. Output beyond
limits.EXEC_SYNC_OUTPUT_BYTES a stream is read and dropped, without an error (CVE-2022-1708, CVE-2022-31030).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from dataclasses import dataclass

from orlop.base import limits
from orlop.base.errors import DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument
from orlop.base.ids import new_exec_id
from orlop.monitor.client import MonitorError
from orlop.oci.cgroups.handles import ExecCgroup
from orlop.services.handlers.protocol import PlannedExec
from orlop.services.node import Node
from orlop.specs.pod import ContainerState

READ_BYTES = 64 * limits.KIB
DRAIN_SECONDS = 0.05
"""How long output that is already written may take to be read after the command has ended, when a child keeps the pipe open."""
PIPE_READS = 3
"""A pipe of the default size is empty after one read, and the end of file is the next; more is left to the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    stdout: bytes
    stderr: bytes
    exit_code: int


class _Collector:
    """Takes what comes out of one pipe without blocking, up to the cap; ``ended`` is set at end of file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.data = bytearray()
        self.ended = asyncio.Event()
        os.set_blocking(fd, False)

    def watch(self) -> None:
        asyncio.get_running_loop().add_reader(self.fd, self.read)

    def read(self) -> None:
        """Take one chunk, if there is one."""
        try:
            chunk = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self.close()
            return
        room = limits.EXEC_SYNC_OUTPUT_BYTES - len(self.data)
        if room > 0:
            self.data += chunk[:room]

    async def drain(self) -> None:
        """Read to the end of file. What is in the pipe is taken at once; a child that keeps the pipe open is not waited for for long."""
        for _ in range(PIPE_READS):
            if self.fd < 0:
                return
            self.read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.ended.wait()

    def close(self) -> None:
        if self.fd >= 0:
            asyncio.get_running_loop().remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1
            self.ended.set()


async def exec_sync(node: Node, container_id: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
    """Run a command; timeout 0 means no limit.

    Raises NotFound, InvalidArgument (the command is empty, or can't be executed), FailedPrecondition (not running),
    DeadlineExceeded (all of it was killed), Internal (another step failed: the message says which).
    """
    row = node.pods.container(container_id)
    if not command:
        raise InvalidArgument(f"container {row.id}: exec: cmd is empty")
    if row.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"container {row.id}: exec: it is {row.state.name.lower()}, not running")
    pod = node.live.need(row.sandbox_id)
    exec_id = new_exec_id()
    handler = node.handlers.of(node.pods.sandbox(row.sandbox_id))
    cgroup = handler.exec_cgroup(node, row, exec_id)
    ended = asyncio.get_running_loop().create_future()
    pod.exec_exits[exec_id] = ended
    launch: PlannedExec | None = None
    collectors: list[_Collector] = []
    try:
        launch = handler.plan_exec(node, row, cgroup, exec_id, command, tty=False)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        collectors.append(_Collector(out_read))
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        collectors.append(_Collector(err_read))
        try:
            await pod.monitor.exec(
                exec_id,
                row.id,
                launch.plan,
                launch.fds,
                stdin=-1,
                stdout=out_write,
                stderr=err_write,
                cgroup_fd=cgroup.kill_fd,
                v2=cgroup.version == 2,
                timeout_ms=int(timeout_seconds * 1000),
                kill_on_disconnect=True,
            )
        except MonitorError as error:
            if error.op.startswith("join_") and error.errno in (errno.ENOENT, errno.ESRCH):
                raise FailedPrecondition(f"container {row.id}: exec: it ended while the command was begun") from error
            if (better := launch.explain(error)) is not None:
                raise better from error
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        # Not before the command runs: until then nothing comes, and this is done while it does its work.
        for collector in collectors:
            collector.watch()
        exited = await ended
        for collector in collectors:
            await collector.drain()
        if exited.timed_out:
            shown = " ".join(command)[:200]
            raise DeadlineExceeded(
                f"container {row.id}: exec {shown!r}: still ran after {timeout_seconds:g}s and was killed"
            )
        code = 128 + exited.signal if exited.signal else exited.exit_code
        return ExecResult(stdout=bytes(collectors[0].data), stderr=bytes(collectors[1].data), exit_code=code)
    except asyncio.CancelledError:
        if ended.cancelled():
            raise Internal(f"container {row.id}: exec: the pod's monitor ended") from None
        raise
    finally:
        pod.exec_exits.pop(exec_id, None)
        if launch is not None:
            launch.close()
        for collector in collectors:
            collector.close()
        # The answer goes out first.
        asyncio.get_running_loop().call_soon(_discard, node, row.cgroup, exec_id, cgroup)


def _discard(node: Node, parent: str, exec_id: str, cgroup: ExecCgroup) -> None:
    cgroup.close()
    node.cgroups.remove_exec(parent, exec_id)
