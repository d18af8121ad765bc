"""Compressed bytes in, tar bytes out, in pieces of bounded size whatever the input claims.

The format is told by its magic number, never by a media type (gzip, zstd with a leading skippable frame too, plain).
Decoders run in a worker thread without the GIL. Owns formats; never hashes or unpacks. Test:
tests/unit/layers/test_decompress.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, cast

import zstandard
from isal import igzip_lib

from orlop.base import limits
from orlop.base.errors import DataLoss, ResourceExhausted

PIECE_BYTES = 512 << 10
"""Of output. Two pieces fit the second-level cache of a core, where the hasher and the unpacker find them."""
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"

Read = Callable[[], bytes]
"""Returns the next bytes, b"" at the end; blocks until there are some."""


def compression_of(head: bytes) -> str:
    """Tell the format from the first bytes: gzip, zstd or plain."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (len(head) >= 4 and head[0] & 0xF0 == 0x50 and head[1:4] == b"\x2a\x4d\x18"):
        return "zstd"
    return "plain"


def decompress(read: Read, subject: str) -> Iterator[bytes]:
    """Yield the tar's bytes in pieces; raises DataLoss (corrupt) or ResourceExhausted (zstd window too large).

    A zstd stream that is cut off just ends: the digest of the whole and the end of the archive tell."""
    head = b""
    while len(head) < 4 and (more := read()):
        head += more
    match compression_of(head):
        case "gzip":
            return _gunzip(head, read, subject)
        case "zstd":
            return _unzstd(head, read, subject)
        case _:
            return _plain(head, read)


def _plain(head: bytes, read: Read) -> Iterator[bytes]:
    data = head
    while data:
        yield data
        data = read()


def _gunzip(head: bytes, read: Read, subject: str) -> Iterator[bytes]:
    data = head
    try:
        while True:
            member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            while True:
                if piece := member.decompress(data, PIECE_BYTES):
                    yield piece
                if member.eof:
                    break
                data = b""
                if member.needs_input and not (data := read()):
                    raise DataLoss(f"{subject}: gzip stream is cut off")
            # Members may follow each other (pigz, eStargz); zero padding may follow the last.
            data = member.unused_data.lstrip(b"\0")
            while not data and (more := read()):
                data = more.lstrip(b"\0")
            if not data:
                return
            while len(data) < len(_GZIP) and (more := read()):
                data += more
            if not data.startswith(_GZIP):
                raise DataLoss(f"{subject}: gzip stream is followed by something else")
    except (igzip_lib.IsalError, EOFError) as error:  # type: ignore[misc]  # the stub makes it a value
        raise DataLoss(f"{subject}: gzip stream is corrupt: {error}") from error


class _Source(io.RawIOBase):
    """The read function as a file object, which is what zstandard takes."""

    def __init__(self, head: bytes, read: Read) -> None:
        self._pending = head
        self._read = read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._pending or self._read()
        if 0 <= size < len(data):
            self._pending = data[size:]
            return data[:size]
        self._pending = b""
        return data


def _unzstd(head: bytes, read: Read, subject: str) -> Iterator[bytes]:
    source = cast(IO[bytes], _Source(head, read))
    decoder = zstandard.ZstdDecompressor(max_window_size=limits.ZSTD_WINDOW_BYTES)
    try:
        with decoder.stream_reader(source, read_size=PIECE_BYTES, read_across_frames=True) as reader:
            while piece := reader.read(PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        if "memory" in str(error).lower():
            raise ResourceExhausted(
                f"{subject}: zstd window is larger than {limits.ZSTD_WINDOW_BYTES} bytes"
            ) from error
        raise DataLoss(f"{subject}: zstd stream is corrupt: {error}") from error
