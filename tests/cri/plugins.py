"""An NRI plugin inside the test: the project's own stub on a thread of its own, recording what it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orlop.nri.stub import Stub
from orlop.specs.nri_gen import nri_pb2 as nri

WAIT_SECONDS = 30.0
EVENTS = (
    "RunPodSandbox",
    "UpdatePodSandbox",
    "PostUpdatePodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "PostCreateContainer",
    "StartContainer",
    "PostStartContainer",
    "UpdateContainer",
    "PostUpdateContainer",
    "StopContainer",
    "RemoveContainer",
)
Handler = Callable[[Any], Any]


class Handlers:
    """What the plugin does: records every event, then what the test has put in for it."""

    def __init__(self, **handlers: Handler) -> None:
        self.events: list[tuple[str, Any]] = []
        self.synchronized: list[nri.SynchronizeRequest] = []
        self.handlers = handlers
        if "ValidateContainerAdjustment" in handlers:
            self.ValidateContainerAdjustment = handlers["ValidateContainerAdjustment"]
        for name in EVENTS:
            setattr(self, name, self._recording(name))

    def _recording(self, name: str) -> Handler:
        def handle(request: Any) -> Any:
            self.events.append((name, request))
            handler = self.handlers.get(name)
            return None if handler is None else handler(request)

        return handle

    def Synchronize(self, request: nri.SynchronizeRequest) -> Any:
        self.synchronized.append(request)
        handler = self.handlers.get("Synchronize")
        return None if handler is None else handler(request)

    def names(self, identity: str = "") -> list[str]:
        """The events' names in order; with an id only those of that pod or container."""
        return [
            name
            for name, request in self.events
            if not identity or identity in (request.pod.id, getattr(getattr(request, "container", None), "id", ""))
        ]


class Plugin:
    """A connected plugin; ``with`` waits until it has been synchronized, and hangs up in the end."""

    def __init__(self, path: Path, index: str = "10", base: str = "test", **handlers: Handler) -> None:
        self.handlers = Handlers(**handlers)
        self._path = path
        self._index = index
        self._base = base
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stub: Stub | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        given = self.handlers.handlers.get("Synchronize")

        def synchronize(request: nri.SynchronizeRequest) -> Any:
            answer = None if given is None else given(request)
            self._ready.set()
            return answer

        self.handlers.handlers["Synchronize"] = synchronize

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stub = Stub(self.handlers, index=self._index, base=self._base, path=self._path)
            await self._stub.run()

        try:
            asyncio.run(serve())
        except BaseException as error:  # handed to the test's thread
            self._error = error
        finally:
            self._ready.set()

    def start(self) -> Plugin:
        self._thread.start()
        return self

    def wait_ready(self) -> Plugin:
        assert self._ready.wait(WAIT_SECONDS), "the plugin was not synchronized"
        if self._error is not None:
            raise self._error
        return self

    def __enter__(self) -> Plugin:
        return self.start().wait_ready()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stub(self) -> Stub:
        assert self._stub is not None
        return self._stub

    def update(
        self, updates: list[nri.ContainerUpdate], evictions: tuple[nri.ContainerEviction, ...] = ()
    ) -> list[nri.ContainerUpdate]:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(self.stub.update(updates, evictions), self._loop)
        return future.result(WAIT_SECONDS)

    def closed(self) -> bool:
        """Wait until the runtime has hung up."""
        self._thread.join(WAIT_SECONDS)
        return not self._thread.is_alive()

    def close(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.stub.connection.close, "the test is over")
        self._thread.join(WAIT_SECONDS)
