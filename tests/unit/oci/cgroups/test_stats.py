from hypothesis import given
from hypothesis import strategies as st

from orlop.oci.cgroups.stats import (
    CgroupStats,
    DeviceCount,
    hugepage_sizes,
    parse_counts_v1,
    parse_counts_v2,
    parse_flat,
    parse_limit,
    parse_psi,
    total,
)


def test_parsers() -> None:
    assert parse_flat("anon 5\nfile 7\nbroken\nx y") == {"anon": 5, "file": 7}
    assert parse_limit("max") is None
    assert parse_limit("-1") is None
    assert parse_limit("9223372036854771712") is None
    assert parse_limit("4096\n") == 4096


def test_pressure_is_microseconds_in_the_file_and_nanoseconds_in_cri() -> None:
    psi = parse_psi("some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7")
    assert (psi.some.total, psi.some.avg10, psi.some.avg60, psi.full.total) == (42_000, 1.5, 0.25, 7_000)
    assert parse_psi("some avg10=0.00 avg60=0.00 avg300=0.00 total=1").full.total == 0


def test_cri_forms() -> None:
    stats = CgroupStats(timestamp=1, cpu_usage=2, memory_usage=100, memory_inactive_file=30, memory_limit=200)
    memory = stats.memory()
    assert memory is not None
    assert (memory.working_set, memory.available, memory.usage) == (70, 130, 100)
    assert stats.cpu(9).usage_nano_cores == 9
    assert stats.swap() is None
    assert stats.io() is None
    assert CgroupStats(timestamp=1).memory() is None
    unlimited = CgroupStats(timestamp=1, memory_usage=10, memory_inactive_file=30).memory()
    assert unlimited is not None
    assert (unlimited.working_set, unlimited.available) == (0, None)


def test_total() -> None:
    part = CgroupStats(timestamp=5, cpu_usage=2, memory_usage=10, pids=3)
    both = total([part, part, CgroupStats(timestamp=9)])
    assert (both.timestamp, both.cpu_usage, both.memory_usage, both.pids, both.swap_usage) == (9, 4, 20, 6, None)
    assert total([]).memory() is None


@given(st.text(alphabet="some full avg10=.0123456789total \n"))
def test_flat_parsers_take_anything(text: str) -> None:
    parse_flat(text)
    parse_limit(text)
    parse_counts_v1(text)
    parse_counts_v2(text)


def test_counts_by_device_and_operation() -> None:
    assert parse_counts_v1("8:0 Read 5\n8:0 Write 6\n8:0 Total 11\nTotal 11") == (
        DeviceCount(device="8:0", operation="Read", count=5),
        DeviceCount(device="8:0", operation="Write", count=6),
    )
    amounts, requests = parse_counts_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0 cost.usage=9\n8:16 ")
    assert [(each.operation, each.count) for each in amounts] == [("Read", 1), ("Write", 2), ("Discard", 0)]
    assert [(each.operation, each.count) for each in requests] == [("Read", 3), ("Write", 4), ("Discard", 0)]
    assert {each.device for each in amounts} == {"8:0"}


def test_hugepage_sizes_are_written_as_the_controller_does(tmp_path) -> None:
    for kilobytes in (64, 2048, 1048576):
        (tmp_path / f"hugepages-{kilobytes}kB").mkdir()
    assert hugepage_sizes(str(tmp_path)) == ("64KB", "2MB", "1GB")
    assert hugepage_sizes(str(tmp_path / "none")) == ()
