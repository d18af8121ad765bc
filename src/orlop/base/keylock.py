"""Per-key locks and join-by-name: a retry of a call that still runs meets that call and gets its result.

kubelet repeats RunPodSandbox and CreateContainer when its own deadline ends; answering "name is reserved" would make it
loop. ``Joiner.run`` shields the work from the first caller's cancellation: a client that hung up does not undo a pod.
Test: tests/unit/base/test_keylock.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar, cast

from orlop.base.supervise import Supervisor

log = logging.getLogger(__name__)
T = TypeVar("T")


class KeyLock:
    """One asyncio lock a key, dropped when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (None, 0))
        if lock is None:
            lock = asyncio.Lock()
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class Joiner(Generic[T]):
    """Runs work once a key at a time; later callers with the key await the same result.

    The work is shielded from its callers' cancellation. A caller that has gone finds what was made by its name, when it tries again.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._running: dict[str, asyncio.Task[tuple[T | None, Exception | None]]] = {}
        self._callers: dict[str, int] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = self._running.get(key)
        if task is None:
            task = self._supervisor.spawn(key, _settled(work()))
            self._running[key] = task
            self._callers[key] = 0
            task.add_done_callback(lambda done: self._ended(key, done))
        self._callers[key] += 1
        try:
            result, error = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._callers[key] -= 1
            raise
        if error is not None:
            raise error
        return cast(T, result)

    def _ended(self, key: str, task: asyncio.Task[tuple[T | None, Exception | None]]) -> None:
        del self._running[key]
        if self._callers.pop(key) > 0 or task.cancelled():
            return
        _, error = task.result()
        if error is not None:
            log.warning("%s failed after its callers had gone: %s", key, error)


async def _settled(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """A failure is a value here: it is its callers' to hear, and no defect of the task."""
    try:
        return await work, None
    except Exception as error:  # noqa: BLE001 - handed on to every caller
        return None, error
