"""mount(2), umount2(2) and the calls for mounts without a place: fsopen, fsconfig, fsmount, open_tree, move_mount, ...

Each function has its system call's name and argument order and raises OSError(errno, text, path). A failure of fsconfig
or fsmount carries what the kernel wrote to the filesystem context's log, which mount(2) never gave. File descriptors
that are returned belong to the caller; fsmount and open_tree give O_PATH descriptors. No flags are chosen here.
Test: tests/kernel/kernel/test_mount.py.
"""

from __future__ import annotations

import ctypes
import errno
import os

from orlop.kernel.syscall import (
    NR_FSCONFIG,
    NR_FSMOUNT,
    NR_FSOPEN,
    NR_MOUNT_SETATTR,
    NR_MOVE_MOUNT,
    NR_OPEN_TREE,
    libc,
    syscall,
)

# mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

# umount2(2)
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

# fsopen(2), fsconfig(2), fsmount(2)
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MOUNT_ATTR_ATIME = 0x70

# open_tree(2), move_mount(2), mount_setattr(2)
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_SYMLINKS = 0x1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_BENEATH = 0x200

_MESSAGE_BYTES = 4096


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """Call mount(2)."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    if libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def umount2(target: str, flags: int) -> None:
    """Call umount2(2)."""
    if libc().umount2(os.fsencode(target), flags) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def fsopen(fsname: str, flags: int) -> int:
    """Open a filesystem context; returns its fd."""
    try:
        return syscall(NR_FSOPEN, os.fsencode(fsname), flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, fsname) from None


def fsconfig_set_flag(fd: int, key: str) -> None:
    """Set a parameter that has no value, as ``ro``."""
    _fsconfig(fd, FSCONFIG_SET_FLAG, key, None, 0)


def fsconfig_set_string(fd: int, key: str, value: str) -> None:
    """Set a parameter to a string."""
    _fsconfig(fd, FSCONFIG_SET_STRING, key, os.fsencode(value), 0)


def fsconfig_set_fd(fd: int, key: str, value: int) -> None:
    """Set a parameter to an open file."""
    _fsconfig(fd, FSCONFIG_SET_FD, key, None, value)


def fsconfig_create(fd: int) -> None:
    """Make the superblock from what was set."""
    _fsconfig(fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_reconfigure(fd: int) -> None:
    """Apply what was set since to the superblock, after fsmount."""
    _fsconfig(fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def _fsconfig(fd: int, command: int, key: str | None, value: bytes | None, aux: int) -> None:
    try:
        syscall(NR_FSCONFIG, fd, command, None if key is None else os.fsencode(key), value, aux)
    except OSError as error:
        subject = "create" if key is None else key if value is None else f"{key}={os.fsdecode(value)}"
        raise OSError(error.errno, _with_log(fd, error), subject) from None


def fsmount(fd: int, flags: int, attr_flags: int) -> int:
    """Return a detached mount of the context's superblock; it ends with its last fd unless it was moved."""
    try:
        return syscall(NR_FSMOUNT, fd, flags, attr_flags)
    except OSError as error:
        raise OSError(error.errno, _with_log(fd, error), "fsmount") from None


def fs_messages(fd: int) -> list[str]:
    """Read and return what the kernel has logged to a filesystem context ("e overlay: ..."), oldest first."""
    messages: list[str] = []
    while True:
        try:
            message = os.read(fd, _MESSAGE_BYTES)
        except OSError as error:
            # ENODATA ends the log; an old kernel may not keep one (EINVAL, EBUSY). The call's own errno is what counts.
            if error.errno not in (errno.ENODATA, errno.EINVAL, errno.EBUSY, errno.EMSGSIZE):
                raise
            return messages
        if not message:
            return messages
        messages.append(message.decode(errors="replace").strip())


def _with_log(fd: int, error: OSError) -> str:
    messages = fs_messages(fd)
    text = error.strerror or ""
    return f"{text} ({'; '.join(messages)})" if messages else text


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """Return an fd of the mount at a path; with OPEN_TREE_CLONE a detached copy of it."""
    try:
        return syscall(NR_OPEN_TREE, dirfd, os.fsencode(path), flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def move_mount(from_dirfd: int, from_path: str, to_dirfd: int, to_path: str, flags: int) -> None:
    """Attach a detached mount, or move an attached one."""
    try:
        syscall(NR_MOVE_MOUNT, from_dirfd, os.fsencode(from_path), to_dirfd, os.fsencode(to_path), flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, from_path or None, None, to_path or None) from None


def mount_setattr(
    dirfd: int,
    path: str,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change attributes of a mount, or with AT_RECURSIVE of the tree under it."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    try:
        syscall(NR_MOUNT_SETATTR, dirfd, os.fsencode(path), flags, ctypes.byref(attr), ctypes.sizeof(attr))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
