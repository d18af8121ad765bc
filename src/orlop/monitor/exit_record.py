"""Exit records: what a monitor writes when a container's init has ended, before it tells anybody. Test: tests/unit/monitor/test_exit_record.py.

Text, one ``key=value`` a line (docs/native-protocol.md): written to a temporary name and renamed, so a reader sees all of it or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orlop.base.errors import DataLoss

RECORD_BYTES = 4096
KEYS = ("id", "pid", "start_time", "exit_code", "signal", "oom_killed", "oom_kills", "finished_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    id: str
    pid: int
    start_time: int
    """Field 22 of /proc/<pid>/stat, in clock ticks since boot."""
    exit_code: int
    """128 + signal for a killed process."""
    signal: int
    oom_killed: bool
    oom_kills: int
    finished_ns: int
    """CLOCK_REALTIME."""


def parse_exit_record(text: str, source: str) -> ExitRecord:
    """Return the record; raises DataLoss naming the source and the key that is wrong."""
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    if tuple(values) != KEYS:
        raise DataLoss(f"exit record {source}: has keys {list(values)}, not {list(KEYS)}")
    numbers: dict[str, int] = {}
    for key in KEYS[1:]:
        if not values[key].isascii() or not values[key].isdigit():
            raise DataLoss(f"exit record {source}: {key}={values[key]!r} is no number")
        numbers[key] = int(values[key])
    return ExitRecord(
        id=values["id"],
        pid=numbers["pid"],
        start_time=numbers["start_time"],
        exit_code=numbers["exit_code"],
        signal=numbers["signal"],
        oom_killed=numbers["oom_killed"] != 0,
        oom_kills=numbers["oom_kills"],
        finished_ns=numbers["finished_ns"],
    )


def load_exit_record(path: Path) -> ExitRecord | None:
    """Return the record at a path, None when there is none yet. Raises DataLoss, OSError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_exit_record(file.read(RECORD_BYTES), str(path))
    except FileNotFoundError:
        return None
