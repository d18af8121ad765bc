"""One layer from compressed bytes to a directory, in one pass and two threads, without the GIL where it counts.

    source -> sha256 (digest) -> decompress  |  queue  |  sha256 (diffID) -> native unpacker -> directory

Both digests are checked before anybody may see the directory. Owns the pipeline and how the unpacker's errors are
told; never fetches, never decides where a layer lives. Test: tests/kernel/layers/test_apply.py.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orlop.base import limits
from orlop.base.errors import Aborted, DataLoss, Internal, InvalidArgument, OrlopError, ResourceExhausted
from orlop.base.ids import DiffId, Digest
from orlop.kernel.unpack import Unpacker, UnpackError, own_umask
from orlop.layers.decompress import decompress
from orlop.specs.digest import algorithm_of, hex_of

READ_BYTES = 256 << 10
QUEUE_PIECES = 8
"""Of at most decompress.PIECE_BYTES each: what the decompressor may be ahead of the unpacker."""


class LayerSource(Protocol):
    """Compressed bytes as they become available; content.store.Ingest is one."""

    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...
    def read(self, offset: int, limit: int) -> bytes:
        """Return bytes from an offset, waiting for some; b"" at the end; raises what ``fail`` was given."""

    def fail(self, error: Exception) -> None:
        """Make the reader raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedLayer:
    """What became of a layer."""

    diff_id: DiffId
    size: int
    """Bytes of its regular files."""
    entries: int
    implicit: tuple[str, ...]
    """Directories that no entry described: their attributes are those that the layers below give them."""


class LayerPool:
    """The worker threads that apply layers: two for each layer at work, at most ``layers`` at a time."""

    def __init__(self, layers: int) -> None:
        self._slots = asyncio.Semaphore(layers)
        self._executor = ThreadPoolExecutor(
            max_workers=2 * layers, thread_name_prefix="orlop-layer", initializer=own_umask
        )

    async def apply(
        self, source: LayerSource, directory: Path, expected: DiffId, advanced: Callable[[int], None] | None = None
    ) -> AppliedLayer:
        """Apply a layer into an empty directory; on return both digests have been found right.

        ``advanced`` is called in a worker thread with the number of compressed bytes read so far. Raises DataLoss
        (wrong digest, corrupt), InvalidArgument (what the archive asks for is refused), ResourceExhausted (limits,
        disk), or what the source failed with. When the caller is cancelled the threads have ended before the
        cancellation goes on, so the directory may be removed.
        """
        async with self._slots:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._executor, self._apply, source, directory, expected, advanced)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                source.fail(Aborted(f"layer {source.digest}: cancelled"))
                await asyncio.wait([work])
                work.exception()
                raise

    def close(self) -> None:
        self._executor.shutdown(wait=True)

    def _apply(
        self, source: LayerSource, directory: Path, expected: DiffId, advanced: Callable[[int], None] | None
    ) -> AppliedLayer:
        pieces = _Pieces()
        reader = self._executor.submit(_read, source, pieces, advanced)
        subject = f"layer {source.digest}"
        root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        unpacker = Unpacker(
            root_fd,
            stream_bytes=limits.LAYER_UNCOMPRESSED_BYTES,
            entries=limits.LAYER_ENTRIES,
            path_bytes=limits.TAR_PATH_BYTES,
            pax_bytes=limits.TAR_PAX_BYTES,
            xattr_bytes=limits.TAR_XATTR_BYTES,
        )
        tar_hash = hashlib.new(algorithm_of(expected))
        try:
            while (piece := pieces.get()) is not None:
                tar_hash.update(piece)
                unpacker.feed(piece)
            # The reader's error is the cause when there are two: cut off bytes also end the archive too early.
            reader.result()
            if tar_hash.hexdigest() != hex_of(expected):
                raise DataLoss(
                    f"{subject}: content has the diffID {algorithm_of(expected)}:{tar_hash.hexdigest()}, not {expected}"
                )
            implicit = unpacker.finish()
            return AppliedLayer(
                diff_id=expected, size=unpacker.file_bytes, entries=unpacker.entries, implicit=tuple(sorted(implicit))
            )
        except UnpackError as error:
            if error.args[0] == "malformed":
                # Bytes that are not what the digest says cannot be a good archive: say the cause, not the symptom.
                while pieces.get() is not None:
                    pass
                reader.result()
            raise unpack_failure(error, subject) from error
        finally:
            pieces.stop()
            source.fail(Aborted(f"{subject}: unpacking has ended"))
            reader.exception()
            unpacker.close()
            os.close(root_fd)


class _Pieces:
    """A bounded queue whose reader may leave: the writer then finds out at its next put."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_PIECES)
        self._stopped = threading.Event()

    def put(self, piece: bytes | None) -> bool:
        """Hand on a piece, waiting for room; False when nobody reads any more."""
        if not self._stopped.is_set():
            self._queue.put(piece)
        return not self._stopped.is_set()

    def get(self) -> bytes | None:
        return self._queue.get()

    def stop(self) -> None:
        self._stopped.set()
        # A writer that waits for room gets it; after the flag is set at most one more piece comes.
        while not self._queue.empty():
            self._queue.get_nowait()


def _read(source: LayerSource, pieces: _Pieces, advanced: Callable[[int], None] | None) -> None:
    """Read, hash and decompress a source; checks the digest of all that was read."""
    subject = f"layer {source.digest}"
    digest = hashlib.new(algorithm_of(source.digest))
    offset = 0

    def read() -> bytes:
        nonlocal offset
        data = source.read(offset, READ_BYTES)
        digest.update(data)
        offset += len(data)
        if advanced is not None:
            advanced(offset)
        return data

    try:
        try:
            for piece in decompress(read, subject):
                if not pieces.put(piece):
                    return
        except DataLoss:
            # Bytes that are not what the digest says cannot be expected to decompress: say the cause, not the symptom.
            while read():
                pass
            _check(digest.hexdigest(), source, offset, subject)
            raise
        while read():
            pass
        _check(digest.hexdigest(), source, offset, subject)
    finally:
        pieces.put(None)


def _check(hexdigest: str, source: LayerSource, length: int, subject: str) -> None:
    if length != source.size:
        raise DataLoss(f"{subject}: has {length} bytes, not {source.size}")
    if hexdigest != hex_of(source.digest):
        raise DataLoss(f"{subject}: content has the digest {algorithm_of(source.digest)}:{hexdigest}")


def unpack_failure(error: UnpackError, subject: str) -> OrlopError:
    """Return the unpacker's error as one of ours, naming layer, entry and reason."""
    kind, code, entry, reason = error.args
    text = f"{subject}: entry {entry!r}: {reason}" if entry else f"{subject}: {reason}"
    if kind == "malformed":
        return DataLoss(text)
    if kind == "refused":
        return InvalidArgument(text)
    if kind == "limit" or code in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return ResourceExhausted(text)
    return Internal(text)
