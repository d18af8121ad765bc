import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop.base.errors import Aborted, DataLoss, NotFound
from orlop.base.ids import Digest
from orlop.content.store import ContentStore
from orlop.specs.digest import sha256_of


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "ingests").mkdir()
    return ContentStore(tmp_path / "blobs", tmp_path / "ingests")


def test_put_read_remove(store: ContentStore) -> None:
    digest = sha256_of(b"hello")
    store.put(digest, b"hello", "x")
    store.put(digest, b"hello", "x")
    assert store.read(digest) == b"hello" and store.digests() == [digest]
    os.close(store.open(digest))
    with pytest.raises(DataLoss):
        store.put(digest, b"other", "x")
    store.path(digest).write_bytes(b"rotten")
    with pytest.raises(DataLoss, match="other bytes"):
        store.read(digest)
    store.remove(digest)
    store.remove(digest)
    with pytest.raises(NotFound):
        store.open(digest)


def test_commit_wants_all_bytes_and_the_digest(store: ContentStore) -> None:
    digest = sha256_of(b"hello")
    ingest = store.ingest(digest, 5)
    ingest.write(0, b"hel")
    with pytest.raises(DataLoss):
        store.commit(ingest, digest)
    ingest.write(3, b"lo")
    with pytest.raises(DataLoss):
        store.commit(ingest, sha256_of(b"x"))
    store.commit(ingest, digest)
    assert store.read(digest) == b"hello"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(order=st.permutations(range(8)), upto=st.integers(0, 8))
def test_ranges_in_any_order_and_a_crash(store: ContentStore, order: list[int], upto: int) -> None:
    data = os.urandom(8 * 4096 - 100)
    digest = sha256_of(data)
    ingest = store.ingest(digest, len(data))
    ingest.restart()
    for part in order[:upto]:
        ingest.write(part * 4096, data[part * 4096 : (part + 1) * 4096])
    done = set(order[:upto])
    whole = next((n for n in range(8) if n not in done), 8)
    assert ingest.frontier == min(whole * 4096, len(data))
    # A crash: the file is opened again with whatever is in it.
    again = store.ingest(digest, len(data))
    assert again.frontier == min(whole * 4096, len(data))
    assert again.read(0, len(data)) == data[: again.frontier] if again.frontier else True
    again.discard()
    ingest.discard()


def test_reader_waits_and_hears_of_failure(store: ContentStore) -> None:
    ingest = store.ingest(Digest("sha256:" + "0" * 64), 10)
    got: list[object] = []

    def read() -> None:
        try:
            at = 0
            while piece := ingest.read(at, 4):
                got.append(piece)
                at += len(piece)
        except Aborted as error:
            got.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    ingest.write(5, b"56789")
    ingest.write(0, b"01234")
    reader.join(10)
    assert b"".join(p for p in got if isinstance(p, bytes)) == b"0123456789"
    ingest.restart()
    got.clear()
    reader = threading.Thread(target=read)
    reader.start()
    ingest.fail(Aborted("stop"))
    reader.join(10)
    assert got == ["stop"]
    ingest.discard()


def test_old_drafts_go(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "ingests" / ("a" * 64)).write_bytes(b"x")
    (tmp_path / "ingests" / "torn.1234").write_bytes(b"x")
    store.drop_drafts(3600, os.stat(tmp_path / "ingests" / ("a" * 64)).st_mtime + 10)
    assert os.listdir(tmp_path / "ingests") == ["a" * 64]
    store.drop_drafts(3600, os.stat(tmp_path / "ingests" / ("a" * 64)).st_mtime + 4000)
    assert os.listdir(tmp_path / "ingests") == []
