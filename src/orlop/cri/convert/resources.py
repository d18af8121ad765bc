"""Linux resources: limits of containers and pods. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

from orlop.base.errors import InvalidArgument
from orlop.cri.convert import check
from orlop.specs import pod
from orlop.specs.cri_gen import api_pb2 as pb


def resources_in(given: pb.LinuxContainerResources, field: str) -> pod.LinuxResources:
    """Check resources; 0 and empty mean "not given", -1 "unlimited" where the kernel has that."""
    unified = dict(given.unified)
    for key, value in unified.items():
        # The key becomes the name of a file in the cgroup.
        if not key or "/" in key or "\0" in key or key in (".", ".."):
            raise InvalidArgument(f"{field}.unified: {key!r} is not the name of a cgroup file")
        check.any_text(value, f"{field}.unified[{key}]")
    limits_given = []
    for index, each in enumerate(given.hugepage_limits):
        where = f"{field}.hugepage_limits[{index}].page_size"
        check.refuse("/" in each.page_size, where, f"{each.page_size!r} is not a page size")
        limits_given.append(pod.HugepageLimit(page_size=check.name(each.page_size, where), limit=each.limit))
    return pod.LinuxResources(
        cpu_period=check.within(given.cpu_period, f"{field}.cpu_period", 0, check.LONG),
        cpu_quota=check.within(given.cpu_quota, f"{field}.cpu_quota", -1, check.LONG),
        cpu_shares=check.within(given.cpu_shares, f"{field}.cpu_shares", 0, check.LONG),
        memory_limit=check.within(given.memory_limit_in_bytes, f"{field}.memory_limit_in_bytes", -1, check.LONG),
        memory_swap_limit=check.within(
            given.memory_swap_limit_in_bytes, f"{field}.memory_swap_limit_in_bytes", -1, check.LONG
        ),
        oom_score_adj=check.within(given.oom_score_adj, f"{field}.oom_score_adj", -1000, 1000),
        cpuset_cpus=check.text(given.cpuset_cpus, f"{field}.cpuset_cpus"),
        cpuset_mems=check.text(given.cpuset_mems, f"{field}.cpuset_mems"),
        hugepage_limits=tuple(limits_given),
        unified=unified,
    )


def resources_out(resources: pod.LinuxResources) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit,
        memory_swap_limit_in_bytes=resources.memory_swap_limit,
        oom_score_adj=resources.oom_score_adj,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
        hugepage_limits=[
            pb.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in resources.hugepage_limits
        ],
        unified=resources.unified,
    )
