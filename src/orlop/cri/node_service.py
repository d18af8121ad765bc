"""orlop.v1.Node: what the command line needs beside CRI: pull with progress, attach, forward, kill, wait. Translation only.

Test: tests/cri/test_cli.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from orlop.base.errors import InvalidArgument, OrlopError, Unavailable
from orlop.cri.interceptors import finish
from orlop.cri.listener import Service
from orlop.registry.credentials import Credentials
from orlop.services.containers.attach import AttachSession, attach_container, resize_container
from orlop.services.containers.autoremove import arm_removal
from orlop.services.containers.kill import signal_container
from orlop.services.containers.start import start_container
from orlop.services.containers.wait import wait_container
from orlop.services.execs.exec_stream import ExecStream, exec_stream
from orlop.services.images.parts import ImageParts
from orlop.services.images.progress import PullProgress
from orlop.services.images.pull import pull_image
from orlop.services.images.record import ImageRecord
from orlop.services.node import Node
from orlop.services.sandboxes.port_forward import connect_port
from orlop.services.streams import want_forward
from orlop.specs.cri_gen import orlop_pb2 as pb
from orlop.specs.descriptor import Platform

STDERR = 2
FORWARD_BYTES = 64 << 10


class NodeService(Service):
    """One method an RPC."""

    descriptor = pb.DESCRIPTOR.services_by_name["Node"]
    changing = frozenset({"Kill"})

    def __init__(self, node: Node, parts: ImageParts) -> None:
        self._node = node
        self._parts = parts

    async def Pull(self, request: pb.PullRequest) -> AsyncIterator[pb.PullProgress]:
        reports: asyncio.Queue[PullProgress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(report: PullProgress) -> None:
            loop.call_soon_threadsafe(reports.put_nowait, report)

        async def settle() -> ImageRecord | OrlopError:
            try:
                return await pull_image(
                    self._parts,
                    request.image,
                    credentials=Credentials(username=request.username, password=request.password)
                    if request.username
                    else None,
                    platform=platform_in(request.platform) if request.platform else None,
                    # Layers report from threads of their own.
                    progress=tell,
                )
            except OrlopError as error:
                return error
            finally:
                reports.put_nowait(None)

        pulling = self._node.supervisor.spawn("pull", settle())
        try:
            while (report := await reports.get()) is not None:
                yield progress_out(report)
            outcome = await pulling
        finally:
            pulling.cancel()
        if isinstance(outcome, OrlopError):
            raise outcome
        yield pb.PullProgress(image_ref=outcome.id, image=", ".join(outcome.repo_tags or outcome.repo_digests))

    async def Kill(self, request: pb.KillRequest) -> pb.KillResponse:
        await signal_container(self._node, request.container_id, request.signal)
        return pb.KillResponse()

    async def Wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        container = await wait_container(self._node, request.container_id)
        return pb.WaitResponse(exit_code=container.exit_code, reason=container.reason)

    async def RemoveWhenEnded(self, request: pb.RemoveWhenEndedRequest) -> pb.RemoveWhenEndedResponse:
        arm_removal(self._node, request.container_id)
        return pb.RemoveWhenEndedResponse()

    async def Attach(self, requests: AsyncIterator[pb.AttachInput]) -> AsyncIterator[pb.AttachOutput]:
        first = await anext(requests, None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument("attach: the first message has no start")
        start = first.start
        session = await attach_container(self._node, start.container_id, stdin=start.stdin, output=not start.no_output)
        feeding = self._node.supervisor.spawn("attach input", self._feed(session, start.container_id, requests))
        try:
            if start.start_container:
                await finish(self._node.supervisor, "start", start_container(self._node, start.container_id))
            async for stream, data in session.output():
                yield pb.AttachOutput(stderr=data) if stream == STDERR else pb.AttachOutput(stdout=data)
            if session.fell_behind:
                raise Unavailable(
                    f"container {start.container_id}: attach: this client reads more slowly than the container writes, "
                    "and was let go; the log has everything"
                )
            container = await wait_container(self._node, start.container_id)
            yield pb.AttachOutput(exited=True, exit_code=container.exit_code)
        finally:
            feeding.cancel()
            session.close()

    async def _feed(self, session: AttachSession, container_id: str, requests: AsyncIterator[pb.AttachInput]) -> None:
        async for request in requests:
            if request.HasField("resize"):
                await resize_container(self._node, container_id, request.resize.rows, request.resize.columns)
            if request.stdin:
                await session.send(request.stdin)
            if request.stdin_end:
                session.end_input()

    async def Exec(self, requests: AsyncIterator[pb.ExecInput]) -> AsyncIterator[pb.AttachOutput]:
        first = await anext(requests, None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument("exec: the first message has no start")
        start = first.start
        running = exec_stream(self._node, start.container_id, tuple(start.command), stdin=start.stdin, tty=start.tty)
        async with running as stream:
            if start.HasField("size"):
                stream.resize(start.size.rows, start.size.columns)
            feeding = self._node.supervisor.spawn("exec input", _feed_exec(stream, requests))
            try:
                async for number, data in stream.output():
                    yield pb.AttachOutput(stderr=data) if number == STDERR else pb.AttachOutput(stdout=data)
                yield pb.AttachOutput(exited=True, exit_code=await stream.wait())
            finally:
                feeding.cancel()

    async def Forward(self, requests: AsyncIterator[pb.ForwardInput]) -> AsyncIterator[pb.ForwardOutput]:
        first = await anext(requests, None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument("forward: the first message has no start")
        wanted = want_forward(self._node, first.start.pod_sandbox_id, (first.start.port,))
        sock = await connect_port(self._node, wanted.sandbox_id, first.start.port)
        feeding = self._node.supervisor.spawn("forward input", _feed_port(sock, requests))
        try:
            while data := await _received(sock):
                yield pb.ForwardOutput(data=data)
            yield pb.ForwardOutput(end=True)
            await feeding
        finally:
            feeding.cancel()
            await asyncio.wait((feeding,))
            sock.close()


async def _received(sock: socket.socket) -> bytes:
    """Return what the pod has sent; b"" when it has ended its side, or broken the connection off."""
    try:
        return await asyncio.get_running_loop().sock_recv(sock, FORWARD_BYTES)
    except ConnectionError:
        return b""


async def _feed_port(sock: socket.socket, requests: AsyncIterator[pb.ForwardInput]) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for request in requests:
            if request.data:
                await loop.sock_sendall(sock, request.data)
            if request.end:
                sock.shutdown(socket.SHUT_WR)
                return
        # The client has broken off: so does this side.
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the pod takes no more; what it still says is read to its end


async def _feed_exec(stream: ExecStream, requests: AsyncIterator[pb.ExecInput]) -> None:
    async for request in requests:
        if request.HasField("resize"):
            stream.resize(request.resize.rows, request.resize.columns)
        if request.stdin:
            await stream.send(request.stdin)
        if request.stdin_end:
            await stream.end_input()


STATES = {"waiting": "waiting", "downloading": "receiving", "present": "exists", "done": "done"}


def progress_out(report: PullProgress) -> pb.PullProgress:
    return pb.PullProgress(
        layers=[
            pb.LayerProgress(
                digest=each.digest,
                received_bytes=each.downloaded,
                total_bytes=each.size,
                state=STATES.get(each.state, each.state),
            )
            for each in report.layers
        ]
    )


def platform_in(text: str) -> Platform:
    """Return the platform of ``os/architecture[/variant]``. Raises InvalidArgument."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidArgument(f"platform: {text!r} is not os/architecture[/variant]")
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")
