"""What was made of an object, kept for as long as the object is the same one.

For rows that never change but are replaced: what is made of a row is right exactly as long as the row is that very object.
Forgetting needs no calls: when twice as many are kept as were alive at the last look, those whose key is gone are dropped.
Test: tests/unit/base/test_memo.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

S = TypeVar("S")
V = TypeVar("V")

SPARE: Final = 64


class MemoOf(Generic[S, V]):
    """One kept value a key, made by whoever asks."""

    __slots__ = ("_alive", "_kept", "_look_at")

    def __init__(self, alive: Callable[[str], bool]) -> None:
        self._alive = alive
        self._kept: dict[str, tuple[S, V]] = {}
        self._look_at = SPARE

    def of(self, key: str, source: S, make: Callable[[], V]) -> V:
        """Return what was made of ``source``, made anew only if it is not the object that was seen last under ``key``."""
        known = self._kept.get(key)
        if known is not None and known[0] is source:
            return known[1]
        made = make()
        self._kept[key] = (source, made)
        if len(self._kept) > self._look_at:
            self._kept = {name: each for name, each in self._kept.items() if self._alive(name)}
            self._look_at = 2 * len(self._kept) + SPARE
        return made

    def __len__(self) -> int:
        return len(self._kept)


class Memo(Generic[S, V]):
    """One kept value a key, always made in the same way."""

    __slots__ = ("_make", "_memo")

    def __init__(self, make: Callable[[S], V], alive: Callable[[str], bool]) -> None:
        self._make = make
        self._memo: MemoOf[S, V] = MemoOf(alive)

    def of(self, key: str, source: S) -> V:
        """Return what is made of ``source``, made anew only if it is not the object that was seen last under ``key``."""
        return self._memo.of(key, source, lambda: self._make(source))

    def __len__(self) -> int:
        return len(self._memo)
