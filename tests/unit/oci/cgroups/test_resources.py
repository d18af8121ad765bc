import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.kernel.bpf import ACC_MKNOD, ACC_READ, ACC_WRITE, DEV_BLOCK, DEV_CHAR, DeviceMatch
from orlop.oci.cgroups.resources import (
    ALLOW_ALL,
    DEFAULT_DEVICES,
    HostFacts,
    Write,
    device_matches,
    from_cri,
    io_weight,
    missing_controllers,
    shares_to_weight,
    swap_max,
    v1_device_lines,
    v1_writes,
    v2_writes,
)
from orlop.specs import runtime
from orlop.specs.pod import HugepageLimit, LinuxResources
from orlop.specs.runtime import DeviceCgroup

GIB = 1 << 30
V1 = HostFacts(controllers=frozenset({"cpu", "cpuset", "memory", "pids", "blkio"}))
V2 = HostFacts(controllers=frozenset({"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}))


def texts(writes: tuple[Write, ...]) -> list[str]:
    return [f"{write.file} {write.value}" for write in writes]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (0, 0),
        (1, 1),
        (2, 1),
        (102, 17),
        (256, 35),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (8192, 532),
        (65536, 3023),
        (262144, 10000),
        (1 << 40, 10000),
    ],
)
def test_shares_to_weight(shares: int, weight: int) -> None:
    assert shares_to_weight(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_weight_keeps_the_order_of_shares(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= shares_to_weight(low) <= shares_to_weight(high) <= 10000


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (100, 910), (500, 4950), (1000, 10000)])
def test_io_weight(weight: int, expected: int) -> None:
    assert io_weight(weight) == expected


def test_swap_max() -> None:
    assert swap_max(GIB, GIB) == "0"
    assert swap_max(GIB, GIB * 3 // 2) == str(512 << 20)
    assert swap_max(GIB, -1) == "max"
    assert swap_max(-1, 0) == "max"
    assert swap_max(GIB, 0) == ""
    with pytest.raises(InvalidArgument, match="without a memory limit"):
        swap_max(0, 5)
    with pytest.raises(InvalidArgument, match="must not be below"):
        swap_max(GIB, GIB // 2)


CRI = LinuxResources(
    cpu_period=100_000,
    cpu_quota=150_000,
    cpu_shares=1024,
    memory_limit=GIB,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 << 20),),
)


def test_cri_on_v1() -> None:
    assert texts(v1_writes(from_cri(CRI, pids_limit=100), V1)) == [
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
        "cpu.shares 1024",
        "cpu.cfs_period_us 100000",
        "cpu.cfs_quota_us 150000",
        f"memory.limit_in_bytes {GIB}",
        f"memory.memsw.limit_in_bytes {GIB}",
        "pids.max 100",
        "hugetlb.2MB.limit_in_bytes 4194304",
    ]


def test_cri_on_v2() -> None:
    unified = {"memory.high": "1000", "memory.oom.group": "1"}
    resources = from_cri(msgspec.structs.replace(CRI, unified=unified))
    assert texts(v2_writes(resources, V2)) == [
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
        "cpu.weight 100",
        "cpu.max 150000 100000",
        "memory.swap.max 0",
        f"memory.max {GIB}",
        "hugetlb.2MB.max 4194304",
        "hugetlb.2MB.rsvd.max 4194304",
        "memory.high 1000",
        "memory.oom.group 1",
    ]


def test_nothing_given_writes_nothing() -> None:
    assert v1_writes(from_cri(LinuxResources()), V1) == ()
    assert v2_writes(from_cri(LinuxResources()), V2) == ()


def test_swap_of_cri() -> None:
    more = from_cri(LinuxResources(memory_limit=GIB, memory_swap_limit=GIB * 3 // 2))
    assert "memory.swap.max 536870912" in texts(v2_writes(more, V2))
    assert f"memory.memsw.limit_in_bytes {GIB * 3 // 2}" in texts(v1_writes(more, V1))
    unlimited = from_cri(LinuxResources(memory_limit=GIB, memory_swap_limit=-1))
    assert "memory.swap.max max" in texts(v2_writes(unlimited, V2))
    assert "memory.memsw.limit_in_bytes -1" in texts(v1_writes(unlimited, V1))
    with pytest.raises(InvalidArgument, match="without memory_limit"):
        from_cri(LinuxResources(memory_swap_limit=5))
    with pytest.raises(InvalidArgument, match="must not be below"):
        v1_writes(from_cri(LinuxResources(memory_limit=GIB, memory_swap_limit=GIB // 2)), V1)


def test_without_swap_accounting() -> None:
    v1, v2 = HostFacts(controllers=V1.controllers, swap=False), HostFacts(controllers=V2.controllers, swap=False)
    assert texts(v1_writes(from_cri(LinuxResources(memory_limit=GIB)), v1)) == [f"memory.limit_in_bytes {GIB}"]
    assert texts(v2_writes(from_cri(LinuxResources(memory_limit=GIB)), v2)) == [f"memory.max {GIB}"]
    wants = from_cri(LinuxResources(memory_limit=GIB, memory_swap_limit=2 * GIB))
    for write in (lambda: v1_writes(wants, v1), lambda: v2_writes(wants, v2)):
        with pytest.raises(FailedPrecondition, match="does not account swap"):
            write()


def test_cpu_max_keeps_what_is_not_given() -> None:
    quota = from_cri(LinuxResources(cpu_quota=5000))
    period = from_cri(LinuxResources(cpu_period=50_000))
    none = from_cri(LinuxResources(cpu_quota=-1))
    assert texts(v2_writes(quota, V2)) == ["cpu.max 5000 100000"]
    assert texts(v2_writes(quota, V2, cpu_max="9000 20000")) == ["cpu.max 5000 20000"]
    assert texts(v2_writes(period, V2, cpu_max="9000 20000")) == ["cpu.max 9000 50000"]
    assert texts(v2_writes(none, V2, cpu_max="9000 20000")) == ["cpu.max max 20000"]


def test_oci_resources() -> None:
    resources = runtime.Resources(
        memory=runtime.Memory(limit=GIB, reservation=GIB // 2, swappiness=10),
        cpu=runtime.CPU(shares=512, burst=1000, idle=1),
        pids=runtime.Pids(limit=-1),
        block_io=runtime.BlockIO(
            weight=500,
            throttle_read_bps_device=(runtime.ThrottleDevice(major=8, minor=0, rate=1000),),
            throttle_write_iops_device=(runtime.ThrottleDevice(major=8, minor=0, rate=0),),
        ),
    )
    assert texts(v1_writes(resources, V1)) == [
        "cpu.shares 512",
        "cpu.idle 1",
        "cpu.cfs_burst_us 1000",
        f"memory.limit_in_bytes {GIB}",
        f"memory.soft_limit_in_bytes {GIB // 2}",
        "memory.swappiness 10",
        "pids.max max",
        "blkio.weight 500",
        "blkio.throttle.read_bps_device 8:0 1000",
        "blkio.throttle.write_iops_device 8:0 0",
    ]
    assert texts(v2_writes(resources, V2)) == [
        "cpu.idle 1",
        "cpu.max.burst 1000",
        f"memory.max {GIB}",
        f"memory.low {GIB // 2}",
        "pids.max max",
        "io.weight default 4950",
        "io.max 8:0 rbps=1000",
        "io.max 8:0 wiops=max",
    ]
    bfq = HostFacts(controllers=V1.controllers, bfq=True)
    assert "blkio.bfq.weight 500" in texts(v1_writes(resources, bfq))
    assert "io.bfq.weight 500" in texts(v2_writes(resources, bfq))


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (LinuxResources(cpuset_cpus="0-1;rm"), "not a list"),
        (LinuxResources(cpuset_mems="../x"), "not a list"),
        (LinuxResources(cpu_quota=-5), "neither -1 nor positive"),
        (LinuxResources(memory_limit=-7), "neither -1 nor positive"),
        (LinuxResources(hugepage_limits=(HugepageLimit(page_size="../2MB", limit=1),)), "not a page size"),
        (LinuxResources(unified={"cgroup.procs": "1"}), "not the name of a controller's file"),
        (LinuxResources(unified={"cgroup.kill": "1"}), "not the name of a controller's file"),
        (LinuxResources(unified={"../memory.max": "1"}), "not the name of a controller's file"),
        (LinuxResources(unified={"memory.max": ""}), "empty"),
        (LinuxResources(unified={"memory.max": "1\0"}), "NUL"),
    ],
)
def test_impossible_resources(resources: LinuxResources, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        v2_writes(from_cri(resources), V2)


def test_unified_needs_v2() -> None:
    with pytest.raises(FailedPrecondition, match="needs cgroup v2"):
        v1_writes(from_cri(LinuxResources(unified={"memory.high": "1"})), V1)


def test_missing_controllers() -> None:
    writes = v2_writes(from_cri(CRI), V2)
    assert missing_controllers(writes, V2.controllers) == {}
    assert set(missing_controllers(writes, frozenset({"cpu"}))) == {"cpuset", "memory", "hugetlb"}


# ---- devices


def test_default_devices_on_v1() -> None:
    (deny, denied), (allow, allowed) = v1_device_lines(DEFAULT_DEVICES)
    assert (deny, denied, allow) == ("devices.deny", ("a",), "devices.allow")
    assert allowed == (
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    )


def test_a_wildcard_makes_what_is_before_it_void() -> None:
    assert v1_device_lines(ALLOW_ALL) == ()
    assert v1_device_lines((*DEFAULT_DEVICES, *ALLOW_ALL)) == ()
    assert device_matches((*DEFAULT_DEVICES, *ALLOW_ALL)) == (True, ())
    last = DeviceCgroup(allow=False, type="c", major=10, minor=200, access="rw")
    assert v1_device_lines((*ALLOW_ALL, last)) == (("devices.deny", ("c 10:200 rw",)),)


def test_the_last_match_wins_on_v2() -> None:
    rules = (
        DeviceCgroup(allow=False, type="a", access="rwm"),
        DeviceCgroup(allow=True, type="c", major=1, minor=5, access="r"),
        DeviceCgroup(allow=True, type="b", major=8, access="rw"),
        DeviceCgroup(allow=False, type="b", major=8, minor=1, access="w"),
    )
    assert device_matches(rules) == (
        False,
        (
            DeviceMatch(verdict=False, type=DEV_BLOCK, major=8, minor=1, access=ACC_WRITE),
            DeviceMatch(verdict=True, type=DEV_BLOCK, major=8, access=ACC_READ | ACC_WRITE),
            DeviceMatch(verdict=True, type=DEV_CHAR, major=1, minor=5, access=ACC_READ),
        ),
    )


def test_parts_of_access_to_one_device_are_joined() -> None:
    def allow(access: str) -> DeviceCgroup:
        return DeviceCgroup(allow=True, type="c", major=1, minor=3, access=access)

    assert device_matches((allow("r"), allow("m"))) == (
        False,
        (DeviceMatch(verdict=True, type=DEV_CHAR, major=1, minor=3, access=ACC_READ | ACC_MKNOD),),
    )


def test_wrong_device_rules() -> None:
    with pytest.raises(InvalidArgument, match="access"):
        v1_device_lines((DeviceCgroup(allow=True, type="c", major=1, minor=3, access="x"),))
    with pytest.raises(InvalidArgument, match="both kinds"):
        v1_device_lines((DeviceCgroup(allow=True, type="a", major=1, minor=3, access="r"),))
    with pytest.raises(InvalidArgument, match="type"):
        device_matches((DeviceCgroup(allow=True, type="z", major=1, minor=3, access="r"),))
