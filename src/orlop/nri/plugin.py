"""One plugin: its handshake, its subscription, and calls that end in time.

    connected -> RegisterPlugin (its call) -> Configure -> Synchronize -> in the list (plugins.py) -> cut off, or gone

A plugin that does not answer in time, breaks the protocol or goes away is cut off: the call that met it goes on as if it had never
been there, unless the plugin's own failure policy says otherwise. One that answers with an error makes the call fail.
Test: tests/unit/nri/test_plugins.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from orlop import __version__
from orlop.base import limits
from orlop.base.errors import (
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    OrlopError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from orlop.base.supervise import Supervisor
from orlop.nri import calls, ttrpc
from orlop.nri.calls import Call
from orlop.nri.connection import Connection
from orlop.specs.nri_gen import nri_pb2 as nri

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
RUNTIME_NAME: Final = "orlop"
_NAME: Final = re.compile(r"[A-Za-z0-9_.+-]{1,255}")
_INDEX: Final = re.compile(r"[0-9]{2}")
# Room for the envelope around a Synchronize request.
_ENVELOPE_BYTES: Final = 4096

OnUpdate = Callable[["Plugin", nri.UpdateContainersRequest], Awaitable[nri.UpdateContainersResponse]]


class PluginFailed(Aborted):
    """A plugin answered a call with an error."""


def check_identity(index: str, base: str) -> None:
    """Raise InvalidArgument for what can't be a plugin's index and name."""
    if not _INDEX.fullmatch(index):
        raise InvalidArgument(f"nri plugin: index {index[:80]!r} is not two digits")
    if not _NAME.fullmatch(base):
        raise InvalidArgument(
            f"nri plugin: name {base[:80]!r} is empty or has characters beyond letters, digits and _.+-"
        )


class Plugin:
    """A plugin at the other end of ``connection``; made before it has said who it is, unless the daemon started it."""

    def __init__(
        self,
        supervisor: Supervisor,
        on_update: OnUpdate,
        *,
        registration_seconds: float,
        request_seconds: float,
        index: str = "",
        base: str = "",
        config: str = "",
    ) -> None:
        self.index = index
        self.base = base
        self.launched = bool(index)
        self.version = ""
        self.events = 0
        self._settled = asyncio.Event()
        """The plugin has said who it is, or has gone."""
        self.connection = Connection(self._serve, supervisor, on_closed=self._gone)
        self._on_update = on_update
        self._config = config
        self._registration_seconds = registration_seconds
        self._request_seconds = request_seconds
        self._registered = False
        self._legacy = False
        self._policy = nri.FailurePolicy()
        # Plugins are written for one call at a time.
        self._turn = asyncio.Lock()

        self._on_gone: Callable[[], None] | None = None

    def on_gone(self, act: Callable[[], None]) -> None:
        """Have ``act`` called once the connection is gone; at once when it is."""
        self._on_gone = act
        if self.closed:
            act()

    def _gone(self) -> None:
        self._settled.set()
        if self._on_gone is not None:
            self._on_gone()

    @property
    def name(self) -> str:
        return f"{self.index}-{self.base}" if self.index else "(not registered)"

    @property
    def closed(self) -> bool:
        return self.connection.closed.is_set()

    def wants(self, call: Call) -> bool:
        return bool(self.events & call.bit)

    def close(self, reason: str) -> None:
        """Cut the plugin off."""
        if not self.closed:
            log.warning("nri plugin %s: %s: cut off", self.name, reason)
            self.connection.close(reason)

    # the handshake

    async def register(self) -> None:
        """Wait for the plugin's name, then configure it. Raises what the plugin did wrong; the caller closes it."""
        try:
            await asyncio.wait_for(self._settled.wait(), self._registration_seconds)
        except TimeoutError:
            raise DeadlineExceeded(
                f"nri plugin {self.name}: did not register within {self._registration_seconds:g}s"
            ) from None
        if self.closed:
            raise Unavailable(f"nri plugin {self.name}: went before it had registered")
        request = nri.ConfigureRequest(
            config=self._config,
            runtime_name=RUNTIME_NAME,
            runtime_version=f"v{__version__}",
            registration_timeout=int(self._registration_seconds * 1000),
            request_timeout=int(self._request_seconds * 1000),
            NRI_version=calls.VERSION,
        )
        answer = await self._call("Configure", request, nri.ConfigureResponse, self._request_seconds)
        if unknown := answer.events & ~calls.ALL_EVENTS:
            raise InvalidArgument(f"nri plugin {self.name}: subscribes to unknown events {unknown:#x}")
        self.events = answer.events or calls.ALL_EVENTS
        self._policy = answer.failure_policy

    async def synchronize(
        self, pods: Sequence[nri.PodSandbox], containers: Sequence[nri.Container]
    ) -> list[nri.ContainerUpdate]:
        """Tell the plugin all that there is, in as many messages as it takes; return the updates that it asks for.

        Belongs to the registration, and has its time, for all messages together.
        """
        deadline = asyncio.get_running_loop().time() + max(self._registration_seconds, self._request_seconds)
        requests = split(pods, containers)
        updates: list[nri.ContainerUpdate] = []
        for request in requests:
            left = max(0.001, deadline - asyncio.get_running_loop().time())
            answer = await self._call("Synchronize", request, nri.SynchronizeResponse, left)
            if request.more and (answer.update or not answer.more):
                raise Unimplemented(
                    f"nri plugin {self.name}: does not understand a split Synchronize, and one message is not enough"
                )
            updates = list(answer.update)
        return updates

    # events

    async def ask(self, call: Call, request: Message) -> Message | None:
        """Make a call; None when the plugin has not subscribed to it, or was cut off over it.

        Raises PluginFailed with the error that it answered with; and for what was to be None when its policy is that such calls fail.
        """
        if not self.wants(call) or self.closed:
            return None
        async with self._turn:
            if self.closed:  # over another call, while this one waited for its turn
                return None
            try:
                return await self._ask(call, request)
            except (Unavailable, DeadlineExceeded, Internal) as error:
                if isinstance(error, DeadlineExceeded) and self._policy.keep_connected:
                    log.warning("nri plugin %s: %s: kept, as it asked for", self.name, error)
                else:
                    self.close(str(error))
                if self._policy.fail_request:
                    raise PluginFailed(f"nri plugin {self.name}: {call.method}: {error}") from error
                return None
            except ttrpc.CallRefused as error:
                raise PluginFailed(f"nri plugin {self.name}: {call.method}: {error}") from error

    async def _ask(self, call: Call, request: Message) -> Message:
        if not (self._legacy and call.legacy):
            try:
                answer: Message = await self._call(call.method, request, call.answer, self._request_seconds)
            except ttrpc.CallRefused as error:
                if error.status != ttrpc.UNIMPLEMENTED or not call.legacy:
                    raise
                log.info("nri plugin %s: is of an old version, it hears of events through StateChange", self.name)
                self._legacy = True
            else:
                return answer
        event = nri.StateChangeEvent(pod=request.pod)  # type: ignore[attr-defined]
        event.event = call.event  # type: ignore[assignment]
        if "container" in request.DESCRIPTOR.fields_by_name:
            event.container.CopyFrom(request.container)  # type: ignore[attr-defined]
        await self._call("StateChange", event, nri.Empty, self._request_seconds)
        made: Message = call.answer()
        return made

    async def shut_down(self, seconds: float) -> None:
        """Say that the runtime ends, then hang up. A plugin that knows no Shutdown, or is slow, just sees the end of the connection."""
        if self.closed:
            return
        try:
            await self._call("Shutdown", nri.Empty(), nri.Empty, seconds)
        except OrlopError as error:
            log.debug("nri plugin %s: shutdown: %s", self.name, error)
        self.connection.close("the runtime ends")

    async def _call(self, method: str, request: Message, answer: type[M], seconds: float) -> M:
        try:
            return await self.connection.call(calls.PLUGIN_SERVICE, method, request, answer, seconds)
        except ResourceExhausted as error:
            raise FailedPrecondition(f"nri plugin {self.name}: {method}: {error}") from error

    # what the plugin calls

    async def _serve(self, service: str, method: str, payload: bytes) -> Message:
        if service != calls.RUNTIME_SERVICE:
            raise Unimplemented(f"service {service}: not served here")
        if method == "RegisterPlugin":
            return self._take_registration(nri.RegisterPluginRequest.FromString(payload))
        if method == "UpdateContainers":
            if not self._registered:
                raise FailedPrecondition("UpdateContainers: register first")
            return await self._on_update(self, nri.UpdateContainersRequest.FromString(payload))
        raise Unimplemented(f"method {method}: not served here")

    def _take_registration(self, request: nri.RegisterPluginRequest) -> Message:
        if self._registered:
            raise FailedPrecondition(f"nri plugin {self.name}: is registered already")
        if not self.launched:
            # One that the daemon started has its name from its file.
            check_identity(request.plugin_idx, request.plugin_name)
            self.index, self.base = request.plugin_idx, request.plugin_name
        self.version = request.NRI_version
        self._registered = True
        self._settled.set()
        return nri.Empty()


def split(pods: Sequence[nri.PodSandbox], containers: Sequence[nri.Container]) -> list[nri.SynchronizeRequest]:
    """Return the requests that carry everything, each small enough for a message. Raises FailedPrecondition for an object that alone is not."""
    limit = limits.TTRPC_MESSAGE_BYTES - _ENVELOPE_BYTES
    requests = [nri.SynchronizeRequest()]
    size = 0
    for field, objects in (("pods", pods), ("containers", containers)):
        for each in objects:
            length = each.ByteSize() + 8
            if length > limit:
                raise FailedPrecondition(f"{each.id}: is too large for an NRI message ({length} bytes)")
            if size + length > limit:
                requests[-1].more = True
                requests.append(nri.SynchronizeRequest())
                size = 0
            getattr(requests[-1], field).append(each)
            size += length
    return requests
