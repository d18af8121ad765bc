"""Every op of MOUNT and ROOT on the real kernel, and what it says when it fails."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Fd, Op
from tests.kernel.executor.harness import (
    DEV,
    MASKED,
    NODES,
    NODEV_NOSUID_NOEXEC,
    PROC,
    READONLY,
    Box,
    bind,
    container,
    new,
    standard,
)

pytestmark = pytest.mark.kernel

LIBC = ctypes.CDLL(None)


def mountinfo(text: str) -> dict[str, list[str]]:
    """Mount point -> fields of its (last) line."""
    return {fields[4]: fields for fields in (line.split() for line in text.splitlines()) if len(fields) > 8}


def test_only_the_containers_mounts_are_seen(box: Box) -> None:
    seen = mountinfo(box.run(standard("cat", "/proc/self/mountinfo")).out)
    assert seen["/"][8:10] == ["overlay", "none"] or "overlay" in seen["/"]
    for target in ("/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/etc/hosts", "/proc/sys"):
        assert target in seen
    assert str(box.base) not in seen


def test_attributes_of_new_mounts(box: Box) -> None:
    attrs = k.ATTR_RDONLY | NODEV_NOSUID_NOEXEC | k.ATTR_NOATIME
    outcome = box.run(
        container(
            "cat",
            "/proc/self/mountinfo",
            "write",
            "/t/x",
            "y",
            more=(new("tmpfs", "/t", attrs, ("size=8192", "mode=711", "nr_inodes=3")),),
        )
    )
    fields = mountinfo(outcome.out)["/t"]
    assert set(fields[5].split(",")) == {"ro", "nosuid", "nodev", "noexec", "noatime"}
    assert "size=8k,nr_inodes=3,mode=711" in " ".join(fields)
    assert outcome.line("/t/x:") == "/t/x: Read-only file system"


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (new("nosuchfs", "/t"), ("mount_new", errno.ENODEV, "target /t: file system type nosuchfs")),
        (
            new("tmpfs", "/t", 0, ("size=lots",)),
            ("mount_new", errno.EINVAL, "target /t: tmpfs: option size=lots: tmpfs: Bad value for 'size'"),
        ),
        (
            new("tmpfs", "/t", 0, ("colour=red",)),
            ("mount_new", errno.EINVAL, "target /t: tmpfs: option colour=red: tmpfs: Unknown parameter 'colour'"),
        ),
        (new("tmpfs", "/missing", flags=0), ("mount_new", errno.ENOENT, "target /missing")),
        (new("tmpfs", "/etc/file"), ("mount_new", errno.ENOTDIR, "target /etc/file")),
        (new("tmpfs", "/etc/file/below"), ("mount_new", errno.ENOTDIR, "target /etc/file/below")),
        (new("tmpfs", "/"), ("mount_new", errno.EINVAL, "target / is the root itself")),
        (new("tmpfs", "/etc/.."), ("mount_new", errno.EINVAL, "target /etc/.. is the root itself")),
        (new("tmpfs", "/t", 1 << 40), ("mount_new", errno.EINVAL, "target /t: attributes 0x10000000000")),
        (new("tmpfs", "/t", flags=64), ("mount_new", errno.EINVAL, "target /t: unknown flags 0x40")),
        (new("tmpfs", "/" + "x" * 300), ("mount_new", errno.ENAMETOOLONG, "target /" + "x" * 300)),
        (bind("/nothere", "/t"), ("mount_bind", errno.ENOENT, "source /nothere")),
        (bind("/etc", "/missing", flags=0), ("mount_bind", errno.ENOENT, "target /missing")),
        (
            bind("/etc", "/etc/file"),
            ("mount_bind", errno.ENOTDIR, "target /etc/file is no directory, but source /etc is"),
        ),
        (
            bind("/etc/hostname", "/etc"),
            ("mount_bind", errno.ENOTDIR, "target /etc is a directory, but source /etc/hostname is none"),
        ),
        (bind("/etc", "/t", flags=128), ("mount_bind", errno.EINVAL, "target /t: unknown flags 0x80")),
        (
            ops.MountMoveAttrs(target="/etc", attr_set=1, attr_clr=0, propagation=0, recursive=0),
            ("mount_move_attrs", errno.EINVAL, "target /etc: attributes set 0x1 clear 0"),
        ),
        (ops.Mkdir(target="/etc/file/x", mode=0o755), ("mkdir", errno.ENOTDIR, "/etc/file/x")),
        (ops.Mkdir(target="/etc/file", mode=0o755), ("mkdir", errno.ENOTDIR, "/etc/file")),
        (
            ops.Mknod(target="/dev/null", mode=k.S_IFCHR | 0o666, major=1, minor=5, uid=0, gid=0),
            ("mknod", errno.EEXIST, "/dev/null is there and is another thing than device 1:5"),
        ),
        (ops.WriteFile(target="/dev/null", mode=0o644, data=b"x"), ("write_file", errno.EEXIST, "/dev/null")),
        (ops.Console(unused=0), ("console", errno.EINVAL, "no op terminal before it")),
    ],
)
def test_errors_name_the_path_and_the_reason(box: Box, op: Op, expected: tuple[str, int, str]) -> None:
    (box.lower / "etc/file").write_text("")
    assert box.run(container("exit", "0", more=(op,))).failed == expected


def test_optional_file_system_is_skipped(box: Box) -> None:
    more = (new("nosuchfs", "/t", flags=ops.NEW_CREATE | ops.NEW_OPTIONAL),)
    assert box.run(container("exit", "0", more=more)).exit_code == 0


def test_bind_kinds_flags_and_creation_of_targets(box: Box) -> None:
    (box.host / "file").write_text("from the host")
    (box.host / "dir").mkdir()
    (box.host / "dir/inside").write_text("inside")
    more = (
        bind(box.host / "file", "/new/deep/file"),
        bind(box.host / "dir", "/new/dir", attr_set=k.ATTR_RDONLY | k.ATTR_NOEXEC),
        bind(box.host / "file", "/dev/bound"),
        bind("/nothere", "/never", flags=ops.BIND_CREATE | ops.BIND_OPTIONAL),
    )
    outcome = box.run(
        container(
            *(
                "cat",
                "/new/deep/file",
                "echo",
                "",
                "stat",
                "/never",
                "write",
                "/new/dir/inside",
                "x",
                "write",
                "/new/deep/file",
                "changed",
            ),
            *("cat", "/proc/self/mountinfo"),
            more=more,
        )
    )
    assert outcome.out.startswith("from the host")
    assert outcome.line("/never:") == "/never: No such file or directory"
    assert outcome.line("/new/dir/inside:") == "/new/dir/inside: Read-only file system"
    assert (box.host / "file").read_text().startswith("changed")
    assert (box.host / "dir/inside").read_text() == "inside"
    assert "noexec" in mountinfo(outcome.out)["/new/dir"][5]
    # The points that were made lie in the writable layer, not in the image.
    assert (box.upper / "new/deep/file").is_file()
    assert not (box.lower / "new").exists()


def test_bind_of_a_detached_tree_of_the_plan(box: Box) -> None:
    (box.host / "a").mkdir()
    (box.host / "a/name").write_text("tree")
    for name in ("b", "c"):
        (box.host / name).mkdir()
    op = ops.MountBind(
        tree=Fd("tree"),
        source="",
        target="/vol",
        flags=ops.BIND_CREATE,
        attr_set=k.ATTR_RDONLY,
        attr_clr=0,
        propagation=k.MS_PRIVATE,
        userns=None,
    )
    tree = f"overlay:{box.host / 'a'}:{box.host / 'b'}:{box.host / 'c'}"
    outcome = box.run(container("cat", "/vol/name", "echo", "", "write", "/vol/x", "y", more=(op,)), fds={"tree": tree})
    assert outcome.out.splitlines() == ["tree", "/vol/x: Read-only file system"]


def test_bind_nosymlink(box: Box) -> None:
    (box.host / "link").symlink_to("/etc/hostname")
    followed = box.run(container("stat", "/vol", more=(bind(box.host / "link", "/vol"),)))
    assert followed.line("/vol:").startswith("/vol: f")
    refused = box.run(
        container("exit", "0", more=(bind(box.host / "link", "/v", flags=ops.BIND_CREATE | ops.BIND_NOSYMLINK),))
    )
    assert refused.failed == ("mount_bind", errno.ELOOP, f"source {box.host / 'link'} is a symbolic link")


def test_recursive_bind_and_recursive_read_only(box: Box) -> None:
    """A volume with a mount below it: made in the container's own namespace, by binding twice."""
    (box.host / "sub").mkdir()
    (box.base / "other").mkdir()
    (box.base / "other/name").write_text("other")
    inner = (bind(box.host, "/vol"), bind(box.base / "other", "/vol/sub"))
    flags = ops.BIND_CREATE | ops.BIND_RECURSIVE
    seen = box.run(
        container(
            "cat",
            "/vol/sub/name",
            "write",
            "/vol/sub/x",
            "y",
            "write",
            "/vol/x",
            "y",
            more=(*inner, ops.Readonly(target="/vol")),
        )
    )
    assert seen.out.splitlines()[0] == "other/vol/sub/x: Read-only file system"
    assert seen.line("/vol/x:") == "/vol/x: Read-only file system"
    # Recursive bind of the host's /dev: with devpts and shm below it.
    outcome = box.run(container("cat", "/proc/self/mountinfo", more=(bind("/dev", "/hostdev", flags=flags),)))
    assert "/hostdev/pts" in mountinfo(outcome.out)
    attrs = {"attr_set": k.ATTR_RDONLY}
    all_ro = box.run(
        container(
            "cat", "/proc/self/mountinfo", more=(bind("/dev", "/h", flags=flags | ops.BIND_ATTRS_RECURSIVE, **attrs),)
        )
    )
    info = mountinfo(all_ro.out)
    assert {fields[5].split(",")[0] for path, fields in info.items() if path.startswith("/h")} == {"ro"}
    top_ro = box.run(container("cat", "/proc/self/mountinfo", more=(bind("/dev", "/h", flags=flags, **attrs),)))
    info = mountinfo(top_ro.out)
    assert info["/h"][5].startswith("ro")
    assert info["/h/pts"][5].startswith("rw")


@pytest.mark.parametrize(
    ("propagation", "tag"), [(k.MS_SHARED, "shared:"), (k.MS_PRIVATE, "-"), (k.MS_UNBINDABLE, "unbindable")]
)
def test_propagation_of_a_bind(box: Box, propagation: int, tag: str) -> None:
    outcome = box.run(
        container("cat", "/proc/self/mountinfo", more=(bind(box.host, "/vol", propagation=propagation | k.MS_REC),))
    )
    assert mountinfo(outcome.out)["/vol"][6].startswith(tag)


def test_mount_move_attrs(box: Box) -> None:
    more = (
        new("tmpfs", "/t"),
        ops.Mkdir(target="/t/a/b", mode=0o700),
        ops.MountMoveAttrs(target="/t", attr_set=k.ATTR_RDONLY, attr_clr=0, propagation=k.MS_SHARED, recursive=0),
    )
    outcome = box.run(container("stat", "/t/a/b", "write", "/t/x", "y", "cat", "/proc/self/mountinfo", more=more))
    assert outcome.line("/t/a/b:").startswith("/t/a/b: d 0700")
    assert outcome.line("/t/x:") == "/t/x: Read-only file system"
    assert mountinfo(outcome.out)["/t"][6].startswith("shared:")


def test_rootfs_attributes_come_last(box: Box) -> None:
    root = (ops.RootfsAttrs(attr_set=k.ATTR_RDONLY, attr_clr=0, propagation=k.MS_SHARED),)
    outcome = box.run(
        container("write", "/x", "y", "write", "/dev/shm/x", "y", "cat", "/proc/self/mountinfo", root=root)
    )
    assert outcome.line("/x:") == "/x: Read-only file system"
    assert outcome.line("/dev/shm/x:") == "/dev/shm/x: written"
    info = mountinfo(outcome.out)
    assert info["/"][6].startswith("shared:")
    assert info["/proc"][6] == "-"


def test_rootfs_by_path(box: Box) -> None:
    rootfs = ops.Rootfs(tree=None, source=str(box.lower), flags=0)
    outcome = box.run(container("cat", "/proc/self/mountinfo", "write", "/made", "x", rootfs=rootfs))
    assert mountinfo(outcome.out)["/"][6] == "-"
    assert (box.lower / "made").read_text() == "x"
    missing = box.run(container("exit", "0", rootfs=ops.Rootfs(tree=None, source="/nothere", flags=0)))
    assert missing.failed == ("rootfs", errno.ENOENT, "rootfs /nothere")


def test_shared_root_propagation_does_not_reach_the_host(box: Box) -> None:
    """rshared, as Bidirectional volumes ask for: the fixture counts the host's mounts afterwards."""
    root = (ops.RootfsAttrs(attr_set=0, attr_clr=0, propagation=k.MS_SHARED),)
    outcome = box.run(container("ls", "/", propagation=k.MS_SHARED | k.MS_REC, root=root))
    assert "proc" in outcome.line("/:")


def test_nodes_links_and_files(box: Box) -> None:
    more = (
        ops.Mknod(target="/dev/net/tun", mode=k.S_IFCHR | 0o620, major=10, minor=200, uid=11, gid=12),
        ops.Mknod(target="/dev/null", mode=k.S_IFCHR | 0o666, major=1, minor=3, uid=0, gid=0),
        ops.Mknod(target="/dev/fifo", mode=k.S_IFIFO | 0o600, major=0, minor=0, uid=0, gid=0),
        ops.Symlink(linktext="/proc/self/fd", target="/dev/fd"),
        ops.Symlink(linktext="a/b", target="/dev/deep/link"),
        ops.WriteFile(target="/dev/note", mode=0o640, data=b"hello\n"),
    )
    outcome = box.run(
        container(
            "stat",
            "/dev/net/tun",
            "stat",
            "/dev/fifo",
            "readlink",
            "/dev/deep/link",
            "cat",
            "/dev/note",
            "stat",
            "/dev/note",
            more=more,
        )
    )
    assert outcome.line("/dev/net/tun:").startswith("/dev/net/tun: c 0620 11:12 10:200")
    assert outcome.line("/dev/fifo:").startswith("/dev/fifo: p 0600")
    assert "/dev/deep/link -> a/b" in outcome.out
    assert "hello\n" in outcome.out
    assert outcome.line("/dev/note:").startswith("/dev/note: f 0640")


def test_masked_and_read_only_paths(box: Box) -> None:
    (box.lower / "secret").write_text("secret")
    (box.lower / "dir").mkdir()
    (box.lower / "dir/secret").write_text("secret")
    more = (
        PROC,
        *(ops.Mask(target=path) for path in ("/secret", "/dir", "/missing", "/secret/below", "/missing/deep", *MASKED)),
        *(ops.Readonly(target=path) for path in ("/missing", *READONLY)),
    )
    outcome = box.run(
        container(
            *(
                "cat",
                "/secret",
                "echo",
                "|",
                "ls",
                "/dir",
                "chmod",
                "/secret",
                "0",
                "mkdir",
                "/dir/x",
                "stat",
                "/secret",
                "stat",
                "/dev/null",
            ),
            *("write", "/proc/sys/kernel/hostname", "x", "cat", "/proc/keys", "stat", "/missing"),
            more=more,
        )
    )
    assert outcome.out.startswith("|\n/dir:\n")
    assert outcome.line("/secret: Read") == "/secret: Read-only file system"
    assert outcome.line("/dir/x:") == "/dir/x: Read-only file system"
    assert outcome.line("/secret: c").startswith("/secret: c 0666 0:0 1:3")
    assert outcome.line("/proc/sys/kernel/hostname:").endswith("Read-only file system")
    assert outcome.line("/missing:").endswith("No such file or directory")


def test_tmpcopyup(box: Box) -> None:
    source = box.lower / "data"
    (source / "deep/er").mkdir(parents=True)
    (source / "file").write_text("contents" * 1000)
    (source / "file").chmod(0o4750)
    os.chown(source / "file", 5, 6)
    (source / "file").chmod(0o4750)
    (source / "deep/link").symlink_to("../file")
    os.mkfifo(source / "deep/fifo")
    os.mknod(source / "deep/er/node", 0o600 | k.S_IFCHR, os.makedev(1, 7))
    (source / "deep/er").chmod(0o1777)
    source.chmod(0o751)
    os.chown(source, 7, 8)
    flags = ops.NEW_CREATE | ops.NEW_TMPCOPYUP
    verbs = [
        word
        for path in ("", "/file", "/deep/link", "/deep/fifo", "/deep/er/node", "/deep/er")
        for word in ("stat", "/data" + path)
    ]
    outcome = box.run(container(*verbs, "write", "/data/new", "x", more=(new("tmpfs", "/data", 0, (), flags),)))
    assert outcome.line("/data:").startswith("/data: d 0751 7:8")
    assert outcome.line("/data/file:").startswith("/data/file: f 4750 5:6 0:0 8000 0x1021994")
    assert outcome.line("/data/deep/link:").startswith("/data/deep/link: l")
    assert outcome.line("/data/deep/fifo:").startswith("/data/deep/fifo: p")
    assert outcome.line("/data/deep/er/node:").startswith("/data/deep/er/node: c 0600 0:0 1:7")
    assert outcome.line("/data/deep/er:").startswith("/data/deep/er: d 1777")
    assert outcome.line("/data/new:") == "/data/new: written"
    assert not (source / "new").exists()
    readonly = box.run(
        container("write", "/data/new", "x", "ls", "/data", more=(new("tmpfs", "/data", k.ATTR_RDONLY, (), flags),))
    )
    assert readonly.line("/data/new:").endswith("Read-only file system")
    assert sorted(readonly.line("/data:").split()[1:]) == ["deep", "file"]
    full = box.run(container("exit", "0", more=(new("tmpfs", "/data", 0, ("size=4096",), flags),)))
    assert full.failed == ("mount_new", errno.ENOSPC, "target /data: copy of file")


def test_mount_order_later_targets_resolve_in_earlier_mounts(box: Box) -> None:
    (box.host / "x").mkdir()
    more = (bind(box.host, "/vol"), new("tmpfs", "/vol/x"), ops.Mkdir(target="/vol/x/in/tmpfs", mode=0o755))
    assert box.run(container("ls", "/vol/x/in", more=more)).line("/vol/x/in:") == "/vol/x/in: tmpfs"
    assert not list((box.host / "x").iterdir())


def test_ops_without_a_root_are_refused(box: Box) -> None:
    plan = [ops.Clone(flags=k.CLONE_NEWNS, cgroup=None), PROC, ops.Exec(path="/x", argv=("x",), envp=())]
    assert box.run(plan).failed == ("mount_new", errno.EINVAL, "no op rootfs or join_mnt_of before it")


def test_host_file_is_unchanged_by_all_this() -> None:
    assert (os.stat("/dev/null").st_mode & 0o7777) == 0o666
    assert Path("/proc/sys/kernel/hostname").read_text()
    assert DEV and NODES


def mount_tmpfs(target: Path) -> None:
    assert LIBC.mount(b"tmpfs", os.fsencode(target), b"tmpfs", 0, None) == 0


def unmount(target: Path) -> None:
    assert LIBC.umount2(os.fsencode(target), 2) == 0


@pytest.mark.parametrize(
    ("root", "volume", "sees_the_hosts"),
    [
        (k.MS_SLAVE, k.MS_SLAVE, True),
        (k.MS_SLAVE, k.MS_PRIVATE, False),
        (k.MS_PRIVATE, 0, False),
        (k.MS_SHARED, k.MS_SLAVE, True),
        (k.MS_SHARED, k.MS_SHARED, True),
    ],
)
@pytest.mark.parametrize("whole_host", [False, True])
def test_host_to_container(box: Box, root: int, volume: int, sees_the_hosts: bool, whole_host: bool) -> None:
    """A mount that the host makes below a volume after the container was made; also when the volume is the host's "/" (node exporters)."""
    (box.host / "sub").mkdir()
    source, inside = (Path("/"), f"/vol{box.host}/sub") if whole_host else (box.host, "/vol/sub")
    flags = ops.BIND_CREATE | ops.BIND_RECURSIVE
    more = (bind(source, "/vol", flags=flags, propagation=volume and volume | k.MS_REC),)
    command = box.command(
        container("ls", inside, more=more, propagation=root | k.MS_REC), options=("--stdio", "--hold")
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr and run.stdin and run.stdout
        run.stderr.readline()
        mount_tmpfs(box.host / "sub")
        (box.host / "sub/made-by-the-host").mkdir()
        run.stdin.write("go\n")
        run.stdin.flush()
        seen = run.stdout.read()
    unmount(box.host / "sub")
    assert ("made-by-the-host" in seen) is sees_the_hosts


@pytest.mark.parametrize("whole_host", [False, True])
@pytest.mark.parametrize("volume", [k.MS_SHARED, k.MS_SLAVE, k.MS_PRIVATE])
def test_container_to_host(box: Box, volume: int, whole_host: bool) -> None:
    """Bidirectional: what is mounted in the volume appears on the host, and only then."""
    (box.host / "sub").mkdir()
    source, inside = (Path("/"), f"/vol{box.host}/sub") if whole_host else (box.host, "/vol/sub")
    flags = ops.BIND_CREATE | ops.BIND_RECURSIVE
    volume_op = bind(source, "/vol", flags=flags, propagation=volume | k.MS_REC)
    more = (volume_op, new("tmpfs", inside, options=("size=12288",)))
    outcome = box.run(container("exit", "0", more=more, propagation=k.MS_SHARED | k.MS_REC))
    assert outcome.exit_code == 0
    appeared = f" {box.host}/sub " in Path("/proc/self/mountinfo").read_text()
    if appeared:
        unmount(box.host / "sub")
    assert appeared is (volume == k.MS_SHARED)
