"""Where the milliseconds of one operation went: named stages, measured with the monotonic clock. Test: tests/unit/base/test_stages.py."""

from __future__ import annotations

import time


class Stages:
    """Collects the duration of consecutive stages; ``mark(name)`` ends the stage that ran since the last mark."""

    __slots__ = ("_last", "milliseconds")

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.milliseconds: dict[str, float] = {}

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + round((now - self._last) * 1000, 3)
        self._last = now
