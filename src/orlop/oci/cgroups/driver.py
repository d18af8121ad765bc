"""The interface of a cgroup driver and the choice of the driver for this host.

Life of a container's cgroup: prepare_sandbox -> create_container (limits are in force before any process) -> the fds travel with the
plan, then close() -> update, container_stats, create_exec .. remove_exec -> remove_container -> remove_sandbox.

All calls are synchronous and short: a few dozen file operations, no sleep. Errors are base.errors; FileNotFoundError means that
the cgroup is gone, which is no surprise: kubelet removes pod cgroups with all below them. Test: tests/kernel/cgroups/.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final, Protocol

from orlop.base.errors import FailedPrecondition, InvalidArgument, Unimplemented
from orlop.kernel.cgroupfs import Hierarchy, discover_mounted
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.cgroups.parent import absolute_path
from orlop.oci.cgroups.resources import DEFAULT_DEVICES
from orlop.oci.cgroups.stats import CgroupMetrics, CgroupStats, Group
from orlop.oci.cgroups.v1 import V1Driver
from orlop.oci.cgroups.v2 import V2Driver
from orlop.specs import pod, runtime
from orlop.specs.runtime import DeviceCgroup

DEFAULT_PARENT: Final = "/orlop"


class CgroupDriver(Protocol):
    """What services may ask of cgroups. v1.py and v2.py implement it."""

    @property
    def version(self) -> int:
        """1 or 2."""

    def parent_path(self, cgroup_parent: str, sandbox_id: str) -> str:
        """Return the path under which a sandbox's containers go; raises InvalidArgument for what is no such path."""

    def prepare_sandbox(self, cgroup_parent: str, sandbox_id: str) -> bool:
        """Make sure that the parent exists in all hierarchies; returns whether anything had to be made."""

    def create_container(
        self,
        parent: str,
        container_id: str,
        resources: pod.LinuxResources | runtime.Resources,
        devices: Sequence[DeviceCgroup] = DEFAULT_DEVICES,
    ) -> ContainerCgroup:
        """Make ``<parent>/<container_id>`` with its limits; on failure nothing remains.

        Raises InvalidArgument (a limit is impossible), AlreadyExists, FailedPrecondition, Internal.
        """

    def create_exec(self, path: str, exec_id: str, *, everywhere: bool = False) -> ExecCgroup:
        """Make a cgroup below a container's, for one exec session. ``everywhere``: in every hierarchy of v1, as other runtimes want it."""

    def remove_exec(self, path: str, exec_id: str) -> bool:
        """Remove it when it is empty; processes that the command left go on, and False says that it is removed later."""

    def update(self, path: str, resources: pod.LinuxResources | runtime.Resources) -> None:
        """Apply the limits that are given, all or none. Raises InvalidArgument, FailedPrecondition, NotFound, Internal."""

    def remove_container(self, path: str) -> bool:
        """Kill what is left in a container's cgroup and remove it. False: processes are dying, sweep() removes it. Idempotent."""

    def remove_sandbox(self, parent: str, *, made: bool = True) -> None:
        """Remove a parent as far as it was made here (the mark on it says so) and is empty. Idempotent."""

    def remove_orphans(self, containers: Set[str], sandboxes: Set[str]) -> list[str]:
        """Remove what this daemon once made and neither set names; returns the paths."""

    def sweep(self) -> int:
        """Try again to remove cgroups whose processes were dying; returns how many still wait."""

    def kill_all(self, path: str) -> None:
        """SIGKILL everything in a container's cgroup. Nothing happens for "" and for a cgroup that is gone."""

    def freeze(self, path: str) -> bool:
        """Stop all processes; returns whether they all stand already."""

    def thaw(self, path: str) -> None:
        """Let them go on."""

    def pids(self, path: str) -> list[int]:
        """Return the processes in a container's cgroup and below."""

    def container_stats(self, path: str) -> CgroupStats:
        """Read what a container has used; raises FileNotFoundError."""

    def container_metrics(self, path: str) -> CgroupMetrics:
        """Read everything that is counted of a container's or a pod's cgroup; raises FileNotFoundError."""

    def has_own_parent(self, parent: str) -> bool:
        """Say whether a sandbox's parent is its own, and not the one that all sandboxes without a parent share."""

    def metric_groups(self) -> frozenset[Group]:
        """Return which figures this host counts, looked up in the default parent."""

    def sandbox_stats(self, parent: str, containers: Sequence[str] = ()) -> CgroupStats:
        """Read what a pod has used: its parent's figures, or under the default parent the sum over its containers."""

    def close(self) -> None:
        """Release the hierarchies; containers go on."""


def detect(mode: str = "cgroupfs", *, owner: str = "orlop", default_parent: str = DEFAULT_PARENT) -> CgroupDriver:
    """Return the driver for this host: v1 where memory or cpu is a v1 hierarchy, else v2.

    ``owner`` is what tells this daemon's cgroups from another's: the state directory. Raises Unimplemented for the systemd driver,
    FailedPrecondition on a host without cgroups.
    """
    if mode == "systemd":
        raise Unimplemented(
            "cgroup_driver systemd: scopes over D-Bus are not built; use cgroupfs in orlop's and kubelet's configuration"
        )
    if mode not in ("cgroupfs", ""):
        raise InvalidArgument(f"cgroup_driver {mode!r}: is neither cgroupfs nor systemd")
    if "\n" in owner or not owner:
        raise InvalidArgument(f"cgroup owner {owner!r}: is empty or has more than one line")
    default_parent = absolute_path(default_parent, "default cgroup parent")
    mounted = discover_mounted()
    if any({"memory", "cpu"} & set(each.controllers) for each in mounted if each.version == 1):
        return V1Driver([Hierarchy(each) for each in mounted], owner=owner, default_parent=default_parent)
    unified = [each for each in mounted if each.version == 2]
    if not unified:
        raise FailedPrecondition("cgroups: no hierarchy is mounted (see mount(8), cgroup2 at /sys/fs/cgroup)")
    return V2Driver(Hierarchy(unified[0]), owner=owner, default_parent=default_parent)
