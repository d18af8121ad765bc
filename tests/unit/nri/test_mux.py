"""The trunk's frames, byte for byte, and what the published reader can take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument
from orlop.nri import mux


def test_a_frame_byte_for_byte():
    assert mux.frames(1, b"abc") == bytes.fromhex("00000001 00000003") + b"abc"
    assert mux.frames(2, b"") == bytes.fromhex("00000002 00000000")


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8192, 8193, 1 << 20, mux.PAYLOAD_MAX])
def test_a_long_message_is_what_a_reader_of_4096_bytes_can_take(size):
    """The published side reads a frame into 4096 bytes, or into exactly what its message still lacks, once it has the message's header."""
    message = bytes(size)
    pieces = [len(payload) for _, payload in mux.TrunkReader().feed(mux.frames(1, message))]
    assert sum(pieces) == size
    assert pieces[0] <= 4096
    assert len(pieces) <= 2, "more frames could overrun the peer's queue of 256"


@given(
    messages=st.lists(st.tuples(st.sampled_from([1, 2, 7]), st.binary(max_size=9000)), max_size=6),
    cuts=st.lists(st.integers(1, 500), min_size=1, max_size=20),
)
def test_streams_survive_any_cutting(messages, cuts):
    data = b"".join(mux.frames(stream, message) for stream, message in messages)
    reader = mux.TrunkReader()
    got: dict[int, bytes] = {}
    position = index = 0
    while position < len(data):
        step = cuts[index % len(cuts)]
        index += 1
        for stream, payload in reader.feed(data[position : position + step]):
            got[stream] = got.get(stream, b"") + payload
        position += step
    wanted: dict[int, bytes] = {}
    for stream, message in messages:
        wanted[stream] = wanted.get(stream, b"") + message
    assert got == wanted


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(data):
    reader = mux.TrunkReader()
    try:
        for _, payload in reader.feed(data):
            assert len(payload) <= mux.PAYLOAD_MAX
    except InvalidArgument as error:
        assert "limit" in str(error)


def test_a_frame_beyond_the_limit_is_refused_before_it_is_kept():
    header = bytes.fromhex("00000001") + (limits.TTRPC_MESSAGE_BYTES + 11).to_bytes(4, "big")
    with pytest.raises(InvalidArgument, match="limit"):
        list(mux.TrunkReader().feed(header))
