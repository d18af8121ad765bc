"""Mount wrappers and openat2 on the real kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orlop.kernel import mount
from orlop.kernel.openat2 import RESOLVE_BENEATH, open_in_root, openat2
from orlop.kernel.syncfs import syncfs

pytestmark = pytest.mark.kernel


def test_detached_tmpfs_is_nowhere(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    fs = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    mount.fsconfig_set_string(fs, "size", "1m")
    mount.fsconfig_set_flag(fs, "ro")
    mount.fsconfig_create(fs)
    root = mount.fsmount(fs, mount.FSMOUNT_CLOEXEC, mount.MOUNT_ATTR_NODEV)
    os.close(fs)
    with pytest.raises(OSError, match="Read-only"):
        open_in_root(root, "x", os.O_CREAT | os.O_WRONLY, mode=0o600)
    assert Path("/proc/self/mountinfo").read_text() == before
    os.close(root)


def test_move_setattr_umount(tmp_path: Path) -> None:
    fs = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    mount.fsconfig_create(fs)
    root = mount.fsmount(fs, mount.FSMOUNT_CLOEXEC, 0)
    os.close(fs)
    mount.move_mount(root, "", mount.AT_FDCWD, str(tmp_path), mount.MOVE_MOUNT_F_EMPTY_PATH)
    try:
        (tmp_path / "f").write_text("1")
        mount.mount_setattr(mount.AT_FDCWD, str(tmp_path), mount.AT_RECURSIVE, attr_set=mount.MOUNT_ATTR_RDONLY)
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "g").write_text("1")
        copy = mount.open_tree(mount.AT_FDCWD, str(tmp_path), mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)
        os.close(copy)
    finally:
        mount.umount2(str(tmp_path), mount.MNT_DETACH)
    os.close(root)
    assert os.listdir(tmp_path) == []


def test_errors_say_path_and_what_the_kernel_logged() -> None:
    with pytest.raises(OSError) as caught:
        mount.fsopen("nonesuch", mount.FSOPEN_CLOEXEC)
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "nonesuch")
    fs = mount.fsopen("overlay", mount.FSOPEN_CLOEXEC)
    with pytest.raises(OSError) as caught:
        mount.fsconfig_set_string(fs, "nonesuch", "x")
    assert "nonesuch" in caught.value.strerror and caught.value.filename == "nonesuch=x"
    os.close(fs)
    with pytest.raises(OSError) as caught:
        mount.umount2("/nonesuch", 0)
    assert caught.value.filename == "/nonesuch"


def test_syncfs(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    syncfs(fd)
    os.close(fd)
    with pytest.raises(OSError):
        syncfs(fd)


def test_openat2_never_leaves(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("out")
    root = tmp_path / "root"
    root.mkdir()
    (root / "up").symlink_to("../../out")
    (root / "out").write_text("in")
    (root / "magic").symlink_to("/proc/self/root")
    fd = os.open(root, os.O_PATH)
    for name in ("../out", "/out", "up", "../../../out"):
        inside = open_in_root(fd, name, os.O_RDONLY)
        assert os.read(inside, 10) == b"in"
        os.close(inside)
    with pytest.raises(OSError) as caught:
        openat2(fd, "up", os.O_RDONLY | os.O_CLOEXEC, resolve=RESOLVE_BENEATH)
    assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, "up")
    with pytest.raises(OSError):
        open_in_root(fd, "magic", os.O_RDONLY)
    os.close(fd)
