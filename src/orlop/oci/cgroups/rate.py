"""CPU use per second from successive readings of a counter. Pure but for what it remembers. Test: tests/unit/oci/cgroups/test_rate.py."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_NS: Final = 1_000_000_000
KEEP_NS: Final = 120_000_000_000
_NS: Final = 1_000_000_000


def usage_nano_cores(older: tuple[int, int], newer: tuple[int, int]) -> int | None:
    """Return nanoseconds of CPU a second between two (timestamp, usage); None if the clock stood or the counter went back."""
    elapsed, used = newer[0] - older[0], newer[1] - older[1]
    return used * _NS // elapsed if elapsed > 0 and used >= 0 else None


class CpuRates:
    """The last readings of each cgroup. Readings closer together than a second are measured against the one before them."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: dict[str, deque[tuple[int, int]]] = {}

    def rate(self, key: str, timestamp: int, usage: int) -> int | None:
        """Take a reading (ns, ns) and return the rate up to it; None for the first and after a counter that went back."""
        samples = self._samples.setdefault(key, deque())
        newest = (timestamp, usage)
        if samples and (usage < samples[-1][1] or timestamp < samples[-1][0]):
            samples.clear()  # another cgroup under the same name, or the clock was set
        while samples and timestamp - samples[0][0] > KEEP_NS:
            samples.popleft()
        # The youngest reading that is a window old, else the oldest there is.
        while len(samples) > 1 and timestamp - samples[1][0] >= WINDOW_NS:
            samples.popleft()
        result = usage_nano_cores(samples[0], newest) if samples else None
        if not samples or timestamp - samples[-1][0] >= WINDOW_NS // 10:
            samples.append(newest)
        return result

    def forget(self, key: str) -> None:
        """Drop what is known of a cgroup."""
        self._samples.pop(key, None)
