"""Figures that cost time to take: each is taken anew only when it is old in proportion to what it cost.

A layer with a million files is not walked every ten seconds, and one with ten files is. Test: tests/unit/base/test_paced.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

V = TypeVar("V")

REST: Final = 50
"""A figure is kept for as many times what it cost: so 2 % of one core is the most that one figure can take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Generic[V]):
    """A figure, when it was taken and how long that took (nanoseconds)."""

    value: V
    at: int
    cost: int


class Paced(Generic[V]):
    """The last figure of each key. Times are nanoseconds of one clock, the caller's."""

    __slots__ = ("_least", "_taken")

    def __init__(self, least: int) -> None:
        """``least``: younger than so many nanoseconds is never old."""
        self._least = least
        self._taken: dict[str, Taken[V]] = {}

    def fresh(self, key: str, now: int) -> Taken[V] | None:
        """Return the figure of a key, None when it is old or was never taken."""
        taken = self._taken.get(key)
        if taken is None:
            return None
        age = now - taken.at
        # A clock that was set back makes everything old.
        return taken if 0 <= age <= max(self._least, REST * taken.cost) else None

    def put(self, key: str, value: V, at: int, cost: int) -> Taken[V]:
        """Keep a figure that was just taken."""
        made = self._taken[key] = Taken(value=value, at=at, cost=cost)
        return made

    def forget(self, key: str) -> None:
        self._taken.pop(key, None)

    def __len__(self) -> int:
        return len(self._taken)
