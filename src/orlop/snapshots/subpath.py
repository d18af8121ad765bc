"""A part of a detached mount as a detached mount of its own: the sub path of an image volume.

The path is walked from the mount's root with openat2(RESOLVE_IN_ROOT): links of the image, absolute ones too, stay inside it, and what was
found is cloned by fd, so no later change of a link matters. Kernels before 6.15 cannot clone a part of a mount that is nowhere: there the
whole is attached below a private directory for an instant. Test: tests/kernel/snapshots/test_overlay.py.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from orlop.base.errors import InvalidArgument, NotFound
from orlop.kernel import mount
from orlop.kernel.openat2 import open_in_root

_CLONE = mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | mount.AT_EMPTY_PATH


def clone_below(whole: int, sub_path: str, staging: Path, subject: str, *, detached: bool = True) -> int:
    """Return a detached mount of the directory or file at ``sub_path`` of a detached mount; both fds are the caller's.

    ``detached`` False takes the way of old kernels at once. Raises NotFound (nothing there), InvalidArgument (leads out of the mount by
    ``..`` of its own text, or to what is neither directory nor file), OSError.
    """
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise InvalidArgument(f"{subject}: {sub_path!r} is not a path below the image's root")
    if detached:
        part = _open(whole, sub_path, subject)
        try:
            return mount.open_tree(part, "", _CLONE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(part)
    return _attach_and_clone(whole, sub_path, staging, subject)


def _open(whole: int, sub_path: str, subject: str) -> int:
    try:
        part = open_in_root(whole, sub_path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{subject}: {sub_path!r} is not in the image") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG):
            raise
        raise InvalidArgument(f"{subject}: {sub_path!r}: {error.strerror}") from error
    kind = os.fstat(part).st_mode
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        os.close(part)
        raise InvalidArgument(f"{subject}: {sub_path!r} is neither a directory nor a file")
    return part


def _attach_and_clone(whole: int, sub_path: str, staging: Path, subject: str) -> int:
    target = tempfile.mkdtemp(prefix="part-", dir=staging)
    try:
        mount.move_mount(whole, "", mount.AT_FDCWD, target, mount.MOVE_MOUNT_F_EMPTY_PATH)
        try:
            part = _open(whole, sub_path, subject)
            try:
                return mount.open_tree(part, "", _CLONE)
            finally:
                os.close(part)
        finally:
            mount.umount2(target, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    finally:
        os.rmdir(target)
