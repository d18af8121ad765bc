"""Copy-up of an image's directory into a volume: everything comes along, nothing is followed, nothing leaks."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from orlop.base import limits
from orlop.base.errors import InvalidArgument, ResourceExhausted
from orlop.kernel import mount
from orlop.snapshots import copyup
from orlop.snapshots.copyup import copy_up

pytestmark = pytest.mark.kernel


@pytest.fixture
def root(tmp_path: Path):
    made = tmp_path / "root"
    made.mkdir()
    fd = os.open(made, os.O_PATH | os.O_DIRECTORY)
    yield made, fd
    os.close(fd)


def facts(path: Path) -> tuple[int, int, int, int, int]:
    st = path.lstat()
    return st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_rdev


def test_everything_comes_along(root, tmp_path):
    top, fd = root
    data = top / "data"
    (data / "deep" / "deeper").mkdir(parents=True)
    (data / "file").write_bytes(os.urandom(300_000))
    os.chown(data / "file", 1000, 1001)
    (data / "file").chmod(0o4750)
    os.setxattr(data / "file", "user.orlop", b"kept")
    os.link(data / "file", data / "deep" / "same")
    (data / "link").symlink_to("/etc/passwd")
    os.lchown(data / "link", 7, 8)
    os.mkfifo(data / "fifo", 0o640)
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(data / "socket"))
    os.chown(data / "deep", 5, 6)
    (data / "deep").chmod(0o1777)
    data.chmod(0o711)
    for path in (data / "deep" / "deeper", data / "deep", data / "file", data / "fifo", data):
        os.utime(path, ns=(1_000_000_007, 2_000_000_009))
    target = tmp_path / "volume"
    target.mkdir()
    opened = len(os.listdir("/proc/self/fd"))
    before = os.umask(0o077)
    try:
        assert copy_up(fd, "/data", target)
    finally:
        os.umask(before)
    assert len(os.listdir("/proc/self/fd")) == opened
    assert sorted(os.listdir(target)) == ["deep", "fifo", "file", "link", "null"]
    for name in ("deep", "deep/deeper", "file", "fifo", "null", "link", "."):
        if name != "link":
            assert facts(target / name) == facts(data / name), name
    assert os.readlink(target / "link") == "/etc/passwd" and (target / "link").lstat().st_uid == 7
    assert (target / "file").read_bytes() == (data / "file").read_bytes()
    assert os.getxattr(target / "file", "user.orlop") == b"kept"
    assert (target / "deep" / "same").samefile(target / "file")


def test_links_on_the_way_stay_inside(root, tmp_path):
    top, fd = root
    (top / "real").mkdir()
    (top / "real" / "x").write_text("inside")
    (top / "door").symlink_to("/real")
    (top / "climbs").symlink_to("../../../../real")
    for number, path in enumerate(("/door", "/climbs")):
        target = tmp_path / str(number)
        target.mkdir()
        assert copy_up(fd, path, target)
        assert (target / "x").read_text() == "inside"


def test_nothing_there_and_no_directory(root, tmp_path):
    top, fd = root
    target = tmp_path / "volume"
    target.mkdir()
    assert not copy_up(fd, "/missing", target)
    (top / "file").write_text("")
    with pytest.raises(InvalidArgument, match="/file: cannot become a volume: not a directory"):
        copy_up(fd, "/file", target)
    (top / "loop").symlink_to("loop")
    with pytest.raises(InvalidArgument, match="/loop: cannot become a volume"):
        copy_up(fd, "/loop", target)
    assert os.listdir(target) == []


def test_limits(root, tmp_path, monkeypatch):
    top, fd = root
    (top / "data").mkdir()
    for number in range(5):
        (top / "data" / str(number)).write_bytes(b"x" * 400_000)
    small = tmp_path / "small"
    small.mkdir()
    mount.mount("tmpfs", str(small), "tmpfs", 0, "size=1m")
    try:
        with pytest.raises(ResourceExhausted, match="No space left"):
            copy_up(fd, "/data", small)
    finally:
        mount.umount2(str(small), 0)
    monkeypatch.setattr(copyup, "LAYER_ENTRIES", 3)
    assert limits.LAYER_ENTRIES > 3
    with pytest.raises(ResourceExhausted, match="more than 3 entries"):
        copy_up(fd, "/data", small)
