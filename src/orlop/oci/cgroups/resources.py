"""Limits to file writes: CRI's and OCI's resources to an ordered list of (controller, file, value). Pure: no file is touched.

The OCI form (specs/runtime.py Resources) is the normal one; CRI's is turned into it first. Formulas are those of runc and crun, so
that a container weighs the same under either. Drivers apply the lists. Test: tests/unit/oci/cgroups/test_resources.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.kernel.bpf import ACC_MKNOD, ACC_READ, ACC_WRITE, DEV_BLOCK, DEV_CHAR, DeviceMatch
from orlop.specs import pod, runtime
from orlop.specs.runtime import DeviceCgroup

DEFAULT_CPU_MAX: Final = "max 100000"
_CPU_LIST = re.compile(r"\d{1,7}(-\d{1,7})?(,\d{1,7}(-\d{1,7})?)*")
_PAGE_SIZE = re.compile(r"[1-9]\d{0,6}(KB|MB|GB)")
_UNIFIED_KEY = re.compile(r"(?!cgroup\.)[a-z0-9_]+(\.[A-Za-z0-9_]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One value for one file of one controller."""

    controller: str
    file: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What of this kernel decides which files are written."""

    controllers: frozenset[str]
    swap: bool = True
    """Swap is accounted: memory.memsw.* or memory.swap.* exist."""
    bfq: bool = False
    """Weights of block I/O are the BFQ scheduler's."""


# ---- CRI to OCI


def from_cri(resources: pod.LinuxResources, *, pids_limit: int = 0) -> runtime.Resources:
    """Return the OCI form of CRI resources: zero is "not given"; a memory limit without a swap limit means no swap."""
    memory = None
    if resources.memory_swap_limit > 0 and resources.memory_limit <= 0:
        raise InvalidArgument(f"memory_swap_limit {resources.memory_swap_limit}: given without memory_limit")
    if resources.memory_limit or resources.memory_swap_limit:
        swap: int | None = resources.memory_swap_limit or resources.memory_limit
        memory = runtime.Memory(limit=resources.memory_limit or None, swap=swap)
    cpu = None
    if resources.cpu_shares < 0 or resources.cpu_period < 0:
        raise InvalidArgument("cpu_shares and cpu_period: must not be negative")
    if any(
        (resources.cpu_shares, resources.cpu_quota, resources.cpu_period, resources.cpuset_cpus, resources.cpuset_mems)
    ):
        cpu = runtime.CPU(
            shares=resources.cpu_shares or None,
            quota=resources.cpu_quota or None,
            period=resources.cpu_period or None,
            cpus=resources.cpuset_cpus,
            mems=resources.cpuset_mems,
        )
    return runtime.Resources(
        memory=memory,
        cpu=cpu,
        pids=runtime.Pids(limit=pids_limit) if pids_limit else None,
        hugepage_limits=tuple(
            runtime.HugepageLimit(page_size=each.page_size, limit=each.limit) for each in resources.hugepage_limits
        ),
        unified=dict(resources.unified),
    )


def normal(resources: pod.LinuxResources | runtime.Resources) -> runtime.Resources:
    """Return the OCI form of either."""
    return from_cri(resources) if isinstance(resources, pod.LinuxResources) else resources


# ---- formulas


def shares_to_weight(shares: int) -> int:
    """Return cpu.weight for cpu.shares: 1024 is 100, the ends meet (runc 1.3.2, crun 1.23). 0 stays 0: not given."""
    if shares <= 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """Return io.weight (1 to 10000) for blkio.weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990


def swap_max(limit: int, swap: int) -> str:
    """Return memory.swap.max for OCI's memory limit and limit of memory plus swap; "" leaves it alone."""
    if limit == -1 and swap == 0:
        return "max"
    if swap == -1:
        return "max"
    if swap == 0:
        return ""
    if limit <= 0:
        raise InvalidArgument(f"memory swap limit {swap}: given without a memory limit")
    if swap < limit:
        raise InvalidArgument(
            f"memory swap limit {swap}: is memory plus swap, so it must not be below the memory limit {limit}"
        )
    return str(swap - limit)


# ---- checks


def _check(resources: runtime.Resources) -> None:
    cpu, memory, io = resources.cpu, resources.memory, resources.block_io
    if cpu is not None:
        for field, text in (("cpuset cpus", cpu.cpus), ("cpuset mems", cpu.mems)):
            if text and not _CPU_LIST.fullmatch(text):
                raise InvalidArgument(f"{field} {text[:80]!r}: is not a list like 0-3,7")
        if cpu.quota is not None and cpu.quota < -1:
            raise InvalidArgument(f"cpu quota {cpu.quota}: is neither -1 nor positive")
    if memory is not None:
        for field, value in (
            ("memory limit", memory.limit),
            ("memory swap limit", memory.swap),
            ("memory reservation", memory.reservation),
        ):
            if value is not None and value < -1:
                raise InvalidArgument(f"{field} {value}: is neither -1 nor positive")
        limit, swap = memory.limit or 0, memory.swap or 0
        if swap > 0:
            swap_max(limit, swap)
    if io is not None and io.weight is not None and io.weight and not 10 <= io.weight <= 1000:
        raise InvalidArgument(f"block io weight {io.weight}: is not between 10 and 1000")
    for page in resources.hugepage_limits:
        if not _PAGE_SIZE.fullmatch(page.page_size):
            raise InvalidArgument(f"hugepage limit: {page.page_size[:80]!r} is not a page size like 2MB")
    for key, text in resources.unified.items():
        if not _UNIFIED_KEY.fullmatch(key):
            raise InvalidArgument(f"unified {key[:80]!r}: is not the name of a controller's file")
        if not text or "\0" in text or len(text) > 4096:
            raise InvalidArgument(f"unified {key}: the value is empty, too long or holds a NUL")


def missing_controllers(writes: Iterable[Write], controllers: frozenset[str]) -> dict[str, Write]:
    """Return the controllers that are needed and not there, each with the first write that needs it."""
    missing: dict[str, Write] = {}
    for write in writes:
        if write.controller not in controllers:
            missing.setdefault(write.controller, write)
    return missing


# ---- cgroup v1


def v1_writes(resources: runtime.Resources, facts: HostFacts) -> tuple[Write, ...]:
    """Return the writes for v1 hierarchies in the order for a new cgroup, whose limits are all open."""
    _check(resources)
    if resources.unified:
        raise FailedPrecondition(
            f"unified {next(iter(resources.unified))}: needs cgroup v2, this host has v1 hierarchies"
        )
    writes: list[Write] = []

    def add(controller: str, file: str, value: object) -> None:
        if value is not None and value != "":
            writes.append(Write(controller=controller, file=f"{controller}.{file}", value=str(value)))

    cpu = resources.cpu
    if cpu is not None:
        add("cpuset", "cpus", cpu.cpus)
        add("cpuset", "mems", cpu.mems)
        add("cpu", "shares", cpu.shares or None)
        add("cpu", "idle", cpu.idle)
        add("cpu", "rt_period_us", cpu.realtime_period or None)
        add("cpu", "rt_runtime_us", cpu.realtime_runtime or None)
        add("cpu", "cfs_period_us", cpu.period or None)
        add("cpu", "cfs_quota_us", cpu.quota or None)
        add("cpu", "cfs_burst_us", cpu.burst)
    memory = resources.memory
    if memory is not None:
        add("memory", "limit_in_bytes", memory.limit or None)
        if facts.swap:
            add("memory", "memsw.limit_in_bytes", memory.swap or (-1 if memory.limit == -1 else None))
        elif memory.swap not in (None, 0, -1, memory.limit):
            raise FailedPrecondition(f"memory swap limit {memory.swap}: the kernel does not account swap")
        add("memory", "soft_limit_in_bytes", memory.reservation or None)
        add("memory", "kmem.tcp.limit_in_bytes", memory.kernel_tcp or None)
        add("memory", "swappiness", memory.swappiness)
        add("memory", "oom_control", 1 if memory.disable_oom_killer else None)
    if resources.pids is not None and resources.pids.limit:
        add("pids", "max", resources.pids.limit if resources.pids.limit > 0 else "max")
    io = resources.block_io
    if io is not None:
        prefix = "bfq." if facts.bfq else ""
        add("blkio", f"{prefix}weight", io.weight or None)
        for device in io.weight_device:
            if device.weight:
                add("blkio", f"{prefix}weight_device", f"{device.major}:{device.minor} {device.weight}")
        for file, throttles in _throttles(io):
            for throttle in throttles:
                add("blkio", f"throttle.{file}_device", f"{throttle.major}:{throttle.minor} {throttle.rate}")
    for page in resources.hugepage_limits:
        add("hugetlb", f"{page.page_size}.limit_in_bytes", page.limit)
    if resources.network is not None:
        add("net_cls", "classid", resources.network.class_id or None)
        for priority in resources.network.priorities:
            add("net_prio", "ifpriomap", f"{priority.name} {priority.priority}")
    for name, rdma in resources.rdma.items():
        add("rdma", "max", _rdma(name, rdma))
    return tuple(writes)


def _throttles(io: runtime.BlockIO) -> tuple[tuple[str, tuple[runtime.ThrottleDevice, ...]], ...]:
    return (
        ("read_bps", io.throttle_read_bps_device),
        ("write_bps", io.throttle_write_bps_device),
        ("read_iops", io.throttle_read_iops_device),
        ("write_iops", io.throttle_write_iops_device),
    )


def _rdma(name: str, rdma: runtime.Rdma) -> str:
    words = [name]
    if rdma.hca_handles is not None:
        words.append(f"hca_handle={rdma.hca_handles}")
    if rdma.hca_objects is not None:
        words.append(f"hca_object={rdma.hca_objects}")
    return " ".join(words)


# ---- cgroup v2


def v2_writes(resources: runtime.Resources, facts: HostFacts, *, cpu_max: str = DEFAULT_CPU_MAX) -> tuple[Write, ...]:
    """Return the writes for the unified hierarchy; the ``unified`` map comes last and so wins.

    ``cpu_max`` is what the file says now: quota and period share it, and the one that is not given stays as it is.
    """
    _check(resources)
    writes: list[Write] = []

    def add(controller: str, file: str, value: object) -> None:
        if value is not None and value != "":
            writes.append(Write(controller=controller, file=f"{controller}.{file}", value=str(value)))

    cpu = resources.cpu
    if cpu is not None:
        add("cpuset", "cpus", cpu.cpus)
        add("cpuset", "mems", cpu.mems)
        add("cpu", "idle", cpu.idle)
        if not cpu.idle:
            add("cpu", "weight", shares_to_weight(cpu.shares or 0) or None)
        if cpu.quota or cpu.period:
            old_quota, _, old_period = cpu_max.partition(" ")
            quota = old_quota if not cpu.quota else "max" if cpu.quota < 0 else str(cpu.quota)
            add("cpu", "max", f"{quota} {cpu.period or old_period}")
        add("cpu", "max.burst", cpu.burst)
    memory = resources.memory
    if memory is not None:
        limit, swap = memory.limit or 0, memory.swap or 0
        swap_text = swap_max(limit, swap)
        # Without swap accounting the file is missing: "no swap" and "as much as you like" are then true by themselves.
        if facts.swap:
            add("memory", "swap.max", swap_text)
        elif swap_text not in ("", "0", "max"):
            raise FailedPrecondition(f"memory swap limit {swap}: the kernel does not account swap")
        add("memory", "max", "" if limit == 0 else "max" if limit < 0 else limit)
        reservation = memory.reservation or 0
        add("memory", "low", "" if reservation == 0 else "max" if reservation < 0 else reservation)
    if resources.pids is not None and resources.pids.limit:
        add("pids", "max", resources.pids.limit if resources.pids.limit > 0 else "max")
    io = resources.block_io
    if io is not None:
        if io.weight:
            add(
                "io",
                "bfq.weight" if facts.bfq else "weight",
                io.weight if facts.bfq else f"default {io_weight(io.weight)}",
            )
        for device in io.weight_device:
            if device.weight:
                weight = device.weight if facts.bfq else io_weight(device.weight)
                add("io", "bfq.weight" if facts.bfq else "weight", f"{device.major}:{device.minor} {weight}")
        for (_, throttles), word in zip(_throttles(io), ("rbps", "wbps", "riops", "wiops"), strict=True):
            for throttle in throttles:
                add("io", "max", f"{throttle.major}:{throttle.minor} {word}={throttle.rate or 'max'}")
    for page in resources.hugepage_limits:
        add("hugetlb", f"{page.page_size}.max", page.limit)
        add("hugetlb", f"{page.page_size}.rsvd.max", page.limit)
    for name, rdma in resources.rdma.items():
        add("rdma", "max", _rdma(name, rdma))
    for key, text in resources.unified.items():
        writes += [Write(controller=key.partition(".")[0], file=key, value=line) for line in text.splitlines()]
    return tuple(writes)


# ---- devices

_ANY = "rwm"


def _rule(kind: str, major: int | None, minor: int | None, access: str = _ANY, *, allow: bool = True) -> DeviceCgroup:
    return DeviceCgroup(allow=allow, type=kind, major=major, minor=minor, access=access)


ALLOW_ALL: Final = (DeviceCgroup(allow=True, type="a", access=_ANY),)
"""For privileged containers."""
DEFAULT_DEVICES: Final = (
    DeviceCgroup(allow=False, type="a", access=_ANY),
    _rule("c", None, None, "m"),
    _rule("b", None, None, "m"),
    _rule("c", 1, 3),  # null
    _rule("c", 1, 5),  # zero
    _rule("c", 1, 7),  # full
    _rule("c", 1, 8),  # random
    _rule("c", 1, 9),  # urandom
    _rule("c", 5, 0),  # tty
    _rule("c", 5, 2),  # ptmx
    _rule("c", 136, None),  # pts
)
"""runc's set: making any node is harmless, opening it is what counts."""


def _numbers(rule: DeviceCgroup) -> tuple[int | None, int | None]:
    return (None if rule.major in (None, -1) else rule.major, None if rule.minor in (None, -1) else rule.minor)


def is_wildcard(rule: DeviceCgroup) -> bool:
    """Say whether a rule is about all devices and all access."""
    everything = set(rule.access or _ANY) >= set(_ANY)
    return (rule.type or "a") == "a" and _numbers(rule) == (None, None) and everything


def effective_rules(rules: Sequence[DeviceCgroup]) -> tuple[bool, tuple[DeviceCgroup, ...]]:
    """Return the default and the rules after the last wildcard, which makes all before it void. No wildcard: deny is the default."""
    for index in range(len(rules) - 1, -1, -1):
        if is_wildcard(rules[index]):
            return rules[index].allow, tuple(rules[index + 1 :])
    return False, tuple(rules)


def v1_device_lines(rules: Sequence[DeviceCgroup]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (file, lines) in order for a cgroup that has its parent's rules: nothing for "all are allowed"."""
    default, rest = effective_rules(rules)
    groups: list[tuple[str, list[str]]] = [] if default else [("devices.deny", ["a"])]
    for rule in rest:
        if rule.type not in ("b", "c", "u", "p"):
            raise InvalidArgument(
                f"device rule {rule.type!r}: a rule for both kinds of device cannot name numbers or access"
            )
        if rule.type == "p":
            continue
        major, minor = ("*" if number is None else str(number) for number in _numbers(rule))
        _access(rule)
        line = f"{'c' if rule.type == 'u' else rule.type} {major}:{minor} {rule.access or _ANY}"
        file = "devices.allow" if rule.allow else "devices.deny"
        if groups and groups[-1][0] == file:
            groups[-1][1].append(line)
        else:
            groups.append((file, [line]))
    return tuple((file, tuple(lines)) for file, lines in groups)


def _access(rule: DeviceCgroup) -> int:
    bits = {"r": ACC_READ, "w": ACC_WRITE, "m": ACC_MKNOD}
    access = 0
    for letter in rule.access or _ANY:
        if letter not in bits:
            raise InvalidArgument(f"device rule: access {rule.access!r} is not made of r, w and m")
        access |= bits[letter]
    return access


def device_matches(rules: Sequence[DeviceCgroup]) -> tuple[bool, tuple[DeviceMatch, ...]]:
    """Return (default, matches in the order of the program) for v2: the last rule that matches wins, so it comes first.

    Rules that allow parts of the access to one device are joined, as on v1: "r" and "w" together allow an open for both.
    """
    default, rest = effective_rules(rules)
    merged: list[tuple[bool, int | None, int | None, int | None, int]] = []
    for rule in rest:
        if rule.type == "p":
            continue
        kinds = {"b": DEV_BLOCK, "c": DEV_CHAR, "u": DEV_CHAR, "a": None, "": None}
        if rule.type not in kinds:
            raise InvalidArgument(f"device rule: type {rule.type!r} is not one of a, b, c, u, p")
        major, minor = _numbers(rule)
        key = (rule.allow, kinds[rule.type], major, minor)
        access = _access(rule)
        if rule.allow:
            for index in range(len(merged) - 1, -1, -1):
                if not merged[index][0]:
                    break  # a denial lies between: order matters
                if merged[index][:4] == key:
                    access |= merged.pop(index)[4]
                    break
        merged.append((*key, access))
    if default:
        # Allowed is the default already: only denials change anything, and an allowance after one of them.
        while merged and merged[0][0]:
            merged.pop(0)
    return default, tuple(
        DeviceMatch(verdict=allow, type=kind, major=major, minor=minor, access=access)
        for allow, kind, major, minor, access in reversed(merged)
    )
