"""Images and volumes that try to lead the executor out of the container (security regressions; the CVE is named at each test)."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from tests.kernel.executor.harness import DEV, NODES, PROC, Box, bind, container, mknod, new, standard

pytestmark = pytest.mark.kernel


def listing(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def replace_by_link(box: Box, name: str, target: str) -> None:
    (box.lower / name).rmdir()
    (box.lower / name).symlink_to(target)


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_kernel_trees_are_not_mounted_behind_links(box: Box, name: str) -> None:
    """CVE-2023-27561, CVE-2023-28642."""
    (box.lower / "elsewhere").mkdir()
    replace_by_link(box, name, "/elsewhere")
    fstype = {"proc": "proc", "sys": "sysfs"}[name]
    outcome = box.run(container("exit", "0", mounts=(new(fstype, f"/{name}"),)))
    assert outcome.failed == ("mount_new", errno.ELOOP, f"target /{name}: a symbolic link cannot hold {fstype}")


def test_a_file_named_proc(box: Box) -> None:
    (box.lower / "proc").rmdir()
    (box.lower / "proc").write_text("")
    assert box.run(container("exit", "0", mounts=(PROC,))).failed == ("mount_new", errno.ENOTDIR, "target /proc")


@pytest.mark.parametrize("link", ["{host}", "../../../../../../../../{host}", "/proc/1/root{host}"])
def test_dev_is_a_link_to_the_host(box: Box, link: str) -> None:
    """CVE-2026-41579, CVE-2026-47766: nodes and mounts for /dev must not appear on the host."""
    replace_by_link(box, "dev", link.format(host=box.host))
    before = listing(box.host)
    outcome = box.run(container("stat", "/dev/null", mounts=(PROC, *DEV, *NODES)))
    assert listing(box.host) == before
    # Where the link points to inside of the container there is nothing: it was made there.
    if not outcome.has("failed"):
        assert outcome.line("/dev/null:").startswith("/dev/null: c")


def test_dev_link_without_a_dev_mount(box: Box) -> None:
    replace_by_link(box, "dev", str(box.host))
    more = (
        mknod("/dev/null", 1, 3),
        ops.Symlink(linktext="x", target="/dev/link"),
        ops.Mkdir(target="/dev/dir", mode=0o755),
    )
    outcome = box.run(container("stat", "/dev/null", "readlink", "/dev/link", mounts=(), more=more, stdio=()))
    assert outcome.exit_code == 0
    assert listing(box.host) == []


@pytest.mark.parametrize("link", ["{host}/made", "../../../../../../../..{host}/made", "/../..{host}/made"])
def test_dangling_link_as_target_is_made_inside(box: Box, link: str) -> None:
    """CVE-2021-30465, CVE-2024-45310: /etc/resolv.conf -> somewhere that does not exist in the image."""
    (box.lower / "etc/resolv.conf").symlink_to(link.format(host=box.host))
    (box.base / "resolv").write_text("nameserver 192.0.2.1\n")
    outcome = box.run(container("cat", "/etc/resolv.conf", more=(bind(box.base / "resolv", "/etc/resolv.conf"),)))
    assert "nameserver 192.0.2.1" in outcome.out
    assert listing(box.host) == []
    # That directory exists outside of the container only; inside, the empty file that holds the mount stands in the writable layer.
    assert (box.upper / str(box.host)[1:] / "made").read_text() == ""


def test_relative_dangling_link(box: Box) -> None:
    (box.lower / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    outcome = box.run(
        container("cat", "/run/systemd/resolve/stub-resolv.conf", more=(bind("/etc/hostname", "/etc/resolv.conf"),))
    )
    assert outcome.out == Path("/etc/hostname").read_text()


def test_link_loop(box: Box) -> None:
    (box.lower / "a").symlink_to("b")
    (box.lower / "b").symlink_to("a")
    assert box.run(container("exit", "0", more=(bind("/etc", "/a/x"),))).failed == (
        "mount_bind",
        errno.ELOOP,
        "target /a/x",
    )


def test_growing_link(box: Box) -> None:
    (box.lower / "grow").symlink_to("missing/" + "x/" * 60 + "../" * 61 + "grow")
    op, error, _ = box.run(container("exit", "0", more=(bind("/etc", "/grow"),))).failed
    assert (op, error) in {
        ("mount_bind", errno.ELOOP),
        ("mount_bind", errno.EINVAL),
        ("mount_bind", errno.ENAMETOOLONG),
    }


def test_dot_dot_through_what_does_not_exist(box: Box) -> None:
    outcome = box.run(container("exit", "0", more=(bind("/etc", "/missing/../../../x"),)))
    assert outcome.failed == ("mount_bind", errno.EINVAL, "target /missing/../../../x")


@pytest.mark.parametrize(
    "target", ["/proc/self/fd/3", "/proc/1/root/etc", "/proc/self/cwd/x", "/proc/thread-self/ns/mnt"]
)
def test_magic_links_are_no_targets(box: Box, target: str) -> None:
    op, error, detail = box.run(container("exit", "0", more=(bind("/etc", target),))).failed
    assert (op, error) == ("mount_bind", errno.ELOOP)
    assert detail == f"target {target}"


def test_dev_null_of_the_image_is_another_file(box: Box) -> None:
    """CVE-2025-31133: the image brings its own /dev/null, and there is no /dev mount."""
    (box.lower / "dev/null").symlink_to("/etc")
    (box.lower / "secret").write_text("secret")
    outcome = box.run(container("exit", "0", mounts=(), more=(ops.Mask(target="/secret"),), stdio=()))
    assert outcome.failed == ("mask", errno.ENODEV, "/dev/null of the container is not the null device 1:3")
    (box.lower / "dev/null").unlink()
    (box.lower / "dev/null").write_text("")
    outcome = box.run(container("exit", "0", mounts=(), more=(ops.Mask(target="/secret"),), stdio=()))
    assert outcome.failed == ("mask", errno.ENODEV, "/dev/null of the container is not the null device 1:3")
    os.unlink(box.lower / "dev/null")
    os.mknod(box.lower / "dev/null", 0o666 | k.S_IFCHR, os.makedev(1, 5))
    outcome = box.run(container("exit", "0", mounts=()), options=())
    assert outcome.failed == ("stdio", errno.ENODEV, "/dev/null of the container is not the null device 1:3")
    outcome = box.run(container("exit", "0", mounts=(mknod("/dev/null", 1, 3),)), options=())
    assert outcome.failed[:2] == ("mknod", errno.EEXIST)


def test_mask_does_not_let_the_host_node_be_changed(box: Box) -> None:
    mounts = (PROC, bind("/dev", "/dev", flags=ops.BIND_CREATE | ops.BIND_RECURSIVE))
    mode = os.stat("/dev/null").st_mode
    (box.lower / "secret").write_text("secret")
    outcome = box.run(container("chmod", "/secret", "0", mounts=mounts, more=(ops.Mask(target="/secret"),)))
    assert outcome.line("/secret:") == "/secret: Read-only file system"
    assert os.stat("/dev/null").st_mode == mode


def test_ptmx_of_the_image_is_no_terminal(box: Box) -> None:
    """CVE-2025-52565."""
    (box.lower / "dev/pts").mkdir()
    os.mknod(box.lower / "dev/pts/ptmx", 0o666 | k.S_IFCHR, os.makedev(5, 2))
    more = (ops.Terminal(rows=0, cols=0),)
    assert box.run(container("exit", "0", mounts=(PROC,), more=more, stdio=())).failed == (
        "terminal",
        errno.ENODEV,
        "/dev/pts is not a devpts",
    )
    linked = box.run(
        container(
            "exit",
            "0",
            mounts=(PROC, new("tmpfs", "/dev"), ops.Symlink(linktext="/proc", target="/dev/pts")),
            more=more,
            stdio=(),
        )
    )
    assert linked.failed == ("terminal", errno.ENODEV, "/dev/pts is not a devpts")


def test_working_directory_outside_of_the_root(box: Box) -> None:
    """CVE-2024-21626."""
    (box.lower / "out").symlink_to("/proc/self/fd/4")
    for path in (*(f"/proc/self/fd/{fd}" for fd in range(3, 20)), "/out", "/proc/1/cwd", "/proc/self/root/.."):
        op, error, detail = box.run(
            standard("cwd", more=())[:-3] + [ops.Chdir(path=path, create=0), *standard("cwd")[-1:]]
        ).failed
        assert op == "chdir"
        assert error in {errno.ELOOP, errno.ENOENT}
        assert detail == path


def test_sysctl_goes_to_the_real_proc(box: Box) -> None:
    """CVE-2019-16884, CVE-2025-52881: a volume over parts of the container's /proc does not catch what is written."""
    (box.host / "kernel").mkdir()
    (box.host / "kernel/domainname").write_text("untouched")
    plan = container("names", ns=(ops.Sysctl(key="kernel/domainname", value="by-sysctl"),))
    assert box.run(plan).line("names:").endswith(" by-sysctl")
    # Also for a process of a running container whose /proc is covered.
    covered = container("wait", more=(bind(box.host, "/proc/sys"),), gate=False)
    exec_ops = [
        ops.JoinMntOf(container="c"),
        ops.Clone(flags=k.CLONE_NEWUTS, cgroup=None),
        ops.Sysctl(key="kernel/domainname", value="in-exec"),
        ops.ChrootFd(),
        ops.Stdio(in_=None, out=None, err=None),
        ops.Exec(path="/bin/payload", argv=("payload", "names"), envp=()),
    ]
    assert box.run(covered, exec_ops=exec_ops).line("names:").endswith(" in-exec")
    assert (box.host / "kernel/domainname").read_text() == "untouched"


@pytest.mark.parametrize(
    "key", ["../sysrq-trigger", "kernel/../../self/oom_score_adj", "/kernel/domainname", "kernel/nothere", "x" * 300]
)
def test_sysctl_keys_stay_below_proc_sys(box: Box, key: str) -> None:
    op, error, detail = box.run(container("exit", "0", ns=(ops.Sysctl(key=key, value="0"),))).failed
    assert op == "sysctl"
    assert error in {errno.ENOENT, errno.EXDEV, errno.ENAMETOOLONG}
    assert detail == f'{key} = "0"'


def test_sysctl_value_is_one_line(box: Box) -> None:
    """CVE-2022-0811."""
    outcome = box.run(container("exit", "0", ns=(ops.Sysctl(key="kernel/domainname", value="a\nkernel.x=y"),)))
    assert outcome.failed == ("sysctl", errno.EINVAL, "kernel/domainname: its value has more than one line")


def test_volumes_raced_while_targets_are_made(box: Box) -> None:
    """CVE-2021-30465, CVE-2024-45310: another container swaps a directory of a shared volume with a link to the host all the time."""
    volume, bait = box.base / "volume", box.host
    (volume / "swap").mkdir(parents=True)
    (volume / "link").symlink_to("../" * 12 + str(bait)[1:])
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(volume / "swap", volume / "away")
                os.rename(volume / "link", volume / "swap")
                os.rename(volume / "swap", volume / "link")
                os.rename(volume / "away", volume / "swap")
            except OSError:
                return

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for round_ in range(60):
            more = (
                bind(volume, "/vol"),
                bind("/etc", f"/vol/swap/made{round_}/deep"),
                ops.Mkdir(target=f"/vol/swap/dir{round_}", mode=0o755),
                bind("/etc/hostname", f"/vol/swap/file{round_}"),
                ops.Mask(target="/vol/swap/mask"),
            )
            outcome = box.run(container("exit", "0", more=more))
            assert outcome.has("exit") or outcome.failed[0] in {"mount_bind", "mkdir", "mask"}
    finally:
        stop.set()
        racer.join()
    assert listing(bait) == []


def test_copy_up_does_not_follow_links(box: Box) -> None:
    (box.host / "secret").write_text("secret")
    (box.lower / "data").mkdir()
    (box.lower / "data/link").symlink_to(box.host / "secret")
    more = (new("tmpfs", "/data", 0, (), ops.NEW_CREATE | ops.NEW_TMPCOPYUP),)
    outcome = box.run(container("readlink", "/data/link", "cat", "/data/link", more=more))
    assert "secret" not in outcome.out.splitlines()[1:]
    assert "No such file" in outcome.out


def test_copy_up_of_a_very_deep_tree_is_refused(box: Box) -> None:
    deep = box.lower / "data"
    deep.mkdir()
    fd = os.open(deep, os.O_DIRECTORY)
    for _ in range(200):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    more = (new("tmpfs", "/data", 0, (), ops.NEW_CREATE | ops.NEW_TMPCOPYUP),)
    assert box.run(container("exit", "0", more=more)).failed == ("mount_new", errno.ELOOP, "target /data: copy of d")
