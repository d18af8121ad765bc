"""Tokens of streaming URLs: each opens one session, once, within a minute; the only secret there is.

Kept by digest, so that how long a look-up takes says nothing about a token. Test: tests/unit/streamserver/test_tokens.py.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from orlop.base import limits
from orlop.base.errors import ResourceExhausted

TOKEN_BYTES = 24
T = TypeVar("T")


class Tokens(Generic[T]):
    """What was promised under each token."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._promised: dict[bytes, tuple[float, T]] = {}

    def issue(self, promise: T) -> str:
        """Return a new token. Raises ResourceExhausted while too many wait to be used."""
        self._expire()
        if len(self._promised) >= limits.STREAM_TOKENS:
            raise ResourceExhausted(f"streaming: {len(self._promised)} sessions have been asked for and not begun yet")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._promised[_digest(token)] = (self._now() + limits.STREAM_TOKEN_SECONDS, promise)
        return token

    def redeem(self, token: str) -> T | None:
        """Return what was promised, once; None for a token that is unknown, used or too old."""
        self._expire()
        found = self._promised.pop(_digest(token), None)
        return None if found is None else found[1]

    def _expire(self) -> None:
        # All live equally long: the oldest stand first.
        now = self._now()
        for digest, (until, _) in tuple(self._promised.items()):
            if until > now:
                break
            del self._promised[digest]

    def __len__(self) -> int:
        return len(self._promised)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
