"""The pod's /dev/shm: one tmpfs shared by its containers, never mounted in the host's tree.

The daemon makes it and gives the monitor an fd to keep, so it lives as long as the pod; each container gets a clone of it. What the fd is
depends on the kernel: a detached mount, or, before 6.15, where such a mount cannot be cloned, a mount namespace that holds it and nothing
else. The clone is made here and not by the container's own process, because the kernel lets only the namespace that a detached mount came from
clone it (fs/namespace.c, may_copy_tree). Test: tests/kernel/services/test_shm.py.
"""

from __future__ import annotations

import os
from typing import Final

from orlop.kernel import mount
from orlop.kernel.mntns import clone_enclosed, enclose_mount, is_mount_namespace
from orlop.monitor.client import MonitorClient

KEPT_NAME: Final = "shm"
SIZE_BYTES: Final = 64 << 20
"""What docker and containerd give a container."""


async def make_shm(monitor: MonitorClient, *, detached: bool) -> int:
    """Make the pod's shm, let the monitor keep it, and return our fd of it. ``detached``: this kernel clones mounts that are nowhere."""
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    try:
        mount.fsconfig_set_string(context, "source", "shm")
        mount.fsconfig_set_string(context, "mode", "1777")
        mount.fsconfig_set_string(context, "size", str(SIZE_BYTES))
        mount.fsconfig_create(context)
        kept = mount.fsmount(
            context, mount.FSMOUNT_CLOEXEC, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
        )
    finally:
        os.close(context)
    if not detached:
        tree = kept
        try:
            kept = enclose_mount(tree)
        finally:
            os.close(tree)
    try:
        await monitor.keep_fd(KEPT_NAME, kept)
    except BaseException:
        os.close(kept)
        raise
    return kept


def clone_shm(shm_fd: int) -> int:
    """Return a fresh detached clone of the pod's shm for one container."""
    if is_mount_namespace(shm_fd):
        return clone_enclosed(shm_fd)
    return mount.open_tree(shm_fd, "", mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | mount.AT_EMPTY_PATH)
