"""CRI's Exec, Attach and PortForward: each is checked and answered with a URL of the streaming server, where the session begins.

Translation only. Test: tests/cri/test_streaming.py.
"""

from __future__ import annotations

from typing import Protocol

from orlop.base.errors import InvalidArgument
from orlop.cri.listener import Service
from orlop.services.node import Node
from orlop.services.streams import Wanted, want_attach, want_exec, want_forward
from orlop.specs.cri_gen import api_pb2 as pb


class StreamUrls(Protocol):
    """The streaming server, as far as it is needed here."""

    def issue(self, wanted: Wanted) -> str:
        """Return a URL for one session. Raises ResourceExhausted."""


class RuntimeStreams(Service):
    """One method an RPC."""

    _node: Node
    _urls: StreamUrls

    async def Exec(self, request: pb.ExecRequest) -> pb.ExecResponse:
        wanted = want_exec(
            self._node,
            _id(request.container_id, "container_id"),
            tuple(request.cmd),
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            tty=request.tty,
        )
        return pb.ExecResponse(url=self._urls.issue(wanted))

    async def Attach(self, request: pb.AttachRequest) -> pb.AttachResponse:
        wanted = want_attach(
            self._node,
            _id(request.container_id, "container_id"),
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            tty=request.tty,
        )
        return pb.AttachResponse(url=self._urls.issue(wanted))

    async def PortForward(self, request: pb.PortForwardRequest) -> pb.PortForwardResponse:
        wanted = want_forward(self._node, _id(request.pod_sandbox_id, "pod_sandbox_id"), tuple(request.port))
        return pb.PortForwardResponse(url=self._urls.issue(wanted))


def _id(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(f"{field}: is empty")
    return value
