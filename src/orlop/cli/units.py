"""Sizes, times and ages as people write and read them. Test: tests/unit/cli/test_units.py."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from orlop.base.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_size(text: str, option: str) -> int:
    """Return bytes of ``512m``, ``1.5g``, ``1024``: powers of 1024, as docker has it."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{option}: {text!r} is not a size such as 512m or 2g")
    return int(float(match[1]) * 1024 ** "bkmgt".index(match[2].lower() or "b"))


def parse_time(text: str, option: str) -> int:
    """Return nanoseconds since the epoch of ``10m`` (ago), ``2026-01-02T15:04:05Z`` or seconds since the epoch."""
    if re.fullmatch(r"\d{9,}(\.\d+)?", text):
        return int(float(text) * 1e9)
    match = _DURATION.fullmatch(text)
    if match is not None and text:
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return time.time_ns() - int((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1e9)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{option}: {text!r} is neither a time nor a duration such as 10m") from None
    return int((moment if moment.tzinfo else moment.astimezone()).timestamp() * 1e9)


def size(count: int) -> str:
    """Return decimal units with three digits, as docker shows sizes: 77.8MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"
        value /= 1000
    raise AssertionError


def memory(count: int) -> str:
    """Return binary units, as docker shows memory: 4.5MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.4g}{unit}"
        value /= 1024
    raise AssertionError


def age(nanoseconds: int, now: int | None = None) -> str:
    """Return how long ago a moment was: ``5 minutes``."""
    seconds = max(0, ((now or time.time_ns()) - nanoseconds) // 1_000_000_000)
    if seconds < 1:
        return "less than a second"
    for unit, length in (
        ("year", 31_536_000),
        ("month", 2_592_000),
        ("week", 604_800),
        ("day", 86400),
        ("hour", 3600),
        ("minute", 60),
    ):
        if seconds >= 2 * length or (unit in ("hour", "minute") and seconds >= length):
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds} second{'s' if seconds > 1 else ''}"


def timestamp(nanoseconds: int) -> str:
    """Return a moment as RFC 3339 with nanoseconds, or "" for none."""
    if not nanoseconds:
        return ""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"
