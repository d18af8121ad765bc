"""Lists as bytes: the same messages as protobuf makes, kept per object, joined to bounded batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.cri.entries import Entries, batches, varint
from orlop.specs.cri_gen import api_pb2 as pb


def entries(made=None):
    made = [] if made is None else made

    def make(name):
        made.append(name)
        return pb.Container(id=name, labels={"a": "b" * 200})

    return Entries((pb.ListContainersResponse, pb.StreamContainersResponse), make)


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_varint_is_protobufs(number):
    assert pb.UInt64Value.FromString(b"\x08" + varint(number)).value == number
    assert b"\x08" + varint(number or 1) == pb.UInt64Value(value=number or 1).SerializeToString()


def test_joined_entries_are_the_message():
    of = entries()
    names = [f"c{number}" for number in range(5)]
    joined = b"".join(of.kept(name, name) for name in names)
    for response in (pb.ListContainersResponse, pb.StreamContainersResponse):
        assert [each.id for each in response.FromString(joined).containers] == names


def test_an_entry_is_serialized_once_an_object():
    made = []
    of = entries(made)
    first, equal = "".join(["a", "b"]), "".join(["a", "b"])
    assert of.kept("k", first) == of.kept("k", first)
    assert made == ["ab"]
    of.kept("k", equal)
    of.fresh(first)
    assert made == ["ab"] * 3


@pytest.mark.parametrize("responses", [(pb.Container,), (pb.ListContainersResponse, pb.ListMetricDescriptorsRequest)])
def test_what_is_no_list_is_refused(responses):
    with pytest.raises(ValueError, match="list"):
        Entries(responses, lambda value: value)


async def collect(given):
    return [batch async for batch in batches(given)]


async def test_no_entries_no_message():
    assert await collect([]) == []


async def test_batches_are_bounded_by_count_and_by_bytes_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(limits, "STREAM_BATCH_ITEMS", 3)
    monkeypatch.setattr(limits, "STREAM_BATCH_BYTES", 10)
    assert await collect([b"a", b"b", b"c", b"d"]) == [b"abc", b"d"]
    assert await collect([b"12345", b"12345", b"1"]) == [b"1234512345", b"1"]
    huge = b"x" * 50

    async def later():
        for each in (b"a", huge, b"b"):
            yield each

    assert await collect(later()) == [b"a", huge, b"b"]
