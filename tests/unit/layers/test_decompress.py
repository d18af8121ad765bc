import gzip
import os
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import DataLoss, ResourceExhausted
from orlop.layers.decompress import PIECE_BYTES, compression_of, decompress

DATA = os.urandom(1000) + bytes(3_000_000) + os.urandom(1000)
SKIP = b"\x5a\x2a\x4d\x18\x04\0\0\0skip"


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    parts = iter([data[at : at + size] for at in range(0, len(data), size)])
    return decompress(lambda: next(parts, b""), "layer x")


@pytest.mark.parametrize(
    "packed",
    [
        DATA,
        gzip.compress(DATA),
        gzip.compress(DATA[:100]) + gzip.compress(DATA[100:]),
        gzip.compress(DATA) + bytes(1000),
        zstandard.compress(DATA),
        zstandard.compress(DATA[:100]) + zstandard.compress(DATA[100:]),
        SKIP + zstandard.compress(DATA) + SKIP,
    ],
)
@pytest.mark.parametrize("size", [3, 1000, 10_000_000])
def test_formats_by_magic(packed: bytes, size: int) -> None:
    if size == 3 and len(packed) > 100_000:
        size = 997
    out = list(pieces(packed, size))
    assert b"".join(out) == DATA
    assert max(map(len, out)) <= max(PIECE_BYTES, size if packed is DATA else 0)


def test_empty_and_short() -> None:
    assert list(pieces(b"")) == [] and list(pieces(b"ab")) == [b"ab"]
    assert compression_of(b"\x1f\x8b\x07") == "plain"


def with_wrong_end(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 0xFF])


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(DATA)[:-9],
        gzip.compress(DATA)[:500],
        gzip.compress(DATA)[:100] + b"\xff" * 100,
        gzip.compress(b"x") + b"garbage",
        gzip.compress(DATA)[:-8] + b"wrongsum",
        with_wrong_end(zstandard.ZstdCompressor(write_checksum=True).compress(DATA)),
    ],
)
def test_corrupt_streams(packed: bytes) -> None:
    with pytest.raises(DataLoss, match="layer x"):
        list(pieces(packed))


def test_zstd_window_is_limited() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packed.compress(bytes(1 << 20)) + packed.flush()
    with pytest.raises(ResourceExhausted, match="window"):
        list(pieces(data))


@given(st.binary(max_size=500), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", SKIP]))
def test_any_bytes_end(data: bytes, magic: bytes) -> None:
    try:
        for _ in pieces(magic + data, 50):
            pass
    except (DataLoss, ResourceExhausted):
        pass
