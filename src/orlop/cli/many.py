"""Do the same with several names: each that succeeds is printed, each that fails is said, and the exit code tells of a failure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from orlop.base.errors import OrlopError


def each(word: str, names: Sequence[str], act: Callable[[str], object]) -> int:
    """Call ``act`` with each name; print the name, or what ``act`` returned if that is text."""
    failed = 0
    for name in names:
        try:
            said = act(name)
        except OrlopError as error:
            print(f"orlop {word}: {error}", file=sys.stderr)
            failed = 1
        else:
            print(said if isinstance(said, str) else name)
    return failed
