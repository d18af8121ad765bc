"""How the daemon logs: one line a record on stderr, as text for people or as JSON for machines.

Under systemd each text line begins with its syslog priority, so that journalctl -p works. Nothing is written to files: rotation is
the journal's work. Test: tests/unit/daemon/test_logs.py.
"""

from __future__ import annotations

import logging
import os
import sys
import time

import msgspec

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z info cri.interceptors: StartContainer container=4f2a ms=2.1``."""

    def __init__(self, *, priorities: bool) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        # A message may quote what a client sent: a line break in it must not forge a record.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        if self._priorities:
            line = f"<{PRIORITIES.get(record.levelno, 6)}>{_name(record)}: {message}{extra}"
        else:
            line = f"{_timestamp(record)} {record.levelname.lower()} {_name(record)}: {message}{extra}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever the caller gave as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": _name(record),
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=str).decode()


def start_logging(level: str, form: str) -> None:
    """Send the records of the whole process to stderr; called once, before anything is constructed."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter() if form == "json" else TextFormatter(priorities="JOURNAL_STREAM" in os.environ)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The debug lines of asyncio and grpc say nothing about containers.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("grpc").setLevel(logging.WARNING)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in KNOWN}


def _name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("orlop.")


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
