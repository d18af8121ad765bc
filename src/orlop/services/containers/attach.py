"""Connect a caller to a container's own streams. The container never waits for the caller. Test: tests/unit/services/containers/test_attach.py.

Input and output are two connections: the end of input is then the end of a connection, behind all that was sent, and no output is
lost with it. Little is kept here for a caller that is behind: above ATTACH_KEPT_BYTES the monitor is not read, and keeps the rest
(ATTACH_BACKLOG_BYTES a pod); who falls farther behind is let go, and told so behind all that was kept for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

from orlop.base import limits
from orlop.base.errors import FailedPrecondition
from orlop.services.node import Node

INPUT_BYTES = 8192
"""The monitor takes this much in one packet."""
PACKET_BYTES = 64 * limits.KIB
CUT_OFF = 3
"""The stream number of the monitor's last packet to a reader that it lets go."""


class AttachSession:
    """One attached caller; ``close`` leaves the container as it is, except that a stdin_once container's input ends."""

    def __init__(self, output: socket.socket | None, entry: socket.socket | None) -> None:
        self._output = output
        self._entry = entry
        self._chunks: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._kept = 0
        self._waits = False
        self.fell_behind = False
        """The output has ended because this caller did not read it fast enough, not because the container has ended."""
        if entry is not None:
            entry.setblocking(False)
        if output is not None:
            output.setblocking(False)
            asyncio.get_running_loop().add_reader(output.fileno(), self._read, output)
        else:
            self._chunks.put_nowait(None)

    def _read(self, output: socket.socket) -> None:
        while self._kept <= limits.ATTACH_KEPT_BYTES:
            try:
                packet = output.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet or packet[0] == CUT_OFF:
                self.fell_behind = bool(packet)
                self._end_output()
                return
            self._kept += len(packet)
            self._chunks.put_nowait((packet[0], packet[1:]))
        asyncio.get_running_loop().remove_reader(output.fileno())
        self._waits = True

    def _end_output(self) -> None:
        if self._output is not None:
            asyncio.get_running_loop().remove_reader(self._output.fileno())
            self._output.close()
            self._output = None
            self._chunks.put_nowait(None)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream, bytes) with stream 1 or 2 until the container has ended or this caller fell too far behind."""
        while (chunk := await self._chunks.get()) is not None:
            self._kept -= len(chunk[1]) + 1
            if self._waits and self._output is not None and self._kept <= limits.ATTACH_KEPT_BYTES // 2:
                self._waits = False
                asyncio.get_running_loop().add_reader(self._output.fileno(), self._read, self._output)
            yield chunk

    async def send(self, data: bytes) -> None:
        """Write to the container's stdin; what nobody reads any more is dropped."""
        if self._entry is None:
            return
        loop = asyncio.get_running_loop()
        for at in range(0, len(data), INPUT_BYTES):
            try:
                await loop.sock_sendall(self._entry, data[at : at + INPUT_BYTES])
            except (BrokenPipeError, ConnectionResetError):
                self.end_input()
                return

    @property
    def entry(self) -> int:
        """The non-blocking descriptor that write() writes to, -1 when there is none (any more). It stays ours."""
        return -1 if self._entry is None else self._entry.fileno()

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> int:
        """Write what can be without waiting; return how many bytes. Raises BlockingIOError, OSError: nobody reads it any more."""
        if self._entry is None:
            raise BrokenPipeError
        return self._entry.send(memoryview(parts[0])[:INPUT_BYTES])

    def end_input(self) -> None:
        """End the container's stdin, if it was created with stdin_once."""
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    def close(self) -> None:
        self.end_input()
        self._end_output()


async def attach_container(node: Node, container_id: str, *, stdin: bool, output: bool = True) -> AttachSession:
    """Attach to a created or running container. Raises NotFound, FailedPrecondition (ended, or it has no stdin)."""
    row = node.pods.container(container_id)
    if row.finished_at or not row.created_at:
        raise FailedPrecondition(f"container {row.id}: cannot be attached to, it is {row.state.name.lower()}")
    if stdin and not row.config.stdin:
        raise FailedPrecondition(f"container {row.id}: has no stdin")
    monitor = node.live.need(row.sandbox_id).monitor
    made: list[socket.socket] = []
    try:
        if output:
            made.append(await monitor.attach(row.id, stdin=False, stdout=True, stderr=not row.config.tty))
        if stdin:
            made.append(await monitor.attach(row.id, stdin=True, stdout=False, stderr=False))
    except BaseException:
        for each in made:
            each.close()
        raise
    return AttachSession(made[0] if output else None, made[-1] if stdin else None)


async def resize_container(node: Node, container_id: str, rows: int, columns: int) -> None:
    """Set the size of a container's terminal. Raises NotFound, FailedPrecondition (it has none)."""
    row = node.pods.container(container_id)
    if not row.config.tty:
        raise FailedPrecondition(f"container {row.id}: has no terminal")
    await node.live.need(row.sandbox_id).monitor.resize(row.id, rows, columns)
