"""Limits between CRI's form, the runtime spec's and NRI's. Pure.

NRI knows "not given" for every number, as the runtime spec does; CRI's zero is that. What this host has no limit for is refused by name:
a plugin that sets one counts on it. Test: tests/unit/services/nri/test_resources.py.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orlop.base.errors import InvalidArgument
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.nri_gen import nri_pb2 as nri

_CPU: Final = ("shares", "quota", "period", "realtime_runtime", "realtime_period")
_MEMORY: Final = (
    "limit",
    "reservation",
    "swap",
    "kernel",
    "kernel_tcp",
    "swappiness",
    "disable_oom_killer",
    "use_hierarchy",
)
_V1_ONLY: Final = ("kernel_tcp", "swappiness", "disable_oom_killer")


def from_cri(wanted: pod.LinuxResources | None) -> nri.LinuxResources:
    """Return CRI's fields that are given."""
    made = nri.LinuxResources()
    if wanted is None:
        return made
    for name, value in (("shares", wanted.cpu_shares), ("quota", wanted.cpu_quota), ("period", wanted.cpu_period)):
        if value:
            getattr(made.cpu, name).value = value
    for name, text in (("cpus", wanted.cpuset_cpus), ("mems", wanted.cpuset_mems)):
        if text:
            setattr(made.cpu, name, text)
    for name, value in (("limit", wanted.memory_limit), ("swap", wanted.memory_swap_limit)):
        if value:
            getattr(made.memory, name).value = value
    for page in wanted.hugepage_limits:
        made.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    made.unified.update(wanted.unified)
    return made


def from_spec(resources: oci.Resources | None) -> nri.LinuxResources:
    """Return the limits of a runtime spec."""
    made = nri.LinuxResources()
    if resources is None:
        return made
    for part, names in (("cpu", _CPU), ("memory", _MEMORY)):
        source = getattr(resources, part)
        for name in names if source is not None else ():
            if (value := getattr(source, name)) is not None:
                getattr(getattr(made, part), name).value = value
    if resources.cpu is not None:
        made.cpu.cpus, made.cpu.mems = resources.cpu.cpus, resources.cpu.mems
    if resources.pids is not None and resources.pids.limit is not None:
        made.pids.limit = resources.pids.limit
    for page in resources.hugepage_limits:
        made.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    for rule in resources.devices:
        shown = made.devices.add(allow=rule.allow, type=rule.type or "a", access=rule.access)
        if rule.major is not None:
            shown.major.value = rule.major
        if rule.minor is not None:
            shown.minor.value = rule.minor
    made.unified.update(resources.unified)
    return made


def to_spec(wanted: nri.LinuxResources, subject: str, *, cgroup_v2: bool, swap: bool) -> oci.Resources:
    """Return the limits that are given, and no others. A memory limit without a swap limit allows no swap, as CRI's does.

    Raises InvalidArgument for one that this host cannot keep.
    """
    memory = wanted.memory
    if memory.HasField("kernel") and memory.kernel.value > 0:
        raise InvalidArgument(f"{subject}: memory.kernel: the kernel has no limit for its own memory any more")
    if memory.HasField("use_hierarchy") and not memory.use_hierarchy.value:
        raise InvalidArgument(f"{subject}: memory.use_hierarchy: false is not possible any more")
    for name in _V1_ONLY if cgroup_v2 else ():
        if memory.HasField(name) and getattr(memory, name).value:
            raise InvalidArgument(f"{subject}: memory.{name}: needs cgroup v1, this host has v2")
    if wanted.unified and not cgroup_v2:
        raise InvalidArgument(f"{subject}: unified: needs cgroup v2, this host has v1")
    if wanted.HasField("blockio_class") and wanted.blockio_class.value:
        raise InvalidArgument(
            f"{subject}: blockio_class {wanted.blockio_class.value!r}: this node has no classes of block I/O"
        )
    given = {name: getattr(memory, name).value for name in _MEMORY if memory.HasField(name)}
    if "limit" in given and swap:
        given.setdefault("swap", given["limit"])
    elif not swap:
        given.pop("swap", None)
    cpu: dict[str, Any] = {name: getattr(wanted.cpu, name).value for name in _CPU if wanted.cpu.HasField(name)}
    cpu |= {name: getattr(wanted.cpu, name) for name in ("cpus", "mems") if getattr(wanted.cpu, name)}
    return oci.Resources(
        cpu=oci.CPU(**cpu) if cpu else None,
        memory=oci.Memory(**given) if given else None,
        pids=oci.Pids(limit=wanted.pids.limit) if wanted.HasField("pids") else None,
        hugepage_limits=tuple(
            oci.HugepageLimit(page_size=page.page_size, limit=page.limit) for page in wanted.hugepage_limits
        ),
        unified=dict(wanted.unified),
        devices=tuple(device_rule(rule) for rule in wanted.devices),
    )


def device_rule(rule: nri.LinuxDeviceCgroup) -> oci.DeviceCgroup:
    return oci.DeviceCgroup(
        allow=rule.allow,
        type=rule.type,
        major=rule.major.value if rule.HasField("major") else None,
        minor=rule.minor.value if rule.HasField("minor") else None,
        access=rule.access,
    )


def merged_spec(old: oci.Resources, new: oci.Resources) -> oci.Resources:
    """Return ``old`` with what ``new`` gives; its device rules come last, so that they win."""
    pages = {page.page_size: page for page in (*old.hugepage_limits, *new.hugepage_limits)}
    return msgspec.structs.replace(
        old,
        cpu=_over(old.cpu, new.cpu),
        memory=_over(old.memory, new.memory),
        pids=new.pids or old.pids,
        hugepage_limits=tuple(pages.values()),
        unified={**old.unified, **new.unified},
        devices=(*old.devices, *new.devices),
    )


def _over(old: Any, new: Any) -> Any:
    if old is None or new is None:
        return new if old is None else old
    given = {name: value for name in new.__struct_fields__ if (value := getattr(new, name)) is not None and value != ""}
    return msgspec.structs.replace(old, **given)


def in_cri(old: pod.LinuxResources, new: oci.Resources) -> pod.LinuxResources:
    """Return CRI's record of a container's limits after ``new`` was applied: what ContainerStatus reports."""
    cpu, memory = new.cpu or oci.CPU(), new.memory or oci.Memory()
    given: dict[str, Any] = {
        "cpu_period": cpu.period,
        "cpu_quota": cpu.quota,
        "cpu_shares": cpu.shares,
        "cpuset_cpus": cpu.cpus,
        "cpuset_mems": cpu.mems,
        "memory_limit": memory.limit,
        "memory_swap_limit": memory.swap,
    }
    pages = {page.page_size: page for page in old.hugepage_limits}
    pages |= {
        page.page_size: pod.HugepageLimit(page_size=page.page_size, limit=page.limit) for page in new.hugepage_limits
    }
    return msgspec.structs.replace(
        old,
        **{name: value for name, value in given.items() if value},
        hugepage_limits=tuple(pages.values()),
        unified={**old.unified, **new.unified},
    )
