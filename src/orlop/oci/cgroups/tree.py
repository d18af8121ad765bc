"""The cgroups that this daemon made, over all hierarchies: making parents, removing, finding what a crash left.

Who made a cgroup is written on it (an extended attribute), because a daemon's memory is not there after kill -9 and kubelet's
cgroups must stay kubelet's. A cgroup whose processes are still dying cannot be removed; it waits in ``lingering`` and is tried again
by sweep() and by later removals, so nothing here sleeps. Knows no limit and no statistics. Test: tests/kernel/cgroups/.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Final

from orlop.base.errors import Internal, InvalidArgument
from orlop.kernel.cgroupfs import Hierarchy

log = logging.getLogger(__name__)

CONTAINER_ID: Final = re.compile(r"[0-9a-f]{64}")
MADE_AGAIN: Final = "-"
"""Instead of a sandbox id in the mark of a parent that was made again for a container."""
DEPTH_MAX: Final = 8
SWEEP_AT_ONCE: Final = 4
RMDIR_ATTEMPTS: Final = 3
_GONE: Final = (errno.ENOENT, errno.ENODEV)
_IN_USE: Final = (errno.EBUSY, errno.ENOTEMPTY)


class CgroupTree:
    """All hierarchies under one set of paths. ``owner`` tells our cgroups from those of another daemon on the host."""

    __slots__ = ("_parents_waiting", "default_parent", "hierarchies", "lingering", "owner")

    def __init__(self, hierarchies: Sequence[Hierarchy], *, owner: str, default_parent: str) -> None:
        self.hierarchies = tuple(hierarchies)
        self.owner = owner
        self.default_parent = default_parent
        self.lingering: deque[str] = deque()
        self._parents_waiting: set[str] = set()

    def guard(self, path: str) -> None:
        """Raise InvalidArgument for a path that no container can have: a slip here would kill or remove far too much."""
        if not path.startswith("/") or path in ("/", self.default_parent) or ".." in path.split("/"):
            raise InvalidArgument(f"cgroup {path!r}: is not a container's or pod's cgroup")

    def make_parent(self, path: str, sandbox_id: str, prepare: Callable[[Hierarchy, str], None]) -> bool:
        """Make what is missing of a parent in every hierarchy; ``prepare`` is called on each cgroup from the top, made or not.

        Returns whether anything was made. What was made carries our mark, except the default parent, which stays.
        """
        self.sweep()
        mine = False
        for hierarchy in self.hierarchies:
            if path != "/" and not hierarchy.exists(path):
                so_far = ""
                for part in path.strip("/").split("/"):
                    so_far = f"{so_far}/{part}"
                    if not hierarchy.exists(so_far):
                        try:
                            hierarchy.mkdir(so_far)
                        except FileExistsError:
                            continue  # kubelet, or another pod's call, was faster: it is theirs
                        if so_far != self.default_parent:
                            hierarchy.mark(so_far, f"{self.owner}\n{sandbox_id}")
                        mine = True
            prepare(hierarchy, path)
        return mine

    def _is_ours(self, hierarchy: Hierarchy, path: str) -> bool:
        mark = hierarchy.marked(path)
        return mark is not None and mark.partition("\n")[0] == self.owner

    def remove_parent(self, path: str) -> None:
        """Remove a pod's parent and what is above it as far as we made it and it is empty; what others use stays."""
        if path in ("/", self.default_parent, ""):
            return
        self.guard(path)
        for hierarchy in self.hierarchies:
            each = path
            while each not in ("", "/", self.default_parent) and self._is_ours(hierarchy, each):
                try:
                    hierarchy.rmdir(each)
                except OSError as error:
                    if error.errno not in (*_GONE, *_IN_USE):
                        raise Internal(f"cgroup {each}: cannot be removed: {error}") from error
                    if error.errno in _IN_USE:
                        if any(below.startswith(f"{each}/") for below in self.lingering):
                            self._parents_waiting.add(path)
                        break
                each = each.rpartition("/")[0]

    def remove(self, path: str, kill: Callable[[str], None]) -> bool:
        """Remove a cgroup with all below it, killing what still runs there. False: its processes are dying, sweep() goes on."""
        self.sweep()
        if self._try_remove(path):
            return True
        kill(path)
        for _ in range(RMDIR_ATTEMPTS):
            os.sched_yield()
            if self._try_remove(path):
                return True
        self.linger(path)
        return False

    def remove_idle(self, path: str) -> bool:
        """Remove a cgroup if nothing runs in it; otherwise leave its processes alone and let sweep() try later."""
        self.sweep()
        if self._try_remove(path):
            return True
        self.linger(path)
        return False

    def linger(self, path: str) -> None:
        """Remember a cgroup that is to go as soon as it is empty."""
        if path not in self.lingering:
            self.lingering.append(path)

    def sweep(self) -> int:
        """Try again to remove what lingered, a bounded number at a time; returns how many are left."""
        for _ in range(min(len(self.lingering), SWEEP_AT_ONCE)):
            path = self.lingering.popleft()
            if not self._try_remove(path):
                self.lingering.append(path)
        for parent in list(self._parents_waiting):
            self._parents_waiting.discard(parent)
            self.remove_parent(parent)
        return len(self.lingering) + len(self._parents_waiting)

    def _try_remove(self, path: str) -> bool:
        gone = True
        for hierarchy in self.hierarchies:
            gone = self._remove_from(hierarchy, path, 0) and gone
        return gone

    def _remove_from(self, hierarchy: Hierarchy, path: str, depth: int) -> bool:
        try:
            hierarchy.rmdir(path)
        except OSError as error:
            if error.errno in _GONE:
                return True
            if error.errno not in _IN_USE:
                raise Internal(f"cgroup {path}: cannot be removed: {error}") from error
        else:
            return True
        try:
            names = hierarchy.children(path) if depth < DEPTH_MAX else []
        except FileNotFoundError:
            return True
        emptied = bool(names)
        for name in names:
            emptied = self._remove_from(hierarchy, f"{path}/{name}", depth + 1) and emptied
        if not emptied:
            return False
        try:
            hierarchy.rmdir(path)
        except OSError as error:
            return error.errno in _GONE
        return True

    def members(self, hierarchy: Hierarchy, path: str, depth: int = 0) -> list[int]:
        """Return the pids of a cgroup and of all below it; empty when it is gone."""
        try:
            found = hierarchy.pids(path)
            below = hierarchy.children(path) if depth < DEPTH_MAX else []
        except FileNotFoundError:
            return []
        for name in below:
            found += self.members(hierarchy, f"{path}/{name}", depth + 1)
        return found

    def ours(self) -> Iterable[tuple[str, str]]:
        """Yield (path, sandbox id or "") of every cgroup with our mark, children before parents."""
        seen: set[str] = set()
        for hierarchy in self.hierarchies:
            for path in self._walk(hierarchy, "", 0):
                if path in seen:
                    continue
                mark = hierarchy.marked(path)
                if mark is not None and mark.partition("\n")[0] == self.owner:
                    seen.add(path)
                    yield path, mark.partition("\n")[2]

    def _walk(self, hierarchy: Hierarchy, path: str, depth: int) -> Iterable[str]:
        try:
            names = hierarchy.children(path or "/")
        except FileNotFoundError:
            return
        for name in names:
            child = f"{path}/{name}"
            if depth < DEPTH_MAX and not CONTAINER_ID.fullmatch(name):
                yield from self._walk(hierarchy, child, depth + 1)
            yield child

    def remove_orphans(self, containers: Set[str], sandboxes: Set[str], kill: Callable[[str], None]) -> list[str]:
        """Remove our cgroups whose container or sandbox is not in the sets, processes included; returns their paths."""
        removed: list[str] = []
        # Containers first, whatever the hierarchies that they are marked in: a parent goes only when it is empty.
        for path, sandbox_id in sorted(self.ours(), key=lambda found: bool(found[1])):
            name = path.rpartition("/")[2]
            if sandbox_id:
                if sandbox_id not in sandboxes:
                    self.remove_parent(path)
                    removed.append(path)
            elif CONTAINER_ID.fullmatch(name) and name not in containers:
                self.remove(path, kill)
                removed.append(path)
        if removed:
            log.info("removed %d cgroups that no container or sandbox names", len(removed))
        return removed

    def close(self) -> None:
        """Remove the default parent if nothing is in it, and close the hierarchies."""
        for hierarchy in self.hierarchies:
            try:
                hierarchy.rmdir(self.default_parent)
            except OSError as error:
                if error.errno not in (*_GONE, *_IN_USE):
                    log.warning("cgroup %s: cannot be removed: %s", self.default_parent, error)
            hierarchy.close()
