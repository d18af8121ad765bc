from pathlib import Path

import pytest

from orlop.kernel.cgroupfs import Hierarchy, MountedHierarchy, discover

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/with\\040blank rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID_OWN = "3:name=systemd:/\n2:memory:/a\n1:cpu,cpuacct:/\n0::/\n"
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_hybrid() -> None:
    assert discover(HYBRID, HYBRID_OWN) == (
        MountedHierarchy(version=1, controllers=("cpu", "cpuacct"), mountpoint="/sys/fs/cgroup/cpu,cpuacct"),
        MountedHierarchy(version=1, controllers=("memory",), mountpoint="/sys/fs/cgroup/memory"),
        MountedHierarchy(version=1, controllers=("name=systemd",), mountpoint="/sys/fs/cgroup/with blank"),
        MountedHierarchy(version=2, controllers=(), mountpoint="/sys/fs/cgroup/unified"),
    )


def test_unified() -> None:
    assert discover(UNIFIED, "0::/init.scope\n") == (
        MountedHierarchy(version=2, controllers=(), mountpoint="/sys/fs/cgroup"),
    )


def test_nothing() -> None:
    assert discover("", "") == ()
    assert discover("nonsense\n- cgroup\n", "x") == ()


def test_files_below_a_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    hierarchy = Hierarchy(MountedHierarchy(version=2, controllers=(), mountpoint=str(tmp_path)))
    try:
        assert hierarchy.controllers == ("cpu", "memory")
        hierarchy.mkdir("/a")
        hierarchy.mkdir("/a/b")
        (tmp_path / "a" / "f").write_text("x" * 10000 + "\n")
        hierarchy.write("/a", "f", "y")
        assert len(hierarchy.read("/a", "f")) == 10000
        assert hierarchy.children("/a") == ["b"]
        assert hierarchy.exists("/a/b")
        hierarchy.rmdir("/a/b")
        assert not hierarchy.exists("/a/b")
        with pytest.raises(FileNotFoundError) as caught:
            hierarchy.write("/a", "missing", "1")
        assert caught.value.filename == str(tmp_path / "a" / "missing")
    finally:
        hierarchy.close()
