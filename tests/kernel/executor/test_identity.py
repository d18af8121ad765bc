"""Ops of NS, JOIN and IDENTITY short of capabilities: names, namespaces, user, groups, umask, scheduling, working directory, id maps."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Fd
from tests.kernel.executor.harness import NEW, Box, bind, container, new

pytestmark = pytest.mark.kernel


def test_names_and_sysctls(box: Box) -> None:
    ns = (
        ops.Hostname(name="inside"),
        ops.Domainname(name="example.org"),
        ops.Sysctl(key="kernel/shmmni", value="1234"),
        ops.Sysctl(key="net/ipv4/ip_unprivileged_port_start", value="7"),
    )
    verbs = ("names", "cat", "/proc/sys/kernel/shmmni", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
    outcome = box.run(container(*verbs, flags=NEW | k.CLONE_NEWNET, ns=ns))
    assert outcome.out.splitlines() == ["names: inside example.org", "1234", "7"]
    assert os.uname().nodename != "inside"
    long = box.run(container("exit", "0", ns=(ops.Hostname(name="x" * 65),)))
    assert long.failed == ("hostname", errno.EINVAL, '"' + "x" * 65 + '"')


def test_joined_namespace(box: Box) -> None:
    with open("/proc/self/ns/uts") as uts:
        fd = uts.fileno()
        join = (ops.Setns(ns=Fd("uts"), nstype=k.CLONE_NEWUTS), ops.Setsid())
        outcome = box.run(container("names", join=join), fds={"uts": f"@{fd}"}, pass_fds=(fd,))
        wrong = (ops.Setns(ns=Fd("uts"), nstype=k.CLONE_NEWNET),)
        failed = box.run(container("names", join=wrong), fds={"uts": f"@{fd}"}, pass_fds=(fd,))
    assert outcome.line("names:").split()[1] == os.uname().nodename
    assert failed.failed == ("setns", errno.EINVAL, "namespace type 0x40000000, fd 0 of the plan")


def test_time_namespace_by_unshare(box: Box) -> None:
    join = (ops.Unshare(flags=k.CLONE_NEWTIME), ops.Setsid())
    outcome = box.run(container("readlink", "/proc/self/ns/time", join=join))
    assert outcome.out.split(" -> ")[1].strip() != os.readlink("/proc/self/ns/time")


def test_pid_namespace_by_fd(box: Box) -> None:
    fd = os.open("/proc/self/ns/pid", os.O_RDONLY)
    plan = container("id", flags=k.CLONE_NEWNS, spawn=(ops.JoinPid(ns=Fd("pid")),))
    outcome = box.run(plan, fds={"pid": f"@{fd}"}, pass_fds=(fd,))
    os.close(fd)
    assert f" pid={outcome.event('running')['pid']} " in outcome.line("id:")


def test_user_groups_umask(box: Box) -> None:
    identity = (
        ops.Umask(mask=0o27),
        ops.Groups(gids=(5, 4000000000, 7)),
        ops.User(uid=1234, gid=4321),
    )
    outcome = box.run(container("id", "write", "/dev/shm/x", "y", "stat", "/dev/shm/x", identity=identity))
    assert "uid=1234 euid=1234 gid=4321 egid=4321 groups=5,7,4000000000 umask=0027" in outcome.line("id:")
    assert outcome.line("/dev/shm/x: f").startswith("/dev/shm/x: f 0640 1234:4321")


def test_umask_is_022_when_the_plan_names_none(box: Box) -> None:
    outcome = box.run(container("id", identity=(ops.Groups(gids=()),)))
    assert " groups= umask=0022 " in outcome.line("id:")


def test_uid_that_is_no_uid(box: Box) -> None:
    """CVE-2024-40635: no wrap to another user."""
    with_uid = box.run(container("id", identity=(ops.User(uid=0xFFFFFFFF, gid=0),)))
    assert with_uid.has("failed") or "uid=0 " in with_uid.line("id:")
    high = box.run(container("id", identity=(ops.User(uid=1 << 31, gid=1 << 31),)))
    assert f"uid={1 << 31} euid={1 << 31} gid={1 << 31}" in high.line("id:")


def test_scheduling(box: Box) -> None:
    identity = (
        ops.Scheduler(policy=3, nice=5, priority=0, flags=0, runtime=0, deadline=0, period=0),
        ops.IoPriority(priority=2 << 13 | 6),
        ops.Personality(persona=0x0040000),
    )
    outcome = box.run(container("cat", "/proc/self/stat", "cat", "/proc/self/personality", identity=identity))
    fields = outcome.out.splitlines()[0].rsplit(")", 1)[1].split()
    assert fields[16] == "5"
    assert fields[38] == "3"
    assert outcome.out.splitlines()[1] == "00040000"
    bad = (ops.Scheduler(policy=77, nice=0, priority=0, flags=0, runtime=0, deadline=0, period=0),)
    assert box.run(container("id", identity=bad)).failed == ("scheduler", errno.EINVAL, "policy 77 nice 0 priority 0")


def test_working_directory_as_the_user(box: Box) -> None:
    (box.lower / "closed").mkdir(mode=0o700)
    (box.lower / "link").symlink_to("etc")
    user = ops.User(uid=1000, gid=1000)
    caps = ops.Capabilities(effective=0, permitted=0, inheritable=0, ambient=0)

    def at(path: str, create: int = 0, who: tuple[ops.Op, ...] = ()) -> list[ops.Op]:
        return container("cwd", identity=(*who, ops.Chdir(path=path, create=create)))

    assert box.run(at("/")).line("cwd:") == "cwd: /"
    assert box.run(at("/link")).line("cwd:") == "cwd: /etc"
    assert box.run(at("/new/dir", create=1)).line("cwd:") == "cwd: /new/dir"
    assert box.run(at("/missing")).failed == ("chdir", errno.ENOENT, "/missing")
    assert box.run(at("/bin/payload")).failed == ("chdir", errno.ENOTDIR, "/bin/payload")
    assert box.run(at("/closed", who=(user, caps))).failed == ("chdir", errno.EACCES, "/closed")


def test_stdio_owner(box: Box) -> None:
    identity = (
        ops.StdioOwner(uid=1000, gid=1001),
        ops.User(uid=1000, gid=1001),
        ops.Capabilities(effective=0, permitted=0, inheritable=0, ambient=0),
    )
    outcome = box.run(container("stat", "/dev/null", "write", "/proc/self/fd/1", "again\n", identity=identity))
    assert "again\n" in outcome.out
    assert outcome.line("/dev/null:").startswith("/dev/null: c 0666 0:0")


def test_stdio_is_dev_null_without_fds(box: Box) -> None:
    outcome = box.run(container("fds", "write", "/proc/self/fd/1", "x", "exit", "4"), options=())
    assert outcome.out == ""
    assert outcome.exit_code == 4


def test_stdio_fds_of_the_plan(box: Box) -> None:
    (box.host / "in").write_text("input")
    stdio = (ops.Stdio(in_=Fd("in"), out=Fd("out"), err=Fd("out")),)
    fds = {"in": f"r:{box.host / 'in'}", "out": f"w:{box.host / 'out'}"}
    (box.host / "out").write_text("")
    box.run(container("cat", "/proc/self/fd/0", stdio=stdio), fds=fds, options=())
    assert (box.host / "out").read_text() == "input"


def test_user_namespace(box: Box) -> None:
    """Maps are written by the parent before the child goes on; inside it is root over its own range only."""
    maps = ops.IdMaps(uid_map="0 100000 65536\n", gid_map="0 200000 65536\n", setgroups=1)
    os.chown(box.upper, 100000, 200000)
    os.chown(box.base / "work", 100000, 200000)
    box.base.chmod(0o755)
    mounts = (new("tmpfs", "/dev"), *(bind(f"/dev/{n}", f"/dev/{n}") for n in ("null", "zero")), new("proc", "/proc"))
    identity = (ops.Groups(gids=(3,)), ops.User(uid=10, gid=20))
    verbs = ("id", "cat", "/proc/self/uid_map", "cat", "/proc/self/gid_map")
    outcome = box.run(container(*verbs, flags=NEW | k.CLONE_NEWUSER, parent=(maps,), mounts=mounts, identity=identity))
    assert "uid=10 euid=10 gid=20 egid=20 groups=3" in outcome.line("id:")
    assert [line.split() for line in outcome.out.splitlines()[1:]] == [
        ["0", "100000", "65536"],
        ["0", "200000", "65536"],
    ]
    bad = box.run(
        container("id", flags=NEW | k.CLONE_NEWUSER, parent=(ops.IdMaps(uid_map="nonsense", gid_map="", setgroups=1),))
    )
    assert bad.failed == ("id_maps", errno.EINVAL, 'uid_map "nonsense"')


def test_session_keyring_is_its_own(box: Box) -> None:
    join = (ops.Setsid(), ops.SessionKeyring(name="_ses.orlop-test"))
    assert "_ses.orlop-test" in box.run(container("cat", "/proc/keys", join=join)).out
