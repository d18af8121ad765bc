"""JSON from outside, read so that no two readers can disagree about it: size, depth, one value a key, no NaN.

A document that gives a key twice means one thing to one parser and another to the next (manifest confusion); it is
refused. Knows no document type. Test: tests/unit/specs/test_strict_json.py.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument, ResourceExhausted

T = TypeVar("T")


def read_json(data: bytes, *, limit: int, subject: str) -> Any:
    """Return the value; raises ResourceExhausted (longer or deeper than the limit) or InvalidArgument (not JSON)."""
    if len(data) > limit:
        raise ResourceExhausted(f"{subject}: {len(data)} bytes are more than the limit of {limit}")
    try:
        # Decoded here, because json takes surrogates and UTF-16 from bytes; and half a pair may still come as an escape.
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if b"\\ud" in data or b"\\uD" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ResourceExhausted(f"{subject}: JSON is nested deeper than {limits.JSON_DEPTH}") from error
    except ValueError as error:
        raise InvalidArgument(f"{subject}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"{subject}: is not a JSON object")
    _check_depth(value, subject)
    return value


def parse_json(data: bytes, kind: type[T], *, limit: int, subject: str) -> T:
    """Return the document as ``kind``; raises as read_json does, and InvalidArgument for a field of the wrong type."""
    return convert(read_json(data, limit=limit, subject=subject), kind, subject=subject)


def convert(value: Any, kind: type[T], *, subject: str) -> T:
    """Turn a value that was read into ``kind``; raises InvalidArgument naming the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{subject}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} is given twice")
            seen.add(key)
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: Any, subject: str) -> None:
    level: list[Any] = [value]
    for _ in range(limits.JSON_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ResourceExhausted(f"{subject}: JSON is nested deeper than {limits.JSON_DEPTH}")
