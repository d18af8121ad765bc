"""One exec or attach session after its upgrade: the client's channels on one side, a command's or a container's streams on the other.

    prepared while the client opens its channels -> started / attached -> bytes both ways -> exit -> last output -> outcome -> closed

The outcome is sent behind all output, and the connection stays until the client has closed it or taken too long: closing it first would
throw away what the client has not read. Test: tests/cri/test_streaming.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable
from typing import TypeVar

from orlop.base import limits
from orlop.base.errors import DeadlineExceeded, OrlopError, Unavailable
from orlop.services.containers.attach import AttachSession, attach_container, resize_container
from orlop.services.execs.exec_stream import ExecStream, Size, exec_stream
from orlop.services.node import Node
from orlop.services.streams import AttachWanted, ExecWanted
from orlop.streaming.channels import RESIZE, STDERR, STDIN, STDOUT, Outcome, SizeReader, Streams
from orlop.streaming.command import Buffer, Carrier
from orlop.streaming.spdy import ProtocolViolation
from orlop.streamserver.pumps import Inflow, Outflow
from orlop.streamserver.wire import Wire

log = logging.getLogger(__name__)
T = TypeVar("T")

WORDS_AFTER_SECONDS = 0.02
QUIET_SECONDS = 0.05
"""How long output must have been silent after a command's end, when a child that it left keeps the pipe open."""
EARLY_BYTES = 64 * limits.KIB
FIRST_SIZE_SECONDS = 0.2
"""How long a terminal's first size is waited for once the client has opened the channel for it."""
STOPPING = "orlopd is stopping: this session ends; the command itself goes on in its container"

DIED = "orlopd has ended unexpectedly: this session ends; the command itself goes on in its container"


class ClientGone(Exception):
    """The client has closed its connection."""


def streams_of(wanted: ExecWanted | AttachWanted) -> Streams:
    return Streams(stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr, tty=wanted.tty)


class CommandSession:
    """Runs on a wire whose upgrade has been answered; owns neither the wire nor the command."""

    def __init__(self, node: Node, wire: Wire, carrier: Carrier, wanted: ExecWanted | AttachWanted) -> None:
        self._node = node
        self._wire = wire
        self._carrier = carrier
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._complete: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._entry: Inflow | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._stdin_ended = False
        self._flows: dict[int, Outflow] = {}
        self._sizes = SizeReader()
        self._size: Size | None = None
        self._sized: asyncio.Future[None] = self._loop.create_future()
        self._exec: ExecStream | None = None
        self._attached: AttachSession | None = None
        self._finished = False
        self._stdin_over: asyncio.Future[None] = self._loop.create_future()

    async def run(self, rest: bytes, response: bytes = b"") -> None:
        """Serve the session to its end. ``rest`` came behind the request, ``response`` is sent first. Never raises but CancelledError."""
        self._wire.send([response, *self._carrier.opening()])
        self._wire.start(self._received, self._ended)
        self._received(memoryview(rest))
        try:
            outcome = await self._serve()
        except ClientGone:
            log.debug("%s: the client has gone", self._subject)
            return
        except asyncio.CancelledError:
            outcome = Outcome(failure=STOPPING)
            self._finish(outcome)
            raise
        except OrlopError as error:
            outcome = Outcome(failure=str(error))
        await self._farewell(outcome)

    @property
    def _subject(self) -> str:
        kind = "exec" if isinstance(self._wanted, ExecWanted) else "attach"
        return f"container {self._wanted.container_id}: {kind}"

    async def _serve(self) -> Outcome:
        if isinstance(self._wanted, ExecWanted):
            return await self._run_exec(self._wanted)
        await self._all_channels()
        return await self._run_attach(self._wanted)

    async def _all_channels(self) -> Size | None:
        """Wait until the client has opened all its channels; return the size of its terminal. Raises DeadlineExceeded, ClientGone."""
        try:
            async with asyncio.timeout(limits.STREAM_SETUP_SECONDS):
                await self._or_gone(self._complete)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._subject}: the client did not open all its streams within {limits.STREAM_SETUP_SECONDS:g}s"
            ) from None
        if self._wanted.tty and self._carrier.sized and self._size is None:
            # So that the command finds the size when it begins. Not every client sends one.
            await asyncio.wait(
                (self._sized, self._gone), timeout=FIRST_SIZE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        return self._size

    async def _or_gone(self, future: asyncio.Future[T] | asyncio.Task[T]) -> T:
        """Wait for a result, or for the client's end. Raises ClientGone."""
        await asyncio.wait((future, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return await future
        raise ClientGone

    # ---- exec ----

    async def _run_exec(self, wanted: ExecWanted) -> Outcome:
        async with exec_stream(
            self._node,
            wanted.container_id,
            wanted.command,
            stdin=wanted.stdin,
            tty=wanted.tty,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
            outlives=True,
            ready=self._all_channels,
        ) as command:
            self._exec = command
            exiting = self._node.supervisor.spawn("exec exit", command.wait())
            leaving: asyncio.Task[None] | None = None
            try:
                self._open_exec(command)
                if (client := self._wire.plain_copy()) is not None:
                    leaving = self._node.supervisor.spawn("last words", self._leave_words(command, client))
                code = await self._or_gone(exiting)
                await self._drain_outputs()
                outcome = Outcome(exit_code=code)
                # Said before what is left of the command is cleared away.
                self._finish(outcome)
                return outcome
            finally:
                exiting.cancel()
                if leaving is not None:
                    leaving.cancel()
                self._exec = None
                self._stop_flows()

    async def _leave_words(self, command: ExecStream, client: socket.socket) -> None:
        with client:
            await asyncio.sleep(WORDS_AFTER_SECONDS)  # most sessions are over by then
            await command.last_words(client.fileno(), self._carrier.last_words(Outcome(failure=DIED)))

    def _open_exec(self, command: ExecStream) -> None:
        for channel, descriptor in command.outputs.items():
            shown = channel != STDOUT or self._wanted.stdout  # what a terminal shows is read even if nobody wants it
            self._flows[channel] = Outflow(
                descriptor,
                self._wire,
                room=(lambda channel=channel: self._carrier.room(channel)) if shown else _any_room,  # type: ignore[misc]
                frame=lambda data, channel=channel: self._carrier.frame(channel, data),  # type: ignore[misc]
            )
        self._open_entry(Inflow(command.entry, self._wire, write=lambda parts: os.writev(command.entry, parts)))

    def _open_entry(self, entry: Inflow) -> None:
        self._entry = entry
        for data in self._early:
            entry.take(data)
        self._early.clear()
        self._wire.release(self)
        if self._stdin_ended:
            entry.end(self._end_stdin)

    def _end_stdin(self) -> None:
        if self._exec is not None and self._exec.entry >= 0:
            self._node.supervisor.spawn("end of stdin", self._exec.end_input())
        if self._attached is not None:
            self._attached.end_input()
        if not self._stdin_over.done():
            self._stdin_over.set_result(None)

    async def _drain_outputs(self) -> None:
        """Wait until all output is sent, or nothing more comes although somebody keeps the pipe open."""
        for flow in self._flows.values():
            flow.limit()
            flow.read()
        before = -1
        while any(not flow.ended.is_set() for flow in self._flows.values()):
            total = sum(flow.total for flow in self._flows.values())
            if total == before and not any(flow.waits for flow in self._flows.values()):
                break
            before = total
            everything = self._node.supervisor.spawn("last output", self._all_ended())
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._or_gone(everything)
            except TimeoutError:
                continue
            finally:
                everything.cancel()

    async def _all_ended(self) -> None:
        for flow in self._flows.values():
            await flow.ended.wait()

    def _stop_flows(self) -> None:
        for flow in self._flows.values():
            flow.stop()
        if self._entry is not None:
            self._entry.stop()

    # ---- attach ----

    async def _run_attach(self, wanted: AttachWanted) -> Outcome:
        session = await attach_container(
            self._node,
            wanted.container_id,
            stdin=wanted.stdin,
            output=wanted.stdout or wanted.stderr,
        )
        self._attached = session
        try:
            if self._size is not None:
                await resize_container(self._node, wanted.container_id, *self._size)
            self._open_entry(Inflow(session.entry, self._wire, write=session.write))
            showing = self._node.supervisor.spawn("attach output", self._show(session))
            try:
                await self._attach_over(wanted, showing)
            finally:
                showing.cancel()
            return Outcome()
        finally:
            self._attached = None
            self._stop_flows()
            session.close()

    async def _attach_over(self, wanted: AttachWanted, showing: asyncio.Task[None]) -> None:
        """Wait for the container's end; or for that of stdin, when nothing can be expected after it."""
        config = self._node.pods.container(wanted.container_id).config
        output = wanted.stdout or wanted.stderr
        if wanted.stdin and not (output and (config.stdin_once or config.tty)):
            ending: set[asyncio.Future[None]] = {self._stdin_over}
            if output:
                ending.add(showing)
            await asyncio.wait((*ending, self._gone), return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done() and not any(each.done() for each in ending):
                raise ClientGone
            if showing.done():
                await showing
            return
        await self._or_gone(showing)

    async def _show(self, session: AttachSession) -> None:
        wanted = {STDOUT: self._wanted.stdout, STDERR: self._wanted.stderr}
        async for channel, data in session.output():
            if not wanted[channel]:
                continue
            while self._carrier.wants(channel) and (self._wire.blocked or not self._carrier.room(channel)):
                await self._wire.drained()
                if not self._carrier.room(channel):
                    await asyncio.sleep(QUIET_SECONDS)
            self._wire.send(self._carrier.frame(channel, data))
        if session.fell_behind:
            raise Unavailable(
                f"{self._subject}: this client reads more slowly than the container writes, and was let go; the log has everything"
            )

    # ---- what the client sends ----

    def _received(self, data: memoryview) -> None:
        try:
            incoming = self._carrier.receive(data)
        except ProtocolViolation as error:
            log.info("%s: %s", self._subject, error)
            self._say(self._carrier.take_replies())
            self._lose()
            return
        self._say(self._carrier.take_replies())
        for channel, piece, ended, dropped in incoming:
            if self._finished:
                break
            if channel == STDIN:
                self._take_stdin(piece, ended)
            elif channel == RESIZE and not dropped and len(piece):
                self._take_sizes(bytes(piece))
            elif dropped and channel in self._flows:
                self._drop_output(channel)
        for flow in self._flows.values():
            if flow.waits and not self._wire.blocked:
                flow.resume()  # a window may have been opened
        if self._carrier.complete and not self._complete.done():
            self._complete.set_result(None)
        if self._carrier.left and self._finished:
            self._lose()

    def _drop_output(self, channel: int) -> None:
        self._flows[channel].stop()
        if self._exec is not None and not self._wanted.tty:
            self._exec.break_output(channel)
        elif self._wanted.tty:
            self._lose()

    def _say(self, replies: bytes) -> None:
        if replies:
            self._wire.send([replies])

    def _take_stdin(self, piece: Buffer, ended: bool) -> None:
        if self._stdin_ended:
            return
        if self._entry is None:
            self._keep_early(bytes(piece))
        else:
            self._entry.take(piece)
        if ended:
            self._stdin_ended = True
            if self._entry is not None:
                self._entry.end(self._end_stdin)

    def _keep_early(self, data: bytes) -> None:
        """Input that comes before the command is there; of much, the rest waits in the socket."""
        self._early.append(data)
        self._early_bytes += len(data)
        if self._early_bytes <= EARLY_BYTES:
            return
        if self._complete.done():
            self._wire.hold(self)
        elif self._early_bytes > limits.STREAM_READ_BYTES + EARLY_BYTES:
            log.info("%s: input of %d bytes before all streams are open", self._subject, self._early_bytes)
            self._lose()

    def _take_sizes(self, data: bytes) -> None:
        try:
            sizes = self._sizes.feed(data)
        except ProtocolViolation as error:
            log.info("%s: %s", self._subject, error)
            return
        for size in sizes:
            self._size = size
        if sizes and not self._sized.done():
            self._sized.set_result(None)
        if sizes and self._exec is not None:
            self._exec.resize(*sizes[-1])
        elif sizes and self._attached is not None and self._wanted.tty:
            resizing = resize_container(self._node, self._wanted.container_id, *sizes[-1])
            self._node.supervisor.spawn("resize", _ignoring_the_end(resizing))

    def _ended(self) -> None:
        self._lose()

    def _lose(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    # ---- the end ----

    def _finish(self, outcome: Outcome) -> None:
        if self._finished:
            return
        self._finished = True
        self._wire.send(self._carrier.finish(outcome))

    async def _farewell(self, outcome: Outcome) -> None:
        """Send the outcome; wait until the client has read it and closes, but not for ever."""
        self._wire.release(self)
        self._finish(outcome)
        await self._wire.drained()
        if not self._gone.done() and not self._carrier.left:
            await asyncio.wait((self._gone,), timeout=limits.STREAM_LINGER_SECONDS)


def _any_room() -> int:
    return limits.STREAM_FRAME_BYTES


async def _ignoring_the_end(work: Awaitable[None]) -> None:
    try:
        await work
    except OrlopError as error:
        log.debug("resize: %s", error)
