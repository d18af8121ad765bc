"""An undo stack: each step registers its undo before it acts; a failure unwinds them in reverse, shielded from cancellation.

    async with Rollback("sandbox 4f2a") as undo:
        undo.push("network", lambda: network.detach(...))
        await network.attach(...)
        undo.commit()

If an undo itself fails the others still run; the failures are reported together as notes on the original error, and the
row that stays behind lets Stop/Remove try again. Test: tests/unit/base/test_rollback.py.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

log = logging.getLogger(__name__)

Undo = Callable[[], Awaitable[None] | None]
UNDO_SECONDS = 30.0


class Rollback:
    """Collects undos; runs them on exit from the ``async with`` unless ``commit`` was called."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._undos: list[tuple[str, Undo]] = []
        self._committed = False
        self.failures: list[str] = []

    def push(self, name: str, undo: Undo) -> None:
        """Register an undo under a name; call it before the step acts, because a step may fail half done."""
        self._undos.append((name, undo))

    def commit(self) -> None:
        """Keep what was made."""
        self._committed = True

    async def __aenter__(self) -> Rollback:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._committed:
            return
        await asyncio.shield(asyncio.ensure_future(self._unwind()))
        if error is not None:
            for failure in self.failures:
                error.add_note(failure)

    async def _unwind(self) -> None:
        while self._undos:
            name, undo = self._undos.pop()
            try:
                result = undo()
                if inspect.isawaitable(result):
                    await asyncio.wait_for(result, UNDO_SECONDS)
            except Exception as error:  # noqa: BLE001 - every undo must get its turn; the failure is kept and logged
                self.failures.append(f"undo {name} failed: {error}")
                log.error("%s: undo %s failed: %s", self.subject, name, error)
