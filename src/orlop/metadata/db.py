"""How a database file is opened, migrated and written: one connection, one writer, numbered migrations.

``synchronous="OFF"`` is for databases that need to survive the daemon but not the machine: a commit takes microseconds
and is made inline in the event loop. ``synchronous="FULL"`` survives power loss; its commits wait for the disk, so they
go through ``Writer``, a single thread that owns the order of writes. This module knows no table.
Test: tests/unit/metadata/test_db.py.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from orlop.base.errors import FailedPrecondition, Internal, ResourceExhausted

T = TypeVar("T")


def open_database(path: Path, migrations: Sequence[str], *, synchronous: Literal["FULL", "OFF"]) -> sqlite3.Connection:
    """Open or make a database in WAL mode, mode 0600, and bring it to ``len(migrations)`` (PRAGMA user_version).

    Each migration is a script and runs in one transaction with its version number; migrations that a release has
    shipped never change. The connection is in autocommit mode: use ``transaction`` for more than one statement. More
    than one thread may use it, one at a time. Raises FailedPrecondition for a database of a newer release, Internal for
    one that cannot be read.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=64, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            connection.close()
            raise FailedPrecondition(
                f"database {path}: schema version {version} is newer than the {len(migrations)} that this release knows"
            )
        for number, script in enumerate(migrations[version:], start=version + 1):
            # executescript commits what is open, so the transaction is part of the script.
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={number}; COMMIT;")
    except sqlite3.Error as error:
        raise Internal(f"database {path}: {error}") from error
    return connection


@contextmanager
def in_words(subject: str) -> Iterator[None]:
    """Turn what SQLite raises into ResourceExhausted (no space left) or Internal, with the subject and SQLite's own words."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        raise (ResourceExhausted if full else Internal)(f"{subject}: {error}") from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the body as one write transaction; an exception rolls it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        # On a full disk SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class Writer:
    """The one thread that writes a database whose commits wait for the disk."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work(connection)`` in the writer's thread, in one transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with in_words("image database"), transaction(self._connection) as connection:
            return work(connection)

    def close(self) -> None:
        """Finish what was asked, end the thread and close the database."""
        self._executor.shutdown(wait=True)
        self._connection.close()
