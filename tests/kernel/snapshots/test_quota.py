"""Limits on writable layers: enforced by ext4 and XFS with project quotas, where the kernel has them; refused, with nothing left, elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import FailedPrecondition
from orlop.base.ids import ContainerId
from orlop.base.paths import RootPaths
from orlop.base.trash import Trash
from orlop.kernel import quotactl
from orlop.kernel.openat2 import open_in_root
from orlop.kernel.unpack import remove_tree
from orlop.snapshots.overlay import OverlaySnapshots
from orlop.snapshots.quota import FIRST

pytestmark = pytest.mark.kernel
ONE, TWO, THREE = (ContainerId(letter * 64) for letter in "123")
MIB = 1 << 20


def made(root: Path) -> RootPaths:
    paths = RootPaths(root=root)
    for directory in (paths.containers, paths.trash, paths.empty, paths.layers / "one", paths.staging):
        directory.mkdir(parents=True)
    return paths


MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota,lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q"),
}
INSTALLED = [name for name, command in MAKE.items() if shutil.which(command[0])]


def mounted(kind: str, image: Path, target: Path) -> str:
    """Mount a new file system with project quotas; the reason when this kernel cannot."""
    with open(image, "wb") as file:
        file.truncate(400 * MIB)
    subprocess.run([*MAKE[kind], image], check=True)
    target.mkdir()
    done = subprocess.run(["mount", "-o", "loop,prjquota", image, target], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


@pytest.fixture(params=INSTALLED)
def limited(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RootPaths]:
    target = tmp_path / "mounted"
    if reason := mounted(request.param, tmp_path / "image", target):
        pytest.skip(f"this kernel mounts no {request.param} with prjquota: {reason}")
    yield made(target / "root")
    subprocess.run(["umount", target], check=True)


@pytest.fixture
def trash(limited: RootPaths) -> Iterator[Trash]:
    found = Trash(limited.trash, remove_tree)
    yield found
    found.drain()
    found.close()


def fill(root: int, name: str, size: int) -> int:
    """Write a file of zeros; returns the errno that stopped it, 0: none."""
    fd = open_in_root(root, name, os.O_CREAT | os.O_WRONLY, mode=0o644)
    try:
        for _ in range(size // MIB):
            os.write(fd, bytes(MIB))
        os.fsync(fd)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


def project(paths: RootPaths, container: ContainerId) -> int:
    fd = os.open(paths.containers / container / "upper", os.O_RDONLY)
    try:
        return quotactl.project_of(fd)
    finally:
        os.close(fd)


def usage(paths: RootPaths, number: int) -> tuple[int, int]:
    fd = os.open(paths.containers, os.O_RDONLY)
    try:
        return quotactl.project_usage(fd, number)
    finally:
        os.close(fd)


def test_a_layer_takes_no_more_than_its_limit(limited: RootPaths, trash: Trash) -> None:
    snapshots = OverlaySnapshots(limited, trash)
    assert snapshots.quotas.missing() == ""
    small = snapshots.prepare(ONE, [limited.layers / "one"], size=4 * MIB)
    other = snapshots.prepare(TWO, [limited.layers / "one"], size=16 * MIB)
    free = snapshots.prepare(THREE, [limited.layers / "one"])
    assert fill(small, "big", 8 * MIB) in (errno.ENOSPC, errno.EDQUOT)
    used, limit = usage(limited, FIRST)
    assert limit == 4 * MIB
    assert 3 * MIB < used <= 4 * MIB
    assert fill(other, "big", 8 * MIB) == 0
    assert fill(free, "big", 12 * MIB) == 0
    os.mkdir("directory", dir_fd=other)
    os.rename("big", "directory/big", src_dir_fd=other, dst_dir_fd=other)
    assert [project(limited, each) for each in (ONE, TWO, THREE)] == [FIRST, FIRST + 1, 0]
    for fd in (small, other, free):
        os.close(fd)


def test_an_id_is_not_given_again_while_its_files_are_there(limited: RootPaths) -> None:
    """A trash that deletes nothing: files of what was removed are still charged to its id."""
    idle = Trash(limited.trash, lambda _parent, _name: None)
    snapshots = OverlaySnapshots(limited, idle)
    os.close(snapshots.prepare(ONE, [limited.layers / "one"], size=4 * MIB))
    snapshots.remove(ONE)
    idle.drain()
    assert usage(limited, FIRST)[1] == 0, "the limit is taken back"
    anew = OverlaySnapshots(limited, idle)
    os.close(anew.prepare(TWO, [limited.layers / "one"], size=8 * MIB))
    assert project(limited, TWO) == FIRST + 1
    assert usage(limited, FIRST + 1)[1] == 8 * MIB
    # Nor by a daemon that was started anew.
    anew = OverlaySnapshots(limited, idle)
    os.close(anew.prepare(THREE, [limited.layers / "one"], size=8 * MIB))
    assert project(limited, THREE) == FIRST + 2
    assert sorted(anew.remove_orphans(())) == [TWO, THREE]
    assert {usage(limited, FIRST + n)[1] for n in range(3)} == {0}
    idle.close()


def test_a_limit_is_refused_where_the_file_system_has_none(tmp_path: Path) -> None:
    paths = made(tmp_path / "root")
    trash = Trash(paths.trash, remove_tree)
    snapshots = OverlaySnapshots(paths, trash)
    reason = snapshots.quotas.missing()
    assert reason.startswith(f"the file system of {paths.containers} ")
    with pytest.raises(FailedPrecondition, match="a limit of 4096 bytes on its writable layer: the file system of"):
        snapshots.prepare(ONE, [paths.layers / "one"], size=4096)
    os.close(snapshots.prepare(TWO, [paths.layers / "one"]))
    snapshots.remove(TWO)
    trash.drain()
    trash.close()
    assert os.listdir(paths.containers) == os.listdir(paths.trash) == []
