"""The only place that makes asyncio tasks: a task that outlives its function has a name and an owner.

A supervised task that ends with an exception is logged with its name at once. Test: tests/unit/base/test_supervise.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


async def together(*work: Coroutine[Any, Any, object]) -> None:
    """Run coroutines at the same time until all have ended, then raise the first one's error, by their order.

    Unlike ``asyncio.gather``, which raises while the others still run: an undo must not meet work that is under way.
    """
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


class Supervisor:
    """Owns background tasks of one part; ``close`` cancels and awaits them all."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a named task owned here; returns the task so that the caller may await it."""
        task = asyncio.create_task(work, name=f"{self.owner}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s ended: %s", task.get_name(), error, exc_info=error)

    def statistics(self) -> dict[str, int]:
        return {"tasks": len(self._tasks)}

    async def close(self) -> None:
        """Cancel all tasks and wait until each has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
