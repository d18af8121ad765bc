"""Cgroup v1: one directory in each of many hierarchies, and, beside them, the unified one without controllers (hybrid).

A task that is left in "/" of one hierarchy escapes the pod's limits and kubelet's final kill, so every cgroup is made in all of
them. Processes join by writing "0" to ``tasks``: a thread that moves itself takes no global lock, a write to cgroup.procs takes one that
waits for RCU (milliseconds). In the unified hierarchy they are born (CLONE_INTO_CGROUP). Test: tests/kernel/cgroups/test_v1.py.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Sequence, Set
from typing import Final

from orlop.base.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, OrlopError
from orlop.kernel.cgroupfs import Hierarchy
from orlop.oci.cgroups.apply import apply, apply_or_restore, refusal
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.cgroups.parent import cgroupfs_parent, check_name
from orlop.oci.cgroups.resources import (
    DEFAULT_DEVICES,
    HostFacts,
    Write,
    missing_controllers,
    normal,
    v1_device_lines,
    v1_writes,
)
from orlop.oci.cgroups.stats import CgroupMetrics, CgroupStats, Group, total
from orlop.oci.cgroups.tree import MADE_AGAIN, CgroupTree
from orlop.oci.cgroups.v1_figures import V1Figures
from orlop.specs import pod, runtime
from orlop.specs.runtime import DeviceCgroup

log = logging.getLogger(__name__)

FREEZE_NS: Final = 5_000_000
"""How long freeze() looks for the last process to stand; the caller may ask again."""
KILL_ROUNDS: Final = 4
DEVICE_LISTS_KEPT: Final = 256
DeviceLines = tuple[tuple[str, tuple[str, ...]], ...]


class V1Driver:
    """The cgroupfs driver for v1 hierarchies. Holds one O_PATH fd a hierarchy."""

    version: int = 1

    def __init__(
        self,
        hierarchies: Sequence[Hierarchy],
        *,
        owner: str,
        default_parent: str,
        tolerate_missing_hugetlb: bool = True,
    ) -> None:
        self._all = tuple(hierarchies)
        self._v1 = tuple(each for each in self._all if each.version == 1)
        self._unified = next((each for each in self._all if each.version == 2), None)
        self._by_controller = {name: each for each in self._v1 for name in each.controllers}
        self._tree = CgroupTree(self._all, owner=owner, default_parent=default_parent)
        self._figures = V1Figures(self._by_controller, self._unified)
        self._tolerate_missing_hugetlb = tolerate_missing_hugetlb
        self._facts: HostFacts | None = None
        self._lines_of: dict[tuple[DeviceCgroup, ...], DeviceLines] = {}
        self._marked_in = self._by_controller.get("memory") or self._v1[0]
        self._freezer = self._by_controller.get("freezer")
        self._cpuset = self._by_controller.get("cpuset")

    # ---- parents

    def parent_path(self, cgroup_parent: str, sandbox_id: str) -> str:
        """See CgroupDriver."""
        return cgroupfs_parent(cgroup_parent, self._tree.default_parent)

    def prepare_sandbox(self, cgroup_parent: str, sandbox_id: str) -> bool:
        """See CgroupDriver."""
        return self._make_parent(self.parent_path(cgroup_parent, sandbox_id), sandbox_id)

    def _make_parent(self, path: str, sandbox_id: str) -> bool:
        try:
            return self._tree.make_parent(path, sandbox_id, self._prepare)
        except OSError as error:
            raise Internal(f"cgroup parent {path}: cannot be made: {error}") from error

    def _prepare(self, hierarchy: Hierarchy, path: str) -> None:
        if hierarchy is self._cpuset:
            self._fill_cpuset(hierarchy, path)

    def _fill_cpuset(self, hierarchy: Hierarchy, path: str) -> tuple[str, str]:
        """Give a cpuset its parent's cpus and memory nodes where it has none, from the top: a task cannot enter an empty one."""
        cpus, mems = hierarchy.read(path, "cpuset.cpus"), hierarchy.read(path, "cpuset.mems")
        if (cpus and mems) or path == "/":
            return cpus, mems
        from_cpus, from_mems = self._fill_cpuset(hierarchy, path.rpartition("/")[0] or "/")
        if not cpus:
            hierarchy.write(path, "cpuset.cpus", from_cpus)
        if not mems:
            hierarchy.write(path, "cpuset.mems", from_mems)
        return cpus or from_cpus, mems or from_mems

    def remove_sandbox(self, parent: str, *, made: bool = True) -> None:
        """See CgroupDriver. The marks on the cgroups decide, also where ``made`` is False: a parent may have been made again."""
        self._figures.forget(parent)
        self._tree.sweep()
        self._tree.remove_parent(parent)

    # ---- containers

    def create_container(
        self,
        parent: str,
        container_id: str,
        resources: pod.LinuxResources | runtime.Resources,
        devices: Sequence[DeviceCgroup] = DEFAULT_DEVICES,
    ) -> ContainerCgroup:
        """See CgroupDriver."""
        path = f"{parent.rstrip('/')}/{check_name(container_id, 'container id')}"
        self._tree.guard(path)
        wanted = normal(resources)
        try:
            writes = self._usable(v1_writes(wanted, self._facts_of(parent)))
            device_lines = self._device_lines(tuple(devices))
        except (InvalidArgument, FailedPrecondition) as error:
            raise type(error)(f"container {container_id}: {error}") from error
        try:
            self._make(path)
            self._marked_in.mark(path, self._tree.owner)
            if self._unified is not None:
                # Another runtime removes the cgroups that it knows, and with them the mark in them, but not this one.
                self._unified.mark(path, self._tree.owner)
            if self._cpuset is not None:
                self._enter_cpuset(self._cpuset, path, wanted)
            apply((write for write in writes if write.controller != "cpuset"), lambda write: self._write(path, write))
            self._write_devices(path, device_lines)
            return self._open(path)
        except OrlopError as error:
            self._undo(path, error)
            raise type(error)(f"container {container_id}: {error}") from error
        except OSError as error:
            self._undo(path, error)
            raise Internal(f"container {container_id}: cgroup {path}: {error}") from error

    def _undo(self, path: str, error: Exception) -> None:
        # The cgroups of another container of this id are not ours to take away.
        if not isinstance(error, AlreadyExists):
            self._tree.remove_idle(path)

    def _usable(self, writes: Sequence[Write]) -> list[Write]:
        """Return the writes without those for a missing hugetlb controller; any other missing one is an error."""
        missing = missing_controllers(writes, frozenset(self._by_controller))
        for controller, write in missing.items():
            if controller != "hugetlb":
                raise InvalidArgument(f"{write.file} = {write.value}: this host has no {controller} hierarchy")
            for each in writes:
                if each.controller == "hugetlb" and each.value != "0":
                    if not self._tolerate_missing_hugetlb:
                        raise InvalidArgument(f"{each.file} = {each.value}: this host has no hugetlb hierarchy")
                    log.warning("%s = %s is not enforced: this host has no hugetlb hierarchy", each.file, each.value)
        return [write for write in writes if write.controller not in missing]

    def _facts_of(self, parent: str) -> HostFacts:
        if self._facts is None:
            memory, blkio = self._by_controller.get("memory"), self._by_controller.get("blkio")
            self._facts = HostFacts(
                controllers=frozenset(self._by_controller),
                swap=memory is not None and memory.has_file("/", "memory.memsw.limit_in_bytes"),
                # The root has no weight file: look into the parent, which was prepared before.
                bfq=blkio is not None
                and not blkio.has_file(parent, "blkio.weight")
                and blkio.has_file(parent, "blkio.bfq.weight"),
            )
        return self._facts

    def _make(self, path: str) -> None:
        made: list[Hierarchy] = []
        for hierarchy in self._all:
            try:
                self._mkdir(hierarchy, path)
            except FileExistsError:
                for each in made:
                    each.rmdir(path)
                raise AlreadyExists(f"cgroup {path}: is there already ({hierarchy.full_path(path)})") from None
            made.append(hierarchy)

    def _mkdir(self, hierarchy: Hierarchy, path: str) -> None:
        try:
            hierarchy.mkdir(path)
        except FileNotFoundError:
            # Another pod of the same parent was removed, and the parent, empty for a moment, with it.
            self._make_parent(path.rpartition("/")[0] or "/", MADE_AGAIN)
            hierarchy.mkdir(path)

    def _enter_cpuset(self, hierarchy: Hierarchy, path: str, wanted: runtime.Resources) -> None:
        """Fill a new cpuset with what is asked for, else with the parent's."""
        cpus, mems = self._fill_cpuset(hierarchy, path.rpartition("/")[0] or "/")
        cpu = wanted.cpu or runtime.CPU()
        for file, asked, inherited in (("cpuset.cpus", cpu.cpus, cpus), ("cpuset.mems", cpu.mems, mems)):
            write = Write(controller="cpuset", file=file, value=asked or inherited)
            try:
                hierarchy.write(path, file, write.value)
            except OSError as error:
                raise refusal(write, error) from error

    def _write(self, path: str, write: Write) -> None:
        self._by_controller[write.controller].write(path, write.file, write.value)

    def _read(self, path: str, write: Write) -> str:
        return self._by_controller[write.controller].read(path, write.file)

    def _device_lines(self, rules: tuple[DeviceCgroup, ...]) -> DeviceLines:
        """Return the lines of a rule list; worked out once for each list, as most containers have the same."""
        lines = self._lines_of.get(rules)
        if lines is None:
            lines = v1_device_lines(rules)
            if len(self._lines_of) < DEVICE_LISTS_KEPT:
                self._lines_of[rules] = lines
        return lines

    def _write_devices(self, path: str, lines: DeviceLines) -> None:
        hierarchy = self._by_controller.get("devices")
        if hierarchy is None:
            if lines:
                raise FailedPrecondition("device rules: this host has no devices hierarchy to enforce them")
            return
        for file, values in lines:
            try:
                hierarchy.write_lines(path, file, values)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EINVAL):
                    raise InvalidArgument(
                        f"{file}: not allowed in the parent cgroup or no such rule: {error}"
                    ) from error
                raise

    def _open(self, path: str) -> ContainerCgroup:
        fds: list[int] = []
        try:
            for hierarchy in self._v1:
                fds.append(hierarchy.open(path, "tasks", os.O_WRONLY))
            join = tuple(fds)
            kill = (self._freezer or self._v1[0]).open_directory(path)
            fds.append(kill)
            memory = self._by_controller.get("memory")
            oom = -1 if memory is None else memory.open_directory(path)
            fds.append(oom)
            clone = -1 if self._unified is None else self._unified.open_directory(path)
        except OSError:
            for fd in fds:
                if fd >= 0:
                    os.close(fd)
            raise
        return ContainerCgroup(path=path, version=1, join_fds=join, clone_fd=clone, kill_fd=kill, oom_fd=oom)

    def remove_container(self, path: str) -> bool:
        """See CgroupDriver."""
        if not path:
            return True
        self._tree.guard(path)
        self._figures.forget(path)
        return self._tree.remove(path, self.kill_all)

    def remove_orphans(self, containers: Set[str], sandboxes: Set[str]) -> list[str]:
        """See CgroupDriver."""
        return self._tree.remove_orphans(containers, sandboxes, self.kill_all)

    def sweep(self) -> int:
        """See CgroupDriver."""
        return self._tree.sweep()

    # ---- execs

    def create_exec(self, path: str, exec_id: str, *, everywhere: bool = False) -> ExecCgroup:
        """See CgroupDriver. Else only the freezer hierarchy gets a cgroup of its own: limits are the container's."""
        self._tree.guard(path)
        below = f"{path}/{check_name(exec_id, 'exec id')}"
        killer = self._freezer or self._v1[0]
        fds: list[int] = []
        try:
            killer.mkdir(below)
            for hierarchy in self._v1:
                if everywhere and hierarchy is not killer:
                    hierarchy.mkdir(below)
                    self._prepare(hierarchy, below)
                own = everywhere or hierarchy is killer
                fds.append(hierarchy.open(below if own else path, "tasks", os.O_WRONLY))
            join = tuple(fds)
            fds.append(killer.open_directory(below))
            clone = -1 if self._unified is None else self._unified.open_directory(path)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            if error.errno != errno.EEXIST and killer.exists(below):
                self.remove_exec(path, exec_id)
            if isinstance(error, FileNotFoundError):
                raise NotFound(f"cgroup {path}: is gone ({error.filename})") from error
            raise Internal(f"cgroup {below}: cannot be made: {error}") from error
        return ExecCgroup(path=below, version=1, join_fds=join, clone_fd=clone, kill_fd=fds[-1])

    def remove_exec(self, path: str, exec_id: str) -> bool:
        """See CgroupDriver."""
        self._tree.guard(path)
        return self._tree.remove_idle(f"{path}/{check_name(exec_id, 'exec id')}")

    # ---- changes

    def update(self, path: str, resources: pod.LinuxResources | runtime.Resources) -> None:
        """See CgroupDriver."""
        self._tree.guard(path)
        subject = path.rpartition("/")[2]
        wanted = normal(resources)
        if not self._marked_in.exists(path):
            raise NotFound(f"container {subject}: cgroup {path} is gone")
        try:
            writes = self._usable(v1_writes(wanted, self._facts_of(path.rpartition("/")[0] or "/")))
            self._refuse_below_usage(path, wanted)
            apply_or_restore(
                subject, writes, lambda write: self._read(path, write), lambda write: self._write(path, write)
            )
        except OrlopError as error:
            raise type(error)(f"container {subject}: {error}") from error

    def _refuse_below_usage(self, path: str, wanted: runtime.Resources) -> None:
        """A limit below what is in use would make the kernel reclaim and then kill: the caller must not learn it that way."""
        memory = self._by_controller.get("memory")
        limit = wanted.memory.limit if wanted.memory is not None else None
        if memory is None or limit is None or limit < 0:
            return
        usage = int(memory.read(path, "memory.usage_in_bytes"))
        if limit < usage:
            raise FailedPrecondition(f"memory limit {limit}: is below the {usage} bytes in use")

    def kill_all(self, path: str) -> None:
        """See CgroupDriver. Freeze first, so that nobody forks between the look and the kill; frozen pids cannot be reused."""
        if not path:
            return
        self._tree.guard(path)
        if self._unified is not None and self._unified.exists(path):
            try:
                self._unified.write(path, "cgroup.kill", "1")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                    raise Internal(f"cgroup {path}: {error}") from error
        killer = self._freezer or self._v1[0]
        for _ in range(KILL_ROUNDS):
            if not killer.exists(path):
                return
            frozen = self._freezer is not None and self.freeze(path)
            pids = self._tree.members(killer, path)
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self._freezer is not None:
                self.thaw(path)
            if frozen or not pids:
                return

    def freeze(self, path: str) -> bool:
        """See CgroupDriver."""
        self._tree.guard(path)
        if self._freezer is None:
            raise FailedPrecondition(f"cgroup {path}: this host has no freezer hierarchy")
        try:
            until = time.monotonic_ns() + FREEZE_NS
            turn = 0
            while True:
                # A task that forks while it is being frozen needs the state to be written again.
                if turn % 16 == 0:
                    self._freezer.write(path, "freezer.state", "FROZEN")
                if self._freezer.read(path, "freezer.state") == "FROZEN":
                    return True
                if time.monotonic_ns() > until:
                    return False
                turn += 1
                os.sched_yield()
        except FileNotFoundError:
            return True

    def thaw(self, path: str) -> None:
        """See CgroupDriver."""
        self._tree.guard(path)
        if self._freezer is None:
            raise FailedPrecondition(f"cgroup {path}: this host has no freezer hierarchy")
        try:
            self._freezer.write(path, "freezer.state", "THAWED")
        except FileNotFoundError:
            return

    def pids(self, path: str) -> list[int]:
        """See CgroupDriver."""
        self._tree.guard(path)
        return sorted(self._tree.members(self._freezer or self._v1[0], path))

    # ---- figures

    def container_stats(self, path: str) -> CgroupStats:
        """See CgroupDriver."""
        self._tree.guard(path)
        return self._figures.stats(path)

    def container_metrics(self, path: str) -> CgroupMetrics:
        """See CgroupDriver."""
        self._tree.guard(path)
        return self._figures.metrics(path)

    def has_own_parent(self, parent: str) -> bool:
        """See CgroupDriver."""
        return parent not in ("", "/", self._tree.default_parent)

    def metric_groups(self) -> frozenset[Group]:
        """See CgroupDriver."""
        parent = self._tree.default_parent
        self._make_parent(parent, MADE_AGAIN)
        groups = self._figures.groups(parent)
        self._figures.forget(parent)
        return groups

    def sandbox_stats(self, parent: str, containers: Sequence[str] = ()) -> CgroupStats:
        """See CgroupDriver."""
        if self.has_own_parent(parent):
            try:
                return self.container_stats(parent)
            except FileNotFoundError:
                log.debug("cgroup %s: gone, its containers are summed", parent)
        parts: list[CgroupStats] = []
        for path in containers:
            try:
                parts.append(self.container_stats(path))
            except FileNotFoundError:
                continue
        return total(parts)

    def close(self) -> None:
        """See CgroupDriver."""
        self._figures.meters.close()
        self._tree.close()
