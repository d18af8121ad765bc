import struct

from hypothesis import given
from hypothesis import strategies as st

from orlop.kernel.netlink import IFLA_IFNAME, IFLA_STATS64, parse_counters, parse_link


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def link(*attributes: bytes) -> memoryview:
    return memoryview(struct.pack("<BxHiII", 0, 1, 7, 0, 0) + b"".join(attributes))


COUNTERS = struct.pack("<24Q", *range(1, 25))


def test_it_reads_what_parse_link_reads():
    body = link(attribute(4, b"\0" * 4), attribute(IFLA_IFNAME, b"eth0\0"), attribute(IFLA_STATS64, COUNTERS))
    whole = parse_link(body)
    assert parse_counters(body) == (7, "eth0", whole.counters)
    assert whole.counters is not None
    assert whole.counters.rx_packets == 1


def test_without_counters_there_is_nothing():
    assert parse_counters(link(attribute(IFLA_IFNAME, b"eth0\0"))) is None
    assert parse_counters(link(attribute(IFLA_STATS64, COUNTERS[:8]))) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_not(data):
    parse_counters(memoryview(data))
