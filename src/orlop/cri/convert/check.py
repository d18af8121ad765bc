"""Checks of single values of a request: each returns the value or raises InvalidArgument that begins with the field's path.

Test: tests/unit/cri/test_convert.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Final, TypeVar

from orlop.base import limits
from orlop.base.errors import InvalidArgument

E = TypeVar("E", bound=IntEnum)

ID_MAX: Final = 0xFFFF_FFFE
"""The last uid or gid; the kernel keeps 0xffffffff for "no change"."""
LONG: Final = (1 << 63) - 1


def text(value: str, field: str, *, maximum: int = limits.ANNOTATION_BYTES, lines: bool = False) -> str:
    """Check one string: no NUL, no newline unless ``lines``, not longer than ``maximum`` bytes."""
    if "\0" in value:
        raise InvalidArgument(f"{field}: contains a NUL character")
    if not lines and ("\n" in value or "\r" in value):
        raise InvalidArgument(f"{field}: contains a line break")
    if len(value) > maximum or len(value.encode()) > maximum:
        raise InvalidArgument(f"{field}: is longer than {maximum} bytes")
    return value


def path(value: str, field: str) -> str:
    """Check a path: a file name may hold a newline, so only NUL and length are refused."""
    return text(value, field, maximum=4096, lines=True)


def name(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(f"{field}: is empty")
    return text(value, field, maximum=limits.NAME_BYTES)


def texts(values: Iterable[str], field: str, check: Callable[[str, str], str] = text) -> tuple[str, ...]:
    return tuple(check(value, f"{field}[{index}]") for index, value in enumerate(values))


def any_text(value: str, field: str) -> str:
    return text(value, field, lines=True)


def word(value: str, field: str) -> str:
    refuse(len(value.split()) != 1, field, f"{value!r} is not one word")
    return text(value, field, maximum=limits.NAME_BYTES)


def labels(values: Mapping[str, str], field: str, maximum: int) -> dict[str, str]:
    """Check only the size: labels and annotations are the caller's and are given back unaltered."""
    if not values:
        return {}
    found = dict(values)
    if sum(len(key.encode()) + len(value.encode()) for key, value in found.items()) > maximum:
        raise InvalidArgument(f"{field}: are larger than {maximum} bytes together")
    return found


def member(kind: type[E], value: int, field: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise InvalidArgument(f"{field}: {value} is not a {kind.__name__} that CRI knows") from None


def within(value: int, field: str, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgument(f"{field}: {value} is not between {low} and {high}")
    return value


def refuse(given: bool, field: str, reason: str) -> None:
    if given:
        raise InvalidArgument(f"{field}: {reason}")
