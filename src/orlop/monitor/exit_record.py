"""Exit records: what a monitor writes when a container's init has ended, before it tells anybody. Test: tests/unit/monitor/test_exit_record.py.

Text, one ``key=value`` a line (docs/native-protocol.md): written to a temporary name and renamed, so a reader sees all of it or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orlop.base.errors import DataLoss
from orlop.base.limits import EXIT_RECORD_BYTES

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
    lines = text.split("\n")
    pairs = [line.partition("=") for line in lines[:-1]]
    if lines[-1] or tuple(key for key, _, _ in pairs) != KEYS:
        raise DataLoss(f"exit record {source}: is not {len(KEYS)} lines {' '.join(KEYS)}")
    values = {key: value for key, _, value in pairs}
    numbers: dict[str, int] = {}
    for key in KEYS[1:]:
        if not (values[key].isascii() and values[key].isdecimal()):
            raise DataLoss(f"exit record {source}: {key}={values[key]!r} is no number")
        numbers[key] = int(values[key])
    if not values["id"] or numbers["oom_killed"] > 1:
        raise DataLoss(f"exit record {source}: no id, or oom_killed is not 0 or 1")
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
        with path.open("rb") as file:
            data = file.read(EXIT_RECORD_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > EXIT_RECORD_BYTES or not data.isascii():
        raise DataLoss(f"exit record {path}: longer than {EXIT_RECORD_BYTES} bytes, or not ASCII")
    record = parse_exit_record(data.decode("ascii"), str(path))
    if path.name != f"{record.id}.exit":
        raise DataLoss(f"exit record {path}: is about {record.id}")
    return record
