"""Overlay roots as detached mounts: nothing in the host's tree, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.base.errors import InvalidArgument, NotFound
from orlop.base.ids import ContainerId
from orlop.base.paths import RootPaths, monitor_binary
from orlop.base.trash import Trash
from orlop.kernel import mount
from orlop.kernel.openat2 import open_in_root
from orlop.kernel.unpack import remove_tree
from orlop.monitor.userns import IdMapNamespaces
from orlop.snapshots.overlay import OverlaySnapshots

pytestmark = pytest.mark.kernel
ID = ContainerId("c" * 64)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[RootPaths]:
    mounts = Path("/proc/self/mountinfo").read_text()
    made = RootPaths(root=tmp_path / "root")
    for directory in (made.containers, made.trash, made.empty, made.layers, made.staging):
        directory.mkdir(parents=True)
    yield made
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert os.listdir(made.staging) == []


@pytest.fixture(params=[None, False], ids=["stepwise", "mount-and-clone"])
def snapshots(paths: RootPaths, request: pytest.FixtureRequest) -> Iterator[OverlaySnapshots]:
    trash = Trash(paths.trash, remove_tree)
    made = OverlaySnapshots(paths, trash)
    made._stepwise = request.param
    yield made
    trash.drain()
    trash.close()
    assert os.listdir(paths.trash) == []


def layer(paths: RootPaths, name: str, **files: str) -> Path:
    directory = paths.layers / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file).write_text(text)
    return directory


def read(root: int, name: str) -> str:
    fd = open_in_root(root, name, os.O_RDONLY)
    with os.fdopen(fd) as file:
        return file.read()


def test_upper_layers_win_and_the_writable_one_takes_writes(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    layers = [layer(paths, "one", a="1", b="1"), layer(paths, "two", b="2")]
    root = snapshots.prepare(ID, layers)
    assert (read(root, "a"), read(root, "b")) == ("1", "2")
    fd = open_in_root(root, "a", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"changed")
    os.close(fd)
    assert (layers[0] / "a").read_text() == "1" and read(root, "a") == "changed"
    assert os.fstat(root).st_mode & 0o777 == 0o755
    os.close(root)
    snapshots.remove(ID)
    snapshots.remove(ID)
    assert os.listdir(paths.containers) == []


def test_view_is_read_only_and_hides_whiteouts(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    alone = layer(paths, "one", a="1")
    os.mknod(alone / "gone", 0o020000, 0)
    root = snapshots.view("image x", [alone])
    with pytest.raises(OSError, match="Read-only"):
        open_in_root(root, "new", os.O_CREAT | os.O_WRONLY, mode=0o644)
    fd = open_in_root(root, ".", os.O_RDONLY)
    assert os.listdir(fd) == ["a"]
    os.close(fd)
    os.close(root)


def test_a_view_of_a_part(paths: RootPaths, snapshots: OverlaySnapshots, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "b").write_text("the host's")
    one = layer(paths, "one", a="1")
    (one / "sub").mkdir()
    (one / "sub" / "b").write_text("2")
    (one / "inside").symlink_to("/sub")
    (one / "outside").symlink_to(f"../../../..{secret}")
    (one / "absolute").symlink_to(secret)
    (one / "magic").symlink_to("/proc/self/root")
    os.mkfifo(one / "fifo")
    for path in ("sub", "sub/", "./inside", "inside"):
        part = snapshots.view("image x", [one], sub_path=path)
        assert read(part, "b") == "2"
        with pytest.raises(OSError, match="Read-only"):
            open_in_root(part, "new", os.O_CREAT | os.O_WRONLY, mode=0o644)
        os.close(part)
    file = snapshots.view("image x", [one], sub_path="a")
    with open(f"/proc/self/fd/{file}") as opened:
        assert opened.read() == "1"
    os.close(file)
    for path in ("missing", "a/b", "outside", "absolute", "magic"):
        with pytest.raises(NotFound, match=f"image x: '{path}' is not in the image"):
            snapshots.view("image x", [one], sub_path=path)
    for path, words in (
        ("../one", "not a path below"),
        ("sub/../..", "not a path below"),
        ("/sub", "not a path below"),
        ("fifo", "neither a directory nor a file"),
    ):
        with pytest.raises(InvalidArgument, match=f"image x: '{path}' is {words}"):
            snapshots.view("image x", [one], sub_path=path)
    loop = one / "loop"
    loop.symlink_to("loop")
    with pytest.raises(InvalidArgument, match="Too many levels"):
        snapshots.view("image x", [one], sub_path="loop")


def test_a_mapped_view_shows_other_owners(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    one = layer(paths, "one", a="1")
    os.chown(one / "a", 7, 8)
    namespaces = IdMapNamespaces(monitor_binary())
    userns = namespaces.open(((0, 100000, 65536),), ((0, 200000, 65536),))
    try:
        view = snapshots.view("image x", [one], userns_fd=userns)
        owner = os.stat("a", dir_fd=view)
        assert (owner.st_uid, owner.st_gid) == (100007, 200008)
        os.close(view)
    finally:
        os.close(userns)
        namespaces.close()


def test_what_a_crash_left_attached_is_unmounted(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    target = paths.staging / "part-x"
    target.mkdir()
    view = snapshots.view("image x", [layer(paths, "one", a="1")])
    mount.move_mount(view, "", mount.AT_FDCWD, str(target), mount.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(view)
    assert target.is_mount()
    snapshots.unmount_leftovers()
    assert not target.is_mount()
    target.rmdir()


def test_missing_layer_leaves_nothing(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    with pytest.raises(NotFound, match=f"container {ID}: cannot make its root"):
        snapshots.prepare(ID, [paths.layers / "missing"])
    assert os.listdir(paths.containers) == []


def test_very_long_roots_and_many_layers(tmp_path: Path) -> None:
    paths = RootPaths(root=tmp_path / ("x" * 200) / ("y" * 200))
    for directory in (paths.containers, paths.trash, paths.empty, paths.layers):
        directory.mkdir(parents=True)
    trash = Trash(paths.trash, remove_tree)
    made = OverlaySnapshots(paths, trash)
    root = made.prepare(ID, [layer(paths, f"l{n}", **{f"f{n}": str(n)}) for n in range(300)])
    assert read(root, "f0") == "0" and read(root, "f299") == "299"
    os.close(root)
    trash.close()


def test_orphans_are_found(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    for name in ("a", "b"):
        os.close(snapshots.prepare(ContainerId(name), [layer(paths, name)]))
    assert snapshots.remove_orphans({ContainerId("a")}) == ["b"]
    assert os.listdir(paths.containers) == ["a"]


async def test_usage_counts_the_writable_layer(paths: RootPaths, snapshots: OverlaySnapshots) -> None:
    root = snapshots.prepare(ID, [layer(paths, "one")])
    before = await snapshots.usage(ID)
    fd = open_in_root(root, "f", os.O_CREAT | os.O_WRONLY, mode=0o600)
    os.write(fd, bytes(1 << 20))
    os.close(fd)
    os.close(root)
    after = await snapshots.usage(ID)
    assert after.inodes == before.inodes + 1 and 1 << 20 <= after.bytes - before.bytes < 2 << 20
    with pytest.raises(NotFound):
        await snapshots.usage(ContainerId("nobody"))
