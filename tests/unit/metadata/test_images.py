import sqlite3
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, Internal
from orlop.base.ids import DiffId, ImageId
from orlop.metadata.db import open_database, transaction
from orlop.metadata.images import ImageRow, ImageStore

A, B = ImageId("sha256:" + "a" * 64), ImageId("sha256:" + "b" * 64)


def row(image_id: ImageId) -> ImageRow:
    return ImageRow(id=image_id, diff_ids=(DiffId("sha256:" + "1" * 64),), size=5, env=("A=B",), labels={"k": "v"})


async def test_rows_and_names_survive(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images.db")
    await store.put(row(A), ["r/x:1", "r/x:2", "r/x@sha256:1"], "boot")
    await store.put(row(B), ["r/x:2"], "")
    assert store.names(A) == (("r/x:1",), ("r/x@sha256:1",)) and store.named("r/x:2") == B
    assert store.unsynced() == {A: "boot"}
    await store.synced([A, B])
    store.close()
    again = ImageStore(tmp_path / "images.db")
    assert again.rows() == [row(A), row(B)] and again.unsynced() == {}
    assert again.names(A) == (("r/x:1",), ("r/x@sha256:1",)) and again.names(B) == (("r/x:2",), ())
    await again.remove(A)
    await again.remove(A)
    assert again.row(A) is None and again.named("r/x:1") is None
    again.close()
    third = ImageStore(tmp_path / "images.db")
    assert third.rows() == [row(B)] and third.named("r/x:1") is None
    third.close()
    assert (tmp_path / "images.db").stat().st_mode & 0o777 == 0o600


def test_migrations(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(path, ["CREATE TABLE t (a)"], synchronous="OFF").close()
    connection = open_database(path, ["CREATE TABLE t (a)", "ALTER TABLE t ADD b"], synchronous="FULL")
    with pytest.raises(ZeroDivisionError), transaction(connection):
        connection.execute("INSERT INTO t VALUES (1, 2)")
        raise ZeroDivisionError
    assert connection.execute("SELECT * FROM t").fetchall() == []
    connection.close()
    with pytest.raises(FailedPrecondition, match="schema version 2 is newer"):
        open_database(path, ["CREATE TABLE t (a)"], synchronous="OFF")
    with pytest.raises(Internal):
        open_database(path, ["CREATE TABLE t (a)", "ALTER TABLE t ADD b", "NONSENSE"], synchronous="OFF")
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (2,)
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(Internal, match=r"x\.db"):
        open_database(path, [], synchronous="OFF")
