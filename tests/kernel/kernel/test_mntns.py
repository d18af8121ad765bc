"""A mount that is the only one of its namespace: shared by its clones, seen by nobody else, gone with its last fd."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from orlop.kernel import mount
from orlop.kernel.mntns import clone_enclosed, enclose_mount, is_mount_namespace

pytestmark = pytest.mark.kernel


def tmpfs() -> int:
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    mount.fsconfig_set_string(context, "mode", "1777")
    mount.fsconfig_create(context)
    tree = mount.fsmount(context, mount.FSMOUNT_CLOEXEC, mount.MOUNT_ATTR_NOEXEC)
    os.close(context)
    return tree


def test_clones_share_what_no_one_else_sees() -> None:
    mounts, cwd = Path("/proc/self/mountinfo").read_text(), os.getcwd()
    threads, own = threading.active_count(), os.stat("/proc/self/ns/mnt").st_ino
    tree = tmpfs()
    namespace = enclose_mount(tree)
    os.close(tree)
    assert is_mount_namespace(namespace)
    first, second = clone_enclosed(namespace), clone_enclosed(namespace)
    assert not is_mount_namespace(first)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=first))
    assert os.listdir(f"/proc/self/fd/{second}") == ["file"]
    inside = subprocess.run(
        ["nsenter", f"--mount=/proc/self/fd/{namespace}", "/proc/self/exe", "--version"],
        capture_output=True,
        check=False,
        pass_fds=(namespace,),
    )
    assert inside.returncode != 0  # there is nothing in it but the tmpfs: not even a program
    assert (Path("/proc/self/mountinfo").read_text(), os.getcwd()) == (mounts, cwd)
    assert (threading.active_count(), os.stat("/proc/self/ns/mnt").st_ino) == (threads, own)
    for fd in (first, second, namespace):
        os.close(fd)


def test_a_clone_goes_into_another_tree_with_its_attributes(tmp_path: Path) -> None:
    tree = tmpfs()
    namespace = enclose_mount(tree)
    clone = clone_enclosed(namespace)
    mount.move_mount(clone, "", mount.AT_FDCWD, str(tmp_path), mount.MOVE_MOUNT_F_EMPTY_PATH)
    try:
        line = next(each for each in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in each)
        assert "noexec" in line and " - tmpfs " in line
    finally:
        mount.umount2(str(tmp_path), mount.MNT_DETACH)
    for fd in (clone, namespace, tree):
        os.close(fd)


def test_what_is_no_detached_mount_is_refused(tmp_path: Path) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(OSError):
        enclose_mount(directory)
    with pytest.raises(OSError):
        clone_enclosed(directory)
    os.close(directory)
    assert len(os.listdir("/proc/self/fd")) == fds
