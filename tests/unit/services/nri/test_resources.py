"""Limits in CRI's, the runtime spec's and NRI's form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.services.nri.resources import from_cri, from_spec, in_cri, merged_spec, to_spec
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri

SIZES = st.integers(1, 2**62)
CRI = st.builds(
    pod.LinuxResources,
    cpu_period=SIZES,
    cpu_quota=SIZES,
    cpu_shares=SIZES,
    memory_limit=SIZES,
    memory_swap_limit=SIZES,
    cpuset_cpus=st.sampled_from(["0", "0-3"]),
    cpuset_mems=st.sampled_from(["", "0"]),
    hugepage_limits=st.just((pod.HugepageLimit(page_size="2MB", limit=4),)),
    unified=st.sampled_from([{}, {"memory.high": "5"}]),
)


@given(CRI)
def test_cri_to_nri_and_back_is_the_same(wanted):
    there = to_spec(from_cri(wanted), "c", cgroup_v2=True, swap=True)
    assert in_cri(pod.LinuxResources(), there) == wanted


def test_what_is_not_given_stays_so():
    assert from_cri(pod.LinuxResources()) == nri.LinuxResources()
    assert from_cri(None) == nri.LinuxResources()
    assert to_spec(nri.LinuxResources(), "c", cgroup_v2=True, swap=True) == oci.Resources()
    old = pod.LinuxResources(cpu_shares=5, memory_limit=7)
    assert in_cri(old, oci.Resources()) == old


def test_spec_to_nri_and_back_is_the_same():
    spec = oci.Resources(
        cpu=oci.CPU(shares=1, quota=-1, period=3, cpus="0", mems="1", realtime_period=4),
        memory=oci.Memory(limit=9, swap=10, reservation=3, swappiness=0),
        pids=oci.Pids(limit=4),
        hugepage_limits=(oci.HugepageLimit(page_size="1GB", limit=2),),
        devices=(oci.DeviceCgroup(allow=True, type="c", major=1, minor=0, access="r"),),
    )
    assert to_spec(from_spec(spec), "c", cgroup_v2=False, swap=True) == spec


def test_a_memory_limit_alone_allows_no_swap():
    wanted = nri.LinuxResources(memory=nri.LinuxMemory(limit=nri.OptionalInt64(value=5)))
    assert to_spec(wanted, "c", cgroup_v2=True, swap=True).memory == oci.Memory(limit=5, swap=5)
    assert to_spec(wanted, "c", cgroup_v2=True, swap=False).memory == oci.Memory(limit=5)


@pytest.mark.parametrize(
    ("memory", "v2", "word"),
    [
        (nri.LinuxMemory(kernel=nri.OptionalInt64(value=1)), False, "memory.kernel"),
        (nri.LinuxMemory(use_hierarchy=nri.OptionalBool(value=False)), False, "use_hierarchy"),
        (nri.LinuxMemory(swappiness=nri.OptionalUInt64(value=9)), True, "swappiness: needs cgroup v1"),
        (nri.LinuxMemory(disable_oom_killer=nri.OptionalBool(value=True)), True, "disable_oom_killer: needs cgroup v1"),
        (nri.LinuxMemory(kernel_tcp=nri.OptionalInt64(value=9)), True, "kernel_tcp: needs cgroup v1"),
    ],
)
def test_what_this_host_cannot_keep_is_refused(memory, v2, word):
    with pytest.raises(InvalidArgument, match=word):
        to_spec(nri.LinuxResources(memory=memory), "c", cgroup_v2=v2, swap=True)


def test_unified_needs_v2_and_classes_need_configuration():
    with pytest.raises(InvalidArgument, match="needs cgroup v2"):
        to_spec(nri.LinuxResources(unified={"memory.high": "1"}), "c", cgroup_v2=False, swap=True)
    with pytest.raises(InvalidArgument, match="blockio_class 'gold'"):
        to_spec(nri.LinuxResources(blockio_class=nri.OptionalString(value="gold")), "c", cgroup_v2=True, swap=True)
    cleared = nri.LinuxResources(blockio_class=nri.OptionalString(value=""))
    assert to_spec(cleared, "c", cgroup_v2=True, swap=True) == oci.Resources()


def test_what_is_given_wins_and_the_rest_stays():
    old = oci.Resources(
        cpu=oci.CPU(shares=1, cpus="0"),
        hugepage_limits=(oci.HugepageLimit(page_size="2MB", limit=1),),
        devices=(oci.DeviceCgroup(allow=False, access="rwm"),),
    )
    new = oci.Resources(
        cpu=oci.CPU(shares=2),
        memory=oci.Memory(limit=0),
        hugepage_limits=(oci.HugepageLimit(page_size="2MB", limit=3),),
        devices=(oci.DeviceCgroup(allow=True, type="c", access="rwm"),),
    )
    merged = merged_spec(old, new)
    assert merged.cpu == oci.CPU(shares=2, cpus="0")
    assert merged.memory == oci.Memory(limit=0)
    assert [page.limit for page in merged.hugepage_limits] == [3]
    assert [rule.allow for rule in merged.devices] == [False, True]
