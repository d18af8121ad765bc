"""Run a command in a container with its streams connected to the caller: `orlop exec -it`, and CRI's Exec through the streaming server.

Test: tests/cri/test_cli.py, tests/cri/test_streaming.py.

    running? -> sub-cgroup -> join plan (pure) -> monitor runs it on our pipes or a new terminal -> chunks both ways -> exit code

Output waits for the caller: nobody but the caller is kept waiting by a slow terminal. When the caller goes away without an end, everything in
the command's cgroup is killed; or, with ``outlives``, the command sees what a command sees whose terminal or pipe is gone, and may go on.
When it is the daemon that dies, a command that outlives it notices nothing: its monitor reads what it writes.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from orlop.base import limits
from orlop.base.errors import FailedPrecondition, Internal, InvalidArgument, OrlopError
from orlop.base.ids import new_exec_id
from orlop.monitor.client import Exited, MonitorError
from orlop.services.handlers.protocol import PlannedExec
from orlop.services.live import LivePod
from orlop.services.node import Node
from orlop.specs.pod import ContainerState

log = logging.getLogger(__name__)

READ_BYTES = 64 * limits.KIB
DRAIN_SECONDS = 0.05
"""How long output that is already written may take to be read after the command has ended, when a child keeps the pipe open."""
STDIN, STDOUT, STDERR = 0, 1, 2
Size = tuple[int, int]
"""Rows, columns."""
END_OF_INPUT = b"\x04"
"""Ctrl-D: what ends input on a terminal."""


class ExecStream:
    """A running command; owns its pipes or its terminal."""

    def __init__(
        self,
        subject: str,
        ended: asyncio.Future[Exited],
        hang_up: Callable[[], None],
        last_words: Callable[[int, bytes], Coroutine[Any, Any, None]],
    ) -> None:
        self._subject = subject
        self.last_words = last_words
        """Let the caller's client, on this connected socket, be told these bytes if the daemon dies before the command ends."""
        self._ended = ended
        self._hang_up = hang_up
        self._outputs: dict[int, int] = {}
        self._input = -1
        self._terminal = False

    def adopt(self, *, entry: int = -1, outputs: dict[int, int], terminal: bool) -> None:
        """Take over the descriptors of the caller's side."""
        self._input, self._outputs, self._terminal = entry, outputs, terminal
        for descriptor in {entry, *outputs.values()} - {-1}:
            os.set_blocking(descriptor, False)

    @property
    def entry(self) -> int:
        """The non-blocking descriptor of the command's input, -1 when there is none (any more). It stays ours."""
        return self._input

    @property
    def outputs(self) -> dict[int, int]:
        """The non-blocking descriptor of each output. They stay ours; a terminal's is the input's as well."""
        return dict(self._outputs)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream, bytes) until the command has ended and what it wrote is read."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        open_outputs = dict(self._outputs)
        self._ended.add_done_callback(lambda _: ready.set())
        for descriptor in open_outputs.values():
            loop.add_reader(descriptor, ready.set)
        try:
            deadline = 0.0
            while open_outputs:
                progress = False
                for stream, descriptor in tuple(open_outputs.items()):
                    data = _read(descriptor)
                    if data:
                        progress = True
                        yield stream, data
                    elif data is not None:
                        loop.remove_reader(descriptor)
                        del open_outputs[stream]
                if progress:
                    continue
                if self._ended.done():
                    deadline = deadline or loop.time() + DRAIN_SECONDS
                    if loop.time() >= deadline:
                        break
                ready.clear()
                timeout = deadline - loop.time() if deadline else None
                try:
                    async with asyncio.timeout(timeout):
                        await ready.wait()
                except TimeoutError:
                    break
        finally:
            for descriptor in open_outputs.values():
                loop.remove_reader(descriptor)

    async def wait(self) -> int:
        """Return the exit code: 128 and the signal's number for a command that a signal ended."""
        try:
            exited = await asyncio.shield(self._ended)  # who stops waiting does not end it for others
        except asyncio.CancelledError:
            if self._ended.cancelled():
                raise Internal(f"{self._subject}: the pod's monitor ended") from None
            raise
        return 128 + exited.signal if exited.signal else exited.exit_code

    async def send(self, data: bytes) -> None:
        """Write to the command's input; what nobody reads any more is dropped."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view and self._input >= 0:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._input, writable.set)
                try:
                    await writable.wait()
                finally:
                    if self._input >= 0:
                        loop.remove_writer(self._input)
            except OSError:
                await self.end_input()
                return

    async def end_input(self) -> None:
        """End the command's input: a pipe is closed, a terminal gets its end-of-file character."""
        if self._input < 0:
            return
        if self._terminal:
            await self.send(END_OF_INPUT)
        else:
            os.close(self._input)
            self._input = -1

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal; the kernel tells the command."""
        if self._terminal and self._input >= 0:
            fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def break_output(self, number: int) -> None:
        """Nobody wants this output any more: who writes it learns so. Not for a terminal, whose output is its input."""
        descriptor = self._outputs.pop(number, -1)
        if descriptor >= 0:
            os.close(descriptor)
            self._hang_up()

    def close(self) -> None:
        for descriptor in {self._input, *self._outputs.values()} - {-1}:
            os.close(descriptor)
        self._input, self._outputs = -1, {}


def _read(descriptor: int) -> bytes | None:
    """Return what is there, b"" at the end, None when there is nothing yet. EIO: the last user of a terminal is gone."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


@asynccontextmanager
async def exec_stream(
    node: Node,
    container_id: str,
    command: tuple[str, ...],
    *,
    stdin: bool,
    tty: bool,
    stdout: bool = True,
    stderr: bool = True,
    outlives: bool = False,
    ready: Callable[[], Awaitable[Size | None]] | None = None,
) -> AsyncIterator[ExecStream]:
    """Run a command as long as the context lasts; what is not asked for of its streams is /dev/null.

    ``ready`` is awaited while the command is prepared; only then it runs, in a terminal of the size that ``ready`` returns. What ``ready``
    raises ends it before it has run.

    Raises NotFound, InvalidArgument (the command is empty, or can't be executed), FailedPrecondition (not running), Internal
    (another step failed: which).
    """
    row = node.pods.container(container_id)
    if not command:
        raise InvalidArgument(f"container {row.id}: exec: the command is empty")
    if row.state is not ContainerState.RUNNING:
        raise FailedPrecondition(f"container {row.id}: exec: it is {row.state.name.lower()}, not running")
    pod = node.live.need(row.sandbox_id)
    exec_id = new_exec_id()
    handler = node.handlers.of(node.pods.sandbox(row.sandbox_id))
    cgroup = handler.exec_cgroup(node, row, exec_id)
    ended: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
    pod.exec_exits[exec_id] = ended

    size: Size | None = None

    async def gate() -> None:
        nonlocal size
        if ready is None or (size := await ready()) is None or not tty:
            return
        if launch is not None and launch.resize is not None:
            launch.resize(*size)
        else:
            await pod.monitor.resize(exec_id, *size)

    def hang_up() -> None:
        node.supervisor.spawn("hang up", _hang_up(pod, exec_id))

    launch: PlannedExec | None = None

    async def last_words(to: int, words: bytes) -> None:
        try:
            await pod.monitor.last_words(exec_id, to, words)
        except OrlopError as error:  # it has ended meanwhile
            log.debug("exec %s: last words: %s", exec_id, error)

    stream = ExecStream(f"container {row.id}: exec", ended, hang_up, last_words)
    theirs: dict[int, int] = {}
    started = stopping = False
    try:
        launch = handler.plan_exec(node, row, cgroup, exec_id, command, tty=tty, gate=ready is not None)
        entry, outputs = -1, {}
        if not tty:
            for number, wanted in ((STDOUT, stdout), (STDERR, stderr)):
                if wanted:
                    outputs[number], theirs[number] = os.pipe2(os.O_CLOEXEC)
            if stdin:
                theirs[STDIN], entry = os.pipe2(os.O_CLOEXEC)
            stream.adopt(entry=entry, outputs=outputs, terminal=False)
        try:
            running = await pod.monitor.exec(
                exec_id,
                row.id,
                launch.plan,
                launch.fds,
                stdin=theirs.get(STDIN, -1),
                stdout=theirs.get(STDOUT, -1),
                stderr=theirs.get(STDERR, -1),
                tty=tty,
                cgroup_fd=cgroup.kill_fd,
                v2=cgroup.version == 2,
                kill_on_disconnect=not outlives,
                hold=outlives,
                gate=gate if ready is not None else None,
            )
        except MonitorError as error:
            if (better := launch.explain(error)) is not None:
                raise better from error
            raise
        finally:
            for descriptor in theirs.values():
                os.close(descriptor)
        started = True
        if tty:
            stream.adopt(entry=running.master_fd, outputs={STDOUT: running.master_fd}, terminal=True)
            if size is not None and launch.resize is not None:
                stream.resize(*size)  # another runtime's program may have been too late with it
        yield stream
    except asyncio.CancelledError:
        stopping = True  # it is the daemon that goes: for the command that is as if it had died
        raise
    finally:
        if not ended.done():
            if outlives and started and not stopping:
                hang_up()
            elif not (outlives and started):
                node.cgroups.kill_all(cgroup.path)
        pod.exec_exits.pop(exec_id, None)
        if launch is not None:
            launch.close()
        stream.close()
        cgroup.close()
        node.cgroups.remove_exec(row.cgroup, exec_id)


async def _hang_up(pod: LivePod, exec_id: str) -> None:
    """Let the command know that its caller is gone."""
    try:
        await pod.monitor.hang_up(exec_id)
    except OrlopError as error:  # it has ended meanwhile, or its monitor has
        log.debug("exec %s: hang up: %s", exec_id, error)
