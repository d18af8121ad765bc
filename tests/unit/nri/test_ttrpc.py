"""ttrpc's frames, byte for byte; the limit; noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.base.errors import InvalidArgument, OrlopError, ResourceExhausted
from orlop.nri import ttrpc
from orlop.nri.ttrpc import Frame, FrameReader
from orlop.specs.nri_gen import ttrpc_pb2


def test_a_request_byte_for_byte():
    request = ttrpc_pb2.Request(service="s", method="m", payload=b"p", timeout_nano=300)
    data = ttrpc.encode(Frame(1, ttrpc.REQUEST, 0, request.SerializeToString()))
    assert data == bytes.fromhex("0000000c 00000001 01 000a0173 12016d 1a0170 20ac02")
    assert list(FrameReader().feed(data)) == [Frame(1, ttrpc.REQUEST, 0, request.SerializeToString())]


def test_an_error_answer_byte_for_byte():
    response = ttrpc_pb2.Response(status=ttrpc_pb2.Status(code=12, message="no"))
    data = ttrpc.encode(Frame(3, ttrpc.RESPONSE, 0, response.SerializeToString()))
    assert data == bytes.fromhex("00000008 00000003 02 000a06 080c 12026e6f")


@given(
    frames=st.lists(
        st.builds(Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)),
        max_size=5,
    ),
    cut=st.integers(1, 64),
)
def test_frames_survive_any_cutting(frames, cut):
    data = b"".join(map(ttrpc.encode, frames))
    reader = FrameReader()
    got = [frame for at in range(0, len(data), cut) for frame in reader.feed(data[at : at + cut])]
    assert got == frames


@given(st.binary(max_size=100))
def test_noise_is_refused_or_waited_for(data):
    try:
        list(FrameReader().feed(data))
    except InvalidArgument as error:
        assert "limit" in str(error)


def test_the_limit_holds_both_ways():
    with pytest.raises(ResourceExhausted, match="limit"):
        ttrpc.encode(Frame(1, ttrpc.REQUEST, 0, bytes(limits.TTRPC_MESSAGE_BYTES + 1)))
    with pytest.raises(InvalidArgument, match="limit"):
        list(FrameReader().feed((limits.TTRPC_MESSAGE_BYTES + 1).to_bytes(4, "big") + bytes(6)))


def test_every_class_of_error_has_its_status():
    classes = [OrlopError, *OrlopError.__subclasses__()]
    assert {each.code for each in classes} <= ttrpc.CODES.keys()
