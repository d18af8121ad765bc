"""Resources and devices of a runtime spec: CRI's limits in the document's words, and which devices may be opened. Pure.

Test: tests/unit/services/containers/test_spec.py.
"""

from __future__ import annotations

from typing import Final

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.services.containers.spec_inputs import Host
from orlop.specs import pod
from orlop.specs import runtime as oci
from orlop.specs.pod import ContainerConfig


def _allow(kind: str, major: int | None, minor: int | None, access: str) -> oci.DeviceCgroup:
    return oci.DeviceCgroup(allow=True, type=kind, major=major, minor=minor, access=access)


DEFAULT_DEVICE_RULES: Final = (
    oci.DeviceCgroup(allow=False, access="rwm"),
    # A node may be made for any device; opening it is what the rules below decide.
    _allow("c", None, None, "m"),
    _allow("b", None, None, "m"),
    _allow("c", 1, 3, "rwm"),
    _allow("c", 1, 5, "rwm"),
    _allow("c", 1, 7, "rwm"),
    _allow("c", 1, 8, "rwm"),
    _allow("c", 1, 9, "rwm"),
    _allow("c", 5, 0, "rwm"),
    # /dev/ptmx and what it makes in /dev/pts.
    _allow("c", 5, 2, "rwm"),
    _allow("c", 136, None, "rwm"),
)


def device_rule(config: ContainerConfig, index: int, device: oci.Device) -> oci.DeviceCgroup:
    """Permissions are those of the config's device that the node came from: its own path, or the directory it was found in."""
    access = "rwm"
    for wanted in config.devices:
        path = wanted.container_path.rstrip("/")
        if device.path == path or device.path.startswith(path + "/"):
            access = wanted.permissions or "rwm"
    if not access or set(access) - set("rwm"):
        raise InvalidArgument(f"devices[{index}].permissions: {access!r} is not made of r, w and m")
    return _allow(device.type, device.major, device.minor, access)


def merge_devices(nodes: tuple[oci.Device, ...], asked: tuple[oci.Device, ...]) -> tuple[oci.Device, ...]:
    named = {device.path for device in asked}
    return (*(device for device in nodes if device.path not in named), *asked) if named else nodes


def build_resources(
    wanted: pod.LinuxResources, host: Host, rules: tuple[oci.DeviceCgroup, ...], subject: str
) -> oci.Resources:
    if wanted.unified and not host.cgroup_v2:
        raise FailedPrecondition(f"{subject}: resources.unified: this host has cgroup v1")
    for limit in wanted.hugepage_limits:
        # kubelet names sizes that it has seen; a limit of 0 on one that is not there is kept by itself.
        if limit.limit and host.hugepage_sizes is not None and limit.page_size not in host.hugepage_sizes:
            have = ", ".join(host.hugepage_sizes) or "none"
            raise InvalidArgument(
                f"{subject}: resources.hugepage_limits: this kernel has no pages of {limit.page_size!r} (it has {have})"
            )
    return oci.Resources(
        devices=rules,
        cpu=oci_cpu(wanted),
        memory=oci_memory(wanted, host),
        # kubelet names every page size with limit 0; a host without the controller has no huge pages to limit.
        hugepage_limits=tuple(
            oci.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in wanted.hugepage_limits
        )
        if host.hugetlb
        else (),
        unified=wanted.unified,
    )


def oci_cpu(wanted: pod.LinuxResources) -> oci.CPU | None:
    """Return CRI's cpu fields, None when none is given; 0 means not given."""
    if not (wanted.cpu_period or wanted.cpu_quota or wanted.cpu_shares or wanted.cpuset_cpus or wanted.cpuset_mems):
        return None
    return oci.CPU(
        period=wanted.cpu_period or None,
        quota=wanted.cpu_quota or None,
        shares=wanted.cpu_shares or None,
        cpus=wanted.cpuset_cpus,
        mems=wanted.cpuset_mems,
    )


def oci_memory(wanted: pod.LinuxResources, host: Host) -> oci.Memory | None:
    """Return CRI's memory fields, None when none is given. Without a swap limit a container with a memory limit may not swap."""
    limit, swap = wanted.memory_limit or None, wanted.memory_swap_limit or None
    if limit is None and swap is None:
        return None
    return oci.Memory(limit=limit, swap=(swap if swap is not None else limit) if host.swap else None)
