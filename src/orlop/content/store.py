"""Bytes by digest: ingest -> commit -> open -> remove. A blob that can be opened has the bytes that its digest says.

    blobs/sha256/<hex>    verified; made by a rename, never changed
    ingests/<hex>         downloads in progress; what is there is kept for a resume

An ingest is a file and a queue at once: ranges are written to it as they arrive, from several connections, and one
reader follows the frontier (the end of what is whole from the start) with read(), which blocks. So the network runs
ahead of the disk and the unpacker without memory that grows, and a download that broke off is continued by whoever
ingests the digest again.

What is whole in a file that an earlier run left is told by its first hole: writers write whole pages except at the
end of a range. Nothing here syncs: whoever publishes an image syncs once. Never hashes layers (the reader does, it
needs the bytes anyway), knows no registry. Test: tests/unit/content/test_store.py.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from pathlib import Path

from orlop.base.errors import DataLoss, Internal, NotFound, ResourceExhausted
from orlop.base.ids import Digest
from orlop.specs.digest import algorithm_of, hex_of, matches

PAGE = 4096


class Ingest:
    """One download in progress. ``write`` and ``read`` may be called from different threads; one reader, many
    writers.
    """

    def __init__(self, path: Path, digest: Digest, size: int) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._grown = threading.Condition()
        self._failure: Exception | None = None
        self._frontier = self._whole()
        self._ahead: dict[int, int] = {}
        """Start -> end of what lies beyond the frontier."""

    def _whole(self) -> int:
        """Return how many bytes from the start an earlier run has written; cut off what lies behind the first hole."""
        length = os.fstat(self._fd).st_size
        if length == 0:
            return 0
        try:
            hole = os.lseek(self._fd, 0, os.SEEK_HOLE)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENXIO):
                raise
            hole = 0
        whole = hole if hole >= self.size else hole // PAGE * PAGE
        whole = min(whole, self.size)
        os.ftruncate(self._fd, whole)
        return whole

    @property
    def frontier(self) -> int:
        """The end of what is whole from the start."""
        return self._frontier

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes that have arrived; raises ResourceExhausted when the disk is full."""
        view = memoryview(data)
        at = offset
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view = view[written:]
                at += written
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(f"blob {self.digest}: no space left to download {self.size} bytes") from error
            raise Internal(f"blob {self.digest}: cannot write {self.path}: {error.strerror}") from error
        with self._grown:
            if offset > self._frontier:
                for start, end in self._ahead.items():
                    if end == offset:
                        self._ahead[start] = at
                        break
                else:
                    self._ahead[offset] = at
                return
            self._frontier = max(self._frontier, at)
            while (end_ := self._ahead.pop(self._frontier, None)) is not None:
                self._frontier = end_
            self._grown.notify_all()

    def read(self, offset: int, limit: int) -> bytes:
        """Return bytes from ``offset``, waiting until there are some; b"" at the end. Raises what ``fail`` was given."""
        with self._grown:
            while self._frontier <= offset < self.size and self._failure is None:
                self._grown.wait()
            if self._failure is not None:
                raise self._failure
            available = self._frontier - offset
        return os.pread(self._fd, min(limit, available), offset) if available > 0 else b""

    def fail(self, error: Exception) -> None:
        """Wake the reader with an error; the first one counts."""
        with self._grown:
            self._failure = self._failure or error
            self._grown.notify_all()

    def restart(self) -> None:
        """Forget what was written: the server will send it all again. Only while nobody reads."""
        with self._grown:
            os.ftruncate(self._fd, 0)
            self._frontier = 0
            self._ahead.clear()

    def close(self) -> None:
        """Keep what is whole for a resume and close the file; nobody may read or write any more."""
        if self._fd < 0:
            return
        os.ftruncate(self._fd, self._frontier)
        os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        """Close and remove the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path.unlink(missing_ok=True)


class ContentStore:
    """Blobs and ingests below one root; constructed once."""

    def __init__(self, blobs: Path, ingests: Path) -> None:
        self._blobs = blobs
        self._ingests = ingests

    def path(self, digest: Digest) -> Path:
        return self._blobs / algorithm_of(digest) / hex_of(digest)

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def put(self, digest: Digest, data: bytes, subject: str) -> None:
        """Store a document; raises DataLoss when the bytes are not the digest's."""
        if not matches(data, digest):
            raise DataLoss(f"{subject}: content does not have the digest {digest}")
        path = self.path(digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._ingests / f"{hex_of(digest)}.{secrets.token_hex(4)}"
        try:
            draft.write_bytes(data)
            draft.rename(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _storage_error(error, f"{subject}: cannot store {digest}") from error

    def read(self, digest: Digest) -> bytes:
        """Return a blob; raises NotFound, or DataLoss when the disk no longer has the bytes of the digest."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest}: is not present") from error
        if not matches(data, digest):
            raise DataLoss(f"blob {digest}: file {self.path(digest)} has other bytes")
        return data

    def open(self, digest: Digest) -> int:
        """Return an fd of a blob for reading, which the caller closes; raises NotFound."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest}: is not present") from error

    def ingest(self, digest: Digest, size: int) -> Ingest:
        """Begin or continue a download. One ingest a digest at a time: the caller joins those who want the same."""
        try:
            return Ingest(self._ingests / hex_of(digest), digest, size)
        except OSError as error:
            raise _storage_error(error, f"blob {digest}: cannot open an ingest") from error

    def commit(self, ingest: Ingest, digest: Digest) -> None:
        """Publish an ingest whose bytes were hashed to ``digest`` by its reader; raises DataLoss when that is
        another.
        """
        if digest != ingest.digest or ingest.frontier != ingest.size:
            raise DataLoss(f"blob {ingest.digest}: has {ingest.frontier} bytes of digest {digest}")
        path = self.path(digest)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ingest.close()
        ingest.path.rename(path)

    def remove(self, digest: Digest) -> None:
        """Remove a blob; one that is not there is removed already."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> list[Digest]:
        """List the blobs."""
        return [
            Digest(f"{algorithm.name}:{blob.name}")
            for algorithm in os.scandir(self._blobs)
            if algorithm.is_dir(follow_symlinks=False)
            for blob in os.scandir(algorithm)
        ]

    def drop_drafts(self, max_age_seconds: float, now: float) -> None:
        """Remove torn documents, and downloads that nobody has continued for so long; call it at start only."""
        for entry in os.scandir(self._ingests):
            if "." in entry.name or now - entry.stat(follow_symlinks=False).st_mtime > max_age_seconds:
                os.unlink(entry)


def _storage_error(error: OSError, subject: str) -> ResourceExhausted | Internal:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"{subject}: no space left on device")
    return Internal(f"{subject}: {error.strerror}")
