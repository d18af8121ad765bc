"""Cgroup v2: one directory, controllers handed down from above, devices by an eBPF program, kill and freeze by files.

Works with whatever controllers the hierarchy has; a limit of one that is missing is an error. Processes are born into the cgroup
(CLONE_INTO_CGROUP). Test: tests/kernel/cgroups/test_v2.py (on hosts with v1 controllers: the parts that need none), tests/vm.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import signal
import time
from collections.abc import Sequence, Set
from typing import Final

from orlop.base.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, OrlopError
from orlop.kernel.bpf import assemble, set_device_program
from orlop.kernel.cgroupfs import Hierarchy
from orlop.oci.cgroups.apply import apply, apply_or_restore
from orlop.oci.cgroups.handles import ContainerCgroup, ExecCgroup
from orlop.oci.cgroups.parent import cgroupfs_parent, check_name
from orlop.oci.cgroups.resources import (
    DEFAULT_CPU_MAX,
    DEFAULT_DEVICES,
    HostFacts,
    Write,
    device_matches,
    missing_controllers,
    normal,
    v2_writes,
)
from orlop.oci.cgroups.stats import CgroupMetrics, CgroupStats, Group, parse_flat, total
from orlop.oci.cgroups.tree import MADE_AGAIN, CgroupTree
from orlop.oci.cgroups.v2_figures import V2Figures
from orlop.specs import pod, runtime
from orlop.specs.runtime import DeviceCgroup

log = logging.getLogger(__name__)

DEVICE_LISTS_KEPT: Final = 256
FREEZE_NS: Final = 5_000_000
"""How long freeze() looks for the last process to stand; the caller may ask again."""
# Handed down where they exist; others (rdma, misc) too when a limit asks for them.
HANDED_DOWN: Final = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")


class V2Driver:
    """The cgroupfs driver for the unified hierarchy. Holds its O_PATH fd."""

    version: int = 2

    def __init__(
        self, hierarchy: Hierarchy, *, owner: str, default_parent: str, tolerate_missing_hugetlb: bool = True
    ) -> None:
        self._cgroup = hierarchy
        self._tree = CgroupTree((hierarchy,), owner=owner, default_parent=default_parent)
        self._figures = V2Figures(hierarchy)
        self._tolerate_missing_hugetlb = tolerate_missing_hugetlb
        self._wanted = tuple(name for name in HANDED_DOWN if name in hierarchy.controllers)
        self._facts: HostFacts | None = None
        self._programs: dict[tuple[DeviceCgroup, ...], bytes] = {}

    # ---- parents

    def parent_path(self, cgroup_parent: str, sandbox_id: str) -> str:
        """See CgroupDriver."""
        return cgroupfs_parent(cgroup_parent, self._tree.default_parent)

    def prepare_sandbox(self, cgroup_parent: str, sandbox_id: str) -> bool:
        """See CgroupDriver."""
        return self._make_parent(self.parent_path(cgroup_parent, sandbox_id), sandbox_id)

    def _make_parent(self, path: str, sandbox_id: str) -> bool:
        try:
            made = self._tree.make_parent(path, sandbox_id, lambda _hierarchy, _path: None)
            self._hand_down(path)
            return made
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise FailedPrecondition(
                    f"cgroup parent {path}: controllers cannot be handed down, a cgroup with processes is above ({error.filename})"
                ) from error
            raise Internal(f"cgroup parent {path}: cannot be made: {error}") from error

    def _hand_down(self, path: str) -> None:
        """Enable the controllers for the children of every cgroup from the root to ``path``."""
        above = [""]
        for part in path.strip("/").split("/"):
            if part:
                above.append(f"{above[-1]}/{part}")
        for each in above:
            enabled = self._cgroup.read(each or "/", "cgroup.subtree_control").split()
            missing = [name for name in self._wanted if name not in enabled]
            if missing:
                self._cgroup.write(each or "/", "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))

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
        try:
            program = self._program(tuple(devices))
        except (InvalidArgument, FailedPrecondition) as error:
            raise type(error)(f"container {container_id}: {error}") from error
        try:
            self._mkdir(path)
            self._cgroup.mark(path, self._tree.owner)
            writes = self._usable(v2_writes(normal(resources), self._facts_of(path)))
            apply(writes, lambda write: self._cgroup.write(path, write.file, write.value))
            directory = self._cgroup.open_directory(path)
            try:
                if program:
                    set_device_program(directory, program)
            except BaseException:
                os.close(directory)
                raise
        except OrlopError as error:
            self._undo(path, error)
            raise type(error)(f"container {container_id}: {error}") from error
        except OSError as error:
            self._undo(path, error)
            raise Internal(f"container {container_id}: cgroup {path}: {error}") from error
        oom = directory if "memory" in self._cgroup.controllers else -1
        return ContainerCgroup(
            path=path, version=2, join_fds=(directory,), clone_fd=directory, kill_fd=directory, oom_fd=oom
        )

    def _undo(self, path: str, error: Exception) -> None:
        if not isinstance(error, AlreadyExists):
            self._tree.remove_idle(path)

    def _mkdir(self, path: str) -> None:
        parent = path.rpartition("/")[0] or "/"
        # Kubelet makes the pod's cgroup but hands nothing down in it: that is for who makes cgroups below.
        # A parent that is gone was removed with another pod while it was empty for a moment.
        self._make_parent(parent, MADE_AGAIN)
        try:
            self._cgroup.mkdir(path)
        except FileExistsError:
            raise AlreadyExists(f"cgroup {path}: is there already") from None

    def _program(self, rules: tuple[DeviceCgroup, ...]) -> bytes:
        """Return the device filter of a rule list, b"" if all is allowed; assembled once for each list."""
        program = self._programs.get(rules)
        if program is None:
            default, matches = device_matches(rules)
            program = b"" if default and not matches else assemble(matches, default=default)
            if len(self._programs) < DEVICE_LISTS_KEPT:
                self._programs[rules] = program
        return program

    def _facts_of(self, path: str) -> HostFacts:
        if self._facts is None:
            self._facts = HostFacts(
                controllers=frozenset(self._cgroup.controllers),
                swap=self._cgroup.has_file(path, "memory.swap.max"),
                bfq=self._cgroup.has_file(path, "io.bfq.weight") and not self._cgroup.has_file(path, "io.weight"),
            )
        return self._facts

    def _usable(self, writes: Sequence[Write]) -> list[Write]:
        missing = missing_controllers(writes, frozenset(self._cgroup.controllers))
        for controller, write in missing.items():
            if controller != "hugetlb":
                raise InvalidArgument(
                    f"{write.file} = {write.value}: the {controller} controller is not available to this cgroup"
                )
            for each in writes:
                if each.controller == "hugetlb" and each.value != "0":
                    if not self._tolerate_missing_hugetlb:
                        raise InvalidArgument(f"{each.file} = {each.value}: the hugetlb controller is not available")
                    log.warning(
                        "%s = %s is not enforced: the hugetlb controller is not available", each.file, each.value
                    )
        return [write for write in writes if write.controller not in missing]

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
        """See CgroupDriver. The exec's cgroup is a child without controllers of its own: the container's limits hold."""
        self._tree.guard(path)
        below = f"{path}/{check_name(exec_id, 'exec id')}"
        try:
            self._cgroup.mkdir(below)
            directory = self._cgroup.open_directory(below)
        except FileNotFoundError as error:
            raise NotFound(f"cgroup {path}: is gone") from error
        except OSError as error:
            raise Internal(f"cgroup {below}: cannot be made: {error}") from error
        return ExecCgroup(path=below, version=2, join_fds=(directory,), clone_fd=directory, kill_fd=directory)

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
        if not self._cgroup.exists(path):
            raise NotFound(f"container {subject}: cgroup {path} is gone")
        try:
            cpu_max = DEFAULT_CPU_MAX
            if wanted.cpu is not None and (wanted.cpu.quota or wanted.cpu.period) and "cpu" in self._cgroup.controllers:
                cpu_max = self._cgroup.read(path, "cpu.max")
            writes = self._usable(v2_writes(wanted, self._facts_of(path), cpu_max=cpu_max))
            self._refuse_below_usage(path, wanted)
            apply_or_restore(
                subject,
                writes,
                lambda write: self._cgroup.read(path, write.file),
                lambda write: self._cgroup.write(path, write.file, write.value),
            )
        except OrlopError as error:
            raise type(error)(f"container {subject}: {error}") from error

    def _refuse_below_usage(self, path: str, wanted: runtime.Resources) -> None:
        limit = wanted.memory.limit if wanted.memory is not None else None
        if "memory" not in self._cgroup.controllers or limit is None or limit < 0:
            return
        usage = int(self._cgroup.read(path, "memory.current"))
        if limit < usage:
            raise FailedPrecondition(f"memory limit {limit}: is below the {usage} bytes in use")

    def kill_all(self, path: str) -> None:
        """See CgroupDriver."""
        if not path:
            return
        self._tree.guard(path)
        try:
            self._cgroup.write(path, "cgroup.kill", "1")
        except FileNotFoundError:
            if self._cgroup.exists(path):
                self._kill_frozen(path)
        except OSError as error:
            raise Internal(f"cgroup {path}: {error}") from error

    def _kill_frozen(self, path: str) -> None:
        """Kill without cgroup.kill (before Linux 5.14): freeze so that nobody forks; SIGKILL works on the frozen."""
        self.freeze(path)
        for pid in self._tree.members(self._cgroup, path):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.thaw(path)

    def freeze(self, path: str) -> bool:
        """See CgroupDriver."""
        self._tree.guard(path)
        try:
            self._cgroup.write(path, "cgroup.freeze", "1")
            until = time.monotonic_ns() + FREEZE_NS
            while parse_flat(self._cgroup.read(path, "cgroup.events")).get("frozen") != 1:
                if time.monotonic_ns() > until:
                    return False
                os.sched_yield()
        except FileNotFoundError:
            return True
        return True

    def thaw(self, path: str) -> None:
        """See CgroupDriver."""
        self._tree.guard(path)
        try:
            self._cgroup.write(path, "cgroup.freeze", "0")
        except FileNotFoundError:
            return

    def pids(self, path: str) -> list[int]:
        """See CgroupDriver."""
        self._tree.guard(path)
        return sorted(self._tree.members(self._cgroup, path))

    # ---- figures

    def container_stats(self, path: str) -> CgroupStats:
        """See CgroupDriver."""
        self._tree.guard(path)
        stats = self._figures.stats(path)
        # Without the pids controller processes are counted one by one.
        return stats if stats.pids is not None else dataclasses.replace(stats, pids=len(self.pids(path)))

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
