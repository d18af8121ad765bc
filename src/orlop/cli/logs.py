"""orlop logs: reads the CRI log file itself, because the daemon has no part in logs. Test: tests/unit/cli/test_logs.py.

A line of the file is ``TIME STREAM TAG TEXT``; tag P means that the line goes on in the next record of its stream, F that it ends.
Following waits for the file to grow or to be replaced (rotation), and ends when the container has.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from orlop.base.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.cli import units
from orlop.cli.client import Client
from orlop.cli.find import find_container
from orlop.specs.cri_gen import api_pb2 as pb

POLL_SECONDS: Final = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("container", metavar="CONTAINER")
    add("-f", "--follow", action="store_true", help="go on until the container has ended")
    add("-n", "--tail", default="all", metavar="N", help="only the last N lines")
    add("--since", default="", metavar="TIME", help="only lines since a time, or a duration such as 10m ago")
    add("--until", default="", metavar="TIME", help="only lines before a time, or a duration ago")
    add("-t", "--timestamps", action="store_true", help="show when each line was written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a log file."""

    time: bytes
    stream: bytes
    whole: bool
    text: bytes


def run(options: argparse.Namespace) -> int:
    since = units.timestamp(units.parse_time(options.since, "--since")).encode() if options.since else b""
    until = units.timestamp(units.parse_time(options.until, "--until")).encode() if options.until else b""
    if options.tail != "all" and not options.tail.isdigit():
        raise InvalidArgument(f"--tail: {options.tail!r} is not a number")
    with Client(options.address) as client:
        container = find_container(client, options.container)
        path = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container.id)).status.log_path
        if not path:
            raise FailedPrecondition(f"container {container.id[:12]}: has no log file")
        printer = Printer(since=since, until=until, timestamps=options.timestamps)
        try:
            with open(path, "rb") as file:
                records = parse_lines(file)
                for record in records if options.tail == "all" else last_lines(records, int(options.tail)):
                    printer.put(record)
                if options.follow:
                    follow(lambda: _may_write(client, container.id), path, file, printer)
        except FileNotFoundError:
            raise NotFound(f"container {container.id[:12]}: its log {path} is gone") from None
        printer.end()
    return 0


def parse_lines(lines: BinaryIO | Iterator[bytes]) -> Iterator[Record]:
    """Yield the records of lines; one that is not a record (a crash of the whole machine) is shown as it is."""
    for line in lines:
        parts = line.rstrip(b"\n").split(b" ", 3)
        if len(parts) == 4 and parts[1] in (b"stdout", b"stderr"):
            yield Record(time=parts[0], stream=parts[1], whole=not parts[2].startswith(b"P"), text=parts[3])
        elif len(parts) == 3 and parts[1] in (b"stdout", b"stderr"):
            yield Record(time=parts[0], stream=parts[1], whole=not parts[2].startswith(b"P"), text=b"")
        else:
            yield Record(time=b"", stream=b"stdout", whole=True, text=line.rstrip(b"\n"))


def last_lines(records: Iterator[Record], count: int) -> Iterator[Record]:
    """Yield the records of the last ``count`` whole lines, with the pieces of each."""
    kept: deque[list[Record]] = deque(maxlen=count)
    pieces: dict[bytes, list[Record]] = {}
    for record in records:
        line = pieces.pop(record.stream, None)
        if line is None:
            line = []
            kept.append(line)
        line.append(record)
        if not record.whole:
            pieces[record.stream] = line
    for line in kept:
        yield from line


class Printer:
    """Puts pieces of lines together and writes each stream to its own."""

    def __init__(self, *, since: bytes, until: bytes, timestamps: bool) -> None:
        self._since, self._until, self._timestamps = since, until, timestamps
        self._open = {b"stdout": False, b"stderr": False}
        self._out = {b"stdout": sys.stdout.buffer, b"stderr": sys.stderr.buffer}

    def put(self, record: Record) -> None:
        # RFC 3339 in UTC with nanoseconds sorts as text.
        if record.time and (record.time < self._since or (self._until and record.time >= self._until)):
            return
        out = self._out[record.stream]
        if self._timestamps and not self._open[record.stream] and record.time:
            out.write(record.time + b" ")
        out.write(record.text + (b"\n" if record.whole else b""))
        self._open[record.stream] = not record.whole

    def flush(self) -> None:
        for out in self._out.values():
            out.flush()

    def end(self) -> None:
        self.flush()


def follow(
    may_write: Callable[[], bool], path: str, file: BinaryIO, printer: Printer, seconds: float = POLL_SECONDS
) -> None:
    """Print what is written from now on. Whether more may come is asked before each look at the file, so the last words are not missed."""
    held = b""
    while True:
        more = may_write()
        while chunk := file.read(1 << 20):
            *lines, held = (held + chunk).split(b"\n")
            for record in parse_lines(iter(lines)):
                printer.put(record)
        printer.flush()
        if replaced(path, file):
            with open(path, "rb") as later:
                follow(may_write, path, later, printer, seconds)
            return
        if not more:
            return
        time.sleep(seconds)


def replaced(path: str, file: BinaryIO) -> bool:
    """Whether another file stands at the path: the log was rotated."""
    try:
        now, then = os.stat(path), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)


def _may_write(client: Client, container_id: str) -> bool:
    try:
        status = client.runtime.ContainerStatus(pb.ContainerStatusRequest(container_id=container_id)).status
    except NotFound:
        return False
    return status.state in (pb.CONTAINER_RUNNING, pb.CONTAINER_CREATED)
