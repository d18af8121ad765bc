"""Resource limits of processes as people write them: ``nofile=1024:65536``, Docker's form. Parse only. Test: tests/unit/specs/test_ulimit.py."""

from __future__ import annotations

import re
from typing import Final

from orlop.specs.runtime import Rlimit

INFINITY: Final = 2**64 - 1
NAMES: Final = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)
_FORM: Final = re.compile(
    r"(?:RLIMIT_)?([a-z]+)=(\d{1,19}|-1|unlimited)(?::(\d{1,19}|-1|unlimited))?", re.ASCII | re.IGNORECASE
)


def parse_ulimit(text: str) -> Rlimit:
    """Return the limit of ``NAME=SOFT[:HARD]``; numbers, ``-1`` or ``unlimited``. Raises ValueError with the reason."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD]")
    name, soft, hard = match[1].lower(), _number(match[2]), _number(match[3] or match[2])
    if name not in NAMES:
        raise ValueError(f"{match[1]!r} is not one of {', '.join(NAMES)}")
    if soft > hard:
        raise ValueError(f"{text!r}: the soft limit is above the hard one")
    return Rlimit(type="RLIMIT_" + name.upper(), soft=soft, hard=hard)


def parse_ulimits(text: str) -> tuple[Rlimit, ...]:
    """Return the limits of a list with commas; each name once. Raises ValueError with the reason."""
    found: dict[str, Rlimit] = {}
    for part in text.split(","):
        limit = parse_ulimit(part.strip())
        if limit.type in found:
            raise ValueError(f"{ulimit_name(limit)!r} is given twice")
        found[limit.type] = limit
    return tuple(found.values())


def ulimit_name(limit: Rlimit) -> str:
    """Return the name that people write."""
    return limit.type.removeprefix("RLIMIT_").lower()


def _number(text: str) -> int:
    return INFINITY if text.lower() in ("-1", "unlimited") else int(text)
