"""User namespaces that only carry a mapping: made, kept, and nothing left of their holders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition, InvalidArgument
from orlop.base.paths import monitor_binary
from orlop.kernel import mount
from orlop.monitor.userns import KEPT, IdMapNamespaces

pytestmark = pytest.mark.kernel
ONE = ((0, 100000, 65536),)


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.fixture
def namespaces() -> Iterator[IdMapNamespaces]:
    fds, before = len(os.listdir("/proc/self/fd")), children()
    made = IdMapNamespaces(monitor_binary())
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert children() == before


def test_a_mapping_shows_in_a_mount(namespaces: IdMapNamespaces, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = namespaces.open(ONE, ((0, 5, 1), (1, 200000, 10)))
    clone = mount.open_tree(mount.AT_FDCWD, str(tmp_path), mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC)
    mount.mount_setattr(clone, "", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_IDMAP, userns_fd=fd)
    shown = os.stat("file", dir_fd=clone)
    assert (shown.st_uid, shown.st_gid) == (100000, 5)
    os.close(clone)
    os.close(fd)


def test_a_mapping_is_kept_and_the_oldest_forgotten(namespaces: IdMapNamespaces) -> None:
    def inode(start: int) -> int:
        fd = namespaces.open(((0, start, 1),), ((0, start, 1),))
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    assert inode(1) == inode(1)
    fds = len(os.listdir("/proc/self/fd"))
    for start in range(2, KEPT + 10):
        inode(start)
    assert len(os.listdir("/proc/self/fd")) == fds + KEPT - 1


@pytest.mark.parametrize(
    "uids", [((0, 0, 5), (3, 100, 5)), tuple((n, n, 1) for n in range(341))], ids=["overlap", "341"]
)
def test_maps_that_the_kernel_refuses(namespaces: IdMapNamespaces, uids: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(InvalidArgument, match="uid_map: the kernel refuses '0 0 "):
        namespaces.open(uids, ONE)


def test_a_holder_that_does_not_become_one(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(FailedPrecondition, match="cannot start .*missing: No such file"):
        IdMapNamespaces(tmp_path / "missing").open(ONE, ONE)
    with pytest.raises(FailedPrecondition, match="this host makes none: Operation not permitted"):
        # false ends with 1, which is EPERM.
        IdMapNamespaces(Path("/bin/false")).open(ONE, ONE)
    assert children() == before
