"""Ends what an aborted test run leaves: monitors outlive whoever started them, and so do their containers.

A process beside the tests. They write it "PID START-TIME" of each monitor and container, a line each; when the pipe ends, because the tests have
ended in whatever way, what is still that process is killed with all its descendants. Test: tests/kernel/monitor/test_guard.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat; 0 when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def end(known: list[tuple[int, int]]) -> None:
    alive = [pid for pid, started in known if start_time(pid) == started]
    below = [child for pid in alive for child in descendants(pid)]
    for pid in (*alive, *below):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@cache
def guard() -> subprocess.Popen[str]:
    """The guard of this process, started when it is first needed."""
    return subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )


def watch_over(pid: int, started: int) -> None:
    pipe = guard().stdin
    assert pipe is not None
    pipe.write(f"{pid} {started}\n")
    pipe.flush()


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    known = []
    for line in sys.stdin:
        pid, started = line.split()
        known.append((int(pid), int(started)))
    end(known)


if __name__ == "__main__":
    main()
