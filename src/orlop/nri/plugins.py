"""All plugins of this daemon, asked in the order of their indices; and the gate that keeps a new plugin's picture complete.

A plugin learns of what exists by Synchronize and of what comes by events. So that nothing falls between, whatever changes the set of pods
and containers runs inside ``operation()``; a new plugin waits until none runs, holds new ones back while it is synchronized, which has a
time limit, and is in the list when they go on. While no plugin is connected an operation costs a comparison and an addition.
Knows messages only: services/nri/ makes them and carries out what comes back. Test: tests/unit/nri/test_plugins.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import Message

from orlop.base import limits
from orlop.base.errors import OrlopError, PermissionDenied, Unavailable
from orlop.base.keylock import KeyLock
from orlop.base.supervise import Supervisor
from orlop.nri import calls
from orlop.nri.calls import Call
from orlop.nri.merge import CreateMerge, UpdateMerge
from orlop.nri.plugin import Plugin
from orlop.nri.rules import Rules
from orlop.nri.validator import validate
from orlop.specs.nri_gen import nri_pb2 as nri

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS: Final = 0.5


class Runtime(Protocol):
    """What plugins may know of and ask from the runtime."""

    def pods(self) -> Sequence[nri.PodSandbox]:
        """Return all sandboxes that are or were ready."""

    def containers(self) -> Sequence[nri.Container]:
        """Return all containers that are created or run."""

    async def update(self, updates: Sequence[nri.ContainerUpdate], plugin: str) -> list[nri.ContainerUpdate]:
        """Carry updates out; return those that failed and had to work."""

    def evict(self, evictions: Sequence[nri.ContainerEviction], plugin: str) -> None:
        """Stop containers, behind the caller's back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What plugins want of a new container and of others."""

    adjust: nri.ContainerAdjustment
    updates: Sequence[nri.ContainerUpdate]
    evictions: Sequence[nri.ContainerEviction]
    plugins: tuple[str, ...]
    """Those that adjusted something."""


class Plugins:
    """The connected plugins."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        registration_seconds: float = limits.NRI_REGISTRATION_SECONDS,
        request_seconds: float = limits.NRI_REQUEST_SECONDS,
        rules: Rules | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._registration_seconds = registration_seconds
        self._request_seconds = request_seconds
        self._rules = rules if rules is not None and rules.enable else None
        self._plugins: list[Plugin] = []
        self._joining: set[Plugin] = set()
        self._operations = 0
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._sync_turn = asyncio.Lock()
        self.runtime: Runtime | None = None
        self.order = KeyLock()
        """One lock a container: it starts before it ends, for plugins too."""
        self.exits: dict[str, asyncio.Task[None]] = {}
        """Containers whose end plugins are being told."""
        self.begun: set[str] = set()
        """Pods and containers that plugins were told of and that are not made yet."""

    @property
    def active(self) -> bool:
        """Whether any plugin is there: without one nobody need build messages."""
        return bool(self._plugins)

    @property
    def asks(self) -> bool:
        """Whether a new container must be asked about: also without a plugin, when there are rules."""
        return bool(self._plugins) or self._rules is not None

    @property
    def open(self) -> bool:
        """Whether no plugin is being synchronized now."""
        return self._open.is_set()

    def names(self) -> tuple[str, ...]:
        return tuple(plugin.name for plugin in self._plugins)

    # the gate

    @asynccontextmanager
    async def operation(self) -> AsyncIterator[None]:
        """Hold this around everything that adds a pod or container, or changes one: from the plugins' call to the row.

        Never one within another, and wait for no lock inside: its holder may be waiting to come in.
        """
        while not self._open.is_set():
            await self._open.wait()
        self._operations += 1
        try:
            yield
        finally:
            self._operations -= 1
            if not self._operations:
                self._idle.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._sync_turn:
            self._open.clear()
            try:
                async with asyncio.timeout(self._registration_seconds):
                    while self._operations:
                        self._idle.clear()
                        await self._idle.wait()
            except TimeoutError:
                self._open.set()
                raise Unavailable("nri: the runtime is busy; connect again") from None
            try:
                yield
            finally:
                self._open.set()

    # plugins come and go

    def new_plugin(self, *, index: str = "", base: str = "", config: str = "") -> Plugin:
        """Make the plugin for a connection that is about to be."""
        return Plugin(
            self._supervisor,
            self._update_unasked,
            registration_seconds=self._registration_seconds,
            request_seconds=self._request_seconds,
            index=index,
            base=base,
            config=config,
        )

    async def join(self, plugin: Plugin) -> bool:
        """Take a connected plugin through its handshake into the list; False, with the reason in the log, when it fails that."""
        if len(self._plugins) + len(self._joining) >= limits.NRI_PLUGINS:
            plugin.close(f"more than {limits.NRI_PLUGINS} plugins")
            return False
        self._joining.add(plugin)
        try:
            await plugin.register()
            async with self._alone():
                if self.runtime is None:
                    raise Unavailable("nri: the runtime is not ready")
                updates = await plugin.synchronize(self.runtime.pods(), self.runtime.containers())
                if plugin.closed:
                    raise Unavailable(f"nri plugin {plugin.name}: went while it was synchronized")
                self._plugins.append(plugin)
                self._plugins.sort(key=lambda each: each.index)
        except OrlopError as error:
            plugin.close(str(error))
            return False
        finally:
            self._joining.discard(plugin)
        self._supervisor.spawn(f"nri {plugin.name}", self._drop_when_closed(plugin))
        log.info("nri plugin %s: joined (version %s)", plugin.name, plugin.version or "not given")
        for failed in await self.runtime.update(updates, plugin.name):
            log.warning("nri plugin %s: update of container %s failed", plugin.name, failed.container_id)
        return True

    async def _drop_when_closed(self, plugin: Plugin) -> None:
        await plugin.connection.closed.wait()
        self._plugins = [each for each in self._plugins if each is not plugin]
        log.info("nri plugin %s: is gone", plugin.name)

    async def close(self) -> None:
        """Hang up on all plugins; for the daemon's end."""
        for plugin in tuple(self._joining):
            plugin.connection.close("the runtime ends")
        await asyncio.gather(*(plugin.shut_down(SHUTDOWN_SECONDS) for plugin in self._plugins))

    async def _update_unasked(
        self, plugin: Plugin, request: nri.UpdateContainersRequest
    ) -> nri.UpdateContainersResponse:
        if self.runtime is None:
            raise Unavailable("nri: the runtime is not ready")
        failed = await self.runtime.update(request.update, plugin.name)
        self.runtime.evict(request.evict, plugin.name)
        return nri.UpdateContainersResponse(failed=failed)

    # events

    async def tell(self, call: Call, request: Message) -> None:
        """Make a call that has no answer to all plugins in order. Raises PluginFailed with the first error, the later ones not asked."""
        for plugin in tuple(self._plugins):
            await plugin.ask(call, request)

    async def tell_all(self, call: Call, request: Message) -> None:
        """As tell, for what can't be refused: every plugin is told, an error goes into the log."""
        for plugin in tuple(self._plugins):
            await _logged(plugin.ask, call, request)

    async def create(self, pod: nri.PodSandbox, container: nri.Container) -> Creation:
        """Ask all plugins what they want of a new container, join it, have it validated.

        Raises PluginFailed, FailedPrecondition (two want the same), InvalidArgument, PermissionDenied (a validator rejects it).
        """
        pristine = nri.Container()
        pristine.CopyFrom(container)
        merge = CreateMerge(container)
        asked: list[Plugin] = []
        for plugin in tuple(self._plugins):
            answer = await plugin.ask(calls.CREATE, nri.CreateContainerRequest(pod=pod, container=container))
            if not plugin.closed and (answer is not None or not plugin.wants(calls.CREATE)):
                asked.append(plugin)  # one that was cut off, or late, was not there
            if isinstance(answer, nri.CreateContainerResponse):
                merge.add(answer, plugin.name)
        validators = [plugin for plugin in self._plugins if plugin.wants(calls.VALIDATE) and not plugin.closed]
        if validators or self._rules is not None:
            request = nri.ValidateContainerAdjustmentRequest(
                pod=pod,
                container=pristine,
                adjust=merge.adjust,
                update=merge.updates,
                owners=merge.owning_plugins(),
                plugins=[nri.PluginInstance(name=plugin.base, index=plugin.index) for plugin in asked],
            )
            if self._rules is not None:
                validate(self._rules, request)
            await asyncio.gather(*(self._validate(plugin, request) for plugin in validators))
        return Creation(
            adjust=merge.adjust, updates=merge.updates, evictions=merge.evictions, plugins=merge.owners.plugins()
        )

    async def _validate(self, plugin: Plugin, request: nri.ValidateContainerAdjustmentRequest) -> None:
        """A validator that can't be asked has not agreed."""
        answer = await plugin.ask(calls.VALIDATE, request)
        if not isinstance(answer, nri.ValidateContainerAdjustmentResponse):
            raise PermissionDenied(f"nri plugin {plugin.name}: was cut off before it had validated the adjustment")
        if answer.reject:
            reason = answer.reason or "no reason given"
            raise PermissionDenied(f"nri plugin {plugin.name}: rejects the adjustment: {reason}")

    async def update(self, pod: nri.PodSandbox, container: nri.Container, wanted: nri.LinuxResources) -> UpdateMerge:
        """Ask all plugins about an update; the result's ``wanted`` is what is to be done. Raises PluginFailed, FailedPrecondition."""
        merge = UpdateMerge(container.id, wanted)
        for plugin in tuple(self._plugins):
            request = nri.UpdateContainerRequest(pod=pod, container=container, linux_resources=merge.wanted)
            answer = await plugin.ask(calls.UPDATE, request)
            if isinstance(answer, nri.UpdateContainerResponse):
                merge.add(answer.update, plugin.name, answer.evict)
        return merge

    async def stopped(self, pod: nri.PodSandbox, container: nri.Container) -> UpdateMerge:
        """Tell all plugins that a container has stopped; return what they want of others. An error goes into the log."""
        merge = UpdateMerge()
        request = nri.StopContainerRequest(pod=pod, container=container)
        for plugin in tuple(self._plugins):
            answer = await _logged(plugin.ask, calls.STOP, request)
            if isinstance(answer, nri.StopContainerResponse):
                try:
                    merge.add(answer.update, plugin.name)
                except OrlopError as error:
                    log.warning("nri plugin %s: StopContainer: %s", plugin.name, error)
        return merge


async def _logged(
    ask: Callable[[Call, Message], Awaitable[Message | None]], call: Call, request: Message
) -> Message | None:
    """Losing the error is safe: what the call is about has happened, and the plugin that answered with it wrote it."""
    try:
        return await ask(call, request)
    except OrlopError as error:
        log.warning("%s", error)
        return None
