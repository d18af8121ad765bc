"""The file descriptors of a container's or an exec's cgroup, as the launcher and the monitor need them. Test: tests/kernel/cgroups/."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerCgroup:
    """A cgroup made for one container. Owns all fds named here until close(); whoever keeps one dups it."""

    path: str
    """Absolute, relative to the mount of each hierarchy."""
    version: int
    join_fds: tuple[int, ...]
    """v1: the ``tasks`` file of each hierarchy, for the plan's cgroup_join ops. v2: the directory, for CLONE_INTO_CGROUP."""
    clone_fd: int
    """Directory in the unified hierarchy for the plan's clone op: on v2 the same as join_fds[0]; on a v1 host with a unified
    hierarchy beside the others the container's directory there, which costs no join; -1: no unified hierarchy."""
    kill_fd: int
    """Directory by which everything in here can be killed: v2 the cgroup, v1 that of the freezer hierarchy."""
    oom_fd: int
    """Directory that counts OOM kills: v2 the cgroup, v1 that of the memory hierarchy; -1: memory is not controlled."""

    def close(self) -> None:
        """Close the fds; the cgroup stays."""
        _close({*self.join_fds, self.clone_fd, self.kill_fd, self.oom_fd})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecCgroup:
    """The cgroup of one exec session below its container's: killed as a whole. Owns its fds until close()."""

    path: str
    version: int
    join_fds: tuple[int, ...]
    clone_fd: int
    kill_fd: int

    def close(self) -> None:
        """Close the fds; the cgroup stays until remove_exec."""
        _close({*self.join_fds, self.clone_fd, self.kill_fd})


def _close(fds: set[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
