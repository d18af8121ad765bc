"""Work that several callers want is done once; it goes on as long as one of them waits, and is cancelled with the last.

Unlike keylock.Joiner, which finishes whatever was begun, this is for work that only matters to those who wait for it:
a pull whose callers have all hung up must not download on. Test: tests/unit/base/test_sharedwork.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """How the work ended. An error is a value here: it belongs to those who wait, not to the task's owner."""

    value: T | None
    error: Exception | None


class SharedWork(Generic[T]):
    """Runs work once a key at a time for all who ask meanwhile."""

    def __init__(self, spawn: Callable[[str, Coroutine[Any, Any, Any]], asyncio.Task[Any]]) -> None:
        self._spawn = spawn
        self._running: dict[str, tuple[asyncio.Task[_Outcome[T]], int]] = {}

    def is_running(self, key: str) -> bool:
        return key in self._running

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the work's result; when the last waiter is cancelled so is the work, and it has ended on return."""
        task, waiters = self._running.get(key, (None, 0))
        while task is not None and task.cancelling():
            # The last waiter has left: its work is being undone, and must be over before the key is used again.
            await asyncio.wait([task])
            task, waiters = self._running.get(key, (None, 0))
        if task is None:
            task = self._spawn(key, _ended(work()))
            task.add_done_callback(lambda done: self._forget(key, done))
        self._running[key] = (task, waiters + 1)
        try:
            outcome = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                current, waiters = self._running[key]
                self._running[key] = (current, waiters - 1)
                if waiters == 1:
                    task.cancel()
                    await asyncio.wait([task])
            raise
        if outcome.error is not None:
            raise outcome.error
        return cast(T, outcome.value)

    def _forget(self, key: str, task: asyncio.Task[_Outcome[T]]) -> None:
        if self._running.get(key, (None, 0))[0] is task:
            del self._running[key]


async def _ended(work: Coroutine[Any, Any, T]) -> _Outcome[T]:
    try:
        return _Outcome(await work, None)
    except Exception as error:  # noqa: BLE001 - handed on to every waiter
        return _Outcome(None, error)
