"""For those who write a plugin in Python: an object with methods named as NRI's calls becomes a plugin of any runtime that has NRI.

    class Mine:
        def CreateContainer(self, request):            # sync or async; takes nri_pb2.CreateContainerRequest
            return nri_pb2.CreateContainerResponse()    # or None, for the empty answer
    asyncio.run(Stub(Mine(), index="10", base="mine").run())

It is subscribed to the calls that it has methods for. An exception becomes the call's error. Works for plugins that connect and for those that
the runtime starts. examples/nri_plugin.py is a whole one. Test: tests/unit/nri/test_plugins.py, tests/cri/test_nri.py.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message

from orlop.base.errors import Internal, OrlopError, Unimplemented
from orlop.base.supervise import Supervisor
from orlop.nri import calls, mux
from orlop.nri.connection import Connection
from orlop.specs.nri_gen import nri_pb2 as nri

DEFAULT_SOCKET: Final = Path("/var/run/nri/nri.sock")
CALL_SECONDS: Final = 5.0
_SERVICE: Final = nri.DESCRIPTOR.services_by_name["Plugin"]


class Stub:
    """One plugin's side of one connection."""

    def __init__(
        self,
        plugin: object,
        *,
        index: str = "",
        base: str = "",
        path: Path = DEFAULT_SOCKET,
        policy: nri.FailurePolicy | None = None,
    ) -> None:
        """``policy``: what becomes of calls that the plugin does not answer; None: they go on without it, and it is cut off."""
        self._plugin = plugin
        self._index = os.environ.get("NRI_PLUGIN_IDX", "") or index
        self._base = os.environ.get("NRI_PLUGIN_NAME", "") or base
        self._path = path
        self._policy = policy
        self._pods: list[nri.PodSandbox] = []
        self._containers: list[nri.Container] = []
        self._supervisor = Supervisor("nri stub")
        self.connection = Connection(self._serve, self._supervisor, calls_on=mux.RUNTIME_STREAM)

    @property
    def events(self) -> int:
        """The subscription: a bit for each event that the plugin has a method for."""
        return sum(call.bit for call in calls.EVENTS if hasattr(self._plugin, call.method))

    async def run(self) -> None:
        """Connect, register, and serve until the connection ends."""
        await self.start()
        await self.connection.closed.wait()
        await self._supervisor.close()

    async def start(self) -> None:
        """Connect and register. Raises OSError when nobody listens, an OrlopError when the runtime refuses."""
        loop = asyncio.get_running_loop()
        if given := os.environ.get("NRI_PLUGIN_SOCKET", ""):
            sock = socket.socket(fileno=int(given))
            sock.setblocking(False)
            await loop.create_unix_connection(lambda: self.connection, sock=sock)
        else:
            await loop.create_unix_connection(lambda: self.connection, str(self._path))
        request = nri.RegisterPluginRequest(plugin_name=self._base, plugin_idx=self._index, NRI_version=calls.VERSION)
        await self.connection.call(calls.RUNTIME_SERVICE, "RegisterPlugin", request, nri.Empty, CALL_SECONDS)

    async def update(
        self, updates: Sequence[nri.ContainerUpdate], evictions: Sequence[nri.ContainerEviction] = ()
    ) -> list[nri.ContainerUpdate]:
        """Ask for changes at any time; return those that failed."""
        request = nri.UpdateContainersRequest(update=updates, evict=evictions)
        answer = await self.connection.call(
            calls.RUNTIME_SERVICE, "UpdateContainers", request, nri.UpdateContainersResponse, CALL_SECONDS
        )
        return list(answer.failed)

    async def _serve(self, service: str, method: str, payload: bytes) -> Message:
        known = _SERVICE.methods_by_name.get(method)
        if service != calls.PLUGIN_SERVICE or known is None:
            raise Unimplemented(f"{service}/{method}: not served here")
        request: Message = getattr(nri, known.input_type.name).FromString(payload)
        empty: Message = getattr(nri, known.output_type.name)()
        if isinstance(request, nri.SynchronizeRequest):
            self._pods += request.pods
            self._containers += request.containers
            if request.more:
                return nri.SynchronizeResponse(more=True)
            request = nri.SynchronizeRequest(pods=self._pods, containers=self._containers)
            self._pods, self._containers = [], []
        answer = await self._handle(method, request)
        if isinstance(empty, nri.ConfigureResponse):
            return nri.ConfigureResponse(events=self.events, failure_policy=self._policy)
        return empty if answer is None else answer

    async def _handle(self, method: str, request: Message) -> Message | None:
        handler: Any = getattr(self._plugin, method, None)
        if handler is None:
            if method in {call.method for call in calls.EVENTS} | {"StateChange"}:
                raise Unimplemented(f"{method}: this plugin has no such method")
            return None
        try:
            answer: Message | None = handler(request)
            if inspect.isawaitable(answer):
                answer = await answer
        except OrlopError:
            raise
        except Exception as error:  # whatever it is, it is the call's answer
            raise Internal(f"{type(error).__name__}: {error}") from error
        return answer
