"""mount_namespaces(7): a mount that is kept in a mount namespace of its own, and clones of it from there.

Before Linux 6.15 a mount that is nowhere cannot be cloned, so one that is to be shared must be somewhere: here it is the root, and the only
mount, of a namespace that no process is in. An fd holds that namespace, and with it the mount; no other namespace shows it. A namespace is a
thread's own: each call works in a thread that is made for it and ends with it (0.1 ms, and once a pod the copy of the host's mounts). Never
forks. Test: tests/kernel/kernel/test_mntns.py.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final

from orlop.kernel import mount
from orlop.kernel.syscall import libc

_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000


def _call(name: str, *arguments: object) -> None:
    if getattr(libc(), name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def _in_own_thread(work: Callable[[], int]) -> int:
    """Return what ``work`` returns; its thread's working directory, root and namespaces are its own from its first unshare on."""
    done: list[int] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="mntns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def enclose_mount(tree: int) -> int:
    """Move a detached mount into a new mount namespace in which nothing else is; return an fd of the namespace. Raises OSError."""

    def work() -> int:
        own = os.open("/proc/thread-self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _call("unshare", _CLONE_NEWNS)
            mount.mount(None, "/", None, mount.MS_REC | mount.MS_PRIVATE)
            mount.move_mount(tree, "", mount.AT_FDCWD, "/", mount.MOVE_MOUNT_F_EMPTY_PATH)
            os.fchdir(tree)
            _call("pivot_root", b".", b".")
            mount.umount2(".", mount.MNT_DETACH)
            return os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
        finally:
            os.close(own)

    return _in_own_thread(work)


def clone_enclosed(namespace: int) -> int:
    """Return a detached clone of the mount that enclose_mount has put into the namespace. Raises OSError."""

    def work() -> int:
        _call("unshare", _CLONE_FS)
        _call("setns", namespace, _CLONE_NEWNS)
        return mount.open_tree(mount.AT_FDCWD, "/", mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)

    return _in_own_thread(work)


def is_mount_namespace(fd: int) -> bool:
    """Say whether an fd is one of enclose_mount's."""
    return os.readlink(f"/proc/self/fd/{fd}").startswith("mnt:[")
