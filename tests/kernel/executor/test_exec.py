"""Join plans: a further process in a running container."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Op
from tests.kernel.executor.harness import NEW, Box, bind, container, new

pytestmark = pytest.mark.kernel


def join(
    *verbs: str, more: tuple[Op, ...] = (), path: str = "/bin/payload", container_id: str = "c", pid: bool = True
) -> list[Op]:
    return [
        *((ops.JoinPidOf(container=container_id),) if pid else ()),
        ops.JoinMntOf(container=container_id),
        ops.Clone(flags=0, cgroup=None),
        ops.OomScoreAdj(value=99, clamp=1),
        ops.Rlimit(resource=7, soft=50, hard=60, clamp=1),
        ops.Setsid(),
        ops.ChrootFd(),
        ops.Stdio(in_=None, out=None, err=None),
        *more,
        ops.Exec(path=path, argv=(path, *verbs), envp=("PATH=/bin",)),
    ]


WAITING = container("wait", gate=False)


def test_exec_sees_the_containers_world(box: Box) -> None:
    (box.lower / "etc/mark").write_text("of the image\n")
    verbs = (
        "id",
        "cat",
        "/etc/mark",
        "cat",
        "/proc/1/comm",
        "fds",
        "limit",
        "7",
        "cat",
        "/proc/self/oom_score_adj",
        "cwd",
        "exit",
        "9",
    )
    outcome = box.run(WAITING, exec_ops=join(*verbs))
    assert outcome.event("exec_exit")["code"] == "9"
    assert "pid=2 ppid=0" in outcome.line("id:")
    assert "of the image\npayload\nfds: 0 1 2\nlimit 7: 50 60\n99\ncwd: /\n" in outcome.out


def test_exec_joins_all_mount_and_cgroup_namespaces(box: Box) -> None:
    waiting = container("wait", gate=False, join=(ops.Unshare(flags=k.CLONE_NEWCGROUP | k.CLONE_NEWTIME), ops.Setsid()))
    names = ("mnt", "cgroup", "time")
    verbs = [word for name in names for word in ("readlink", f"/proc/self/ns/{name}", "readlink", f"/proc/1/ns/{name}")]
    outcome = box.run(waiting, exec_ops=join(*verbs))
    links = [line.split(" -> ")[1] for line in outcome.out.splitlines()]
    assert links[0::2] == links[1::2]
    assert all(link != os.readlink(f"/proc/self/ns/{name}") for link, name in zip(links[::2], names, strict=True))


def test_exec_in_a_user_namespace(box: Box) -> None:
    """It must enter it: a process with the host's root in the container's mounts would be the end."""
    maps = ops.IdMaps(uid_map="0 100000 65536\n", gid_map="0 100000 65536\n", setgroups=1)
    os.chown(box.upper, 100000, 100000)
    os.chown(box.base / "work", 100000, 100000)
    mounts = (new("tmpfs", "/dev"), bind("/dev/null", "/dev/null"), new("proc", "/proc"))
    waiting = container("wait", gate=False, flags=NEW | k.CLONE_NEWUSER, parent=(maps,), mounts=mounts)
    more = (ops.Groups(gids=()), ops.User(uid=0, gid=0))
    outcome = box.run(
        waiting, exec_ops=join("id", "cat", "/proc/self/uid_map", "readlink", "/proc/self/ns/user", more=more)
    )
    assert "uid=0 euid=0" in outcome.line("id:")
    assert "100000" in outcome.out
    assert os.readlink("/proc/self/ns/user") not in outcome.out


def test_exec_with_the_pid_namespace_of_the_parent(box: Box) -> None:
    outcome = box.run(container("wait", flags=k.CLONE_NEWNS, gate=False), exec_ops=join("id", pid=False))
    assert f"pid={outcome.event('exec_running')['pid']} " in outcome.line("id:")


def test_working_directory_attack(box: Box) -> None:
    """CVE-2024-21626 in exec."""
    for fd in range(3, 12):
        outcome = box.run(WAITING, exec_ops=join("cwd", more=(ops.Chdir(path=f"/proc/self/fd/{fd}", create=0),)))
        assert outcome.event("exec_failed")["op"] == "chdir"


def test_errors(box: Box) -> None:
    def failed(plan: list[Op]) -> tuple[str, int, str]:
        values = box.run(WAITING, exec_ops=plan).event("exec_failed")
        return values["op"], int(values["errno"]), values["detail"]

    assert failed(join("id", container_id="gone")) == ("join_mnt_of", errno.ENOENT, "container gone is not running")
    assert failed(join("id", path="nothere")) == ("exec", errno.ENOENT, '"nothere": executable file not found in $PATH')
    pod = [ops.JoinPodInit(), *join("id", pid=False)]
    assert failed(pod) == ("join_pod_init", errno.ENOENT, "there is no PID namespace to join")


def test_parent_is_back_in_its_own_pid_namespace(box: Box) -> None:
    """What it clones after a join must not land in the container: planrun launches the exec, then ends and reaps both."""
    outcome = box.run(WAITING, exec_ops=join("exit", "0"))
    assert [name for name, _ in outcome.events] == ["running", "exec_running", "exec_exit", "exit"]
    assert outcome.event("exit")["signal"] == "9"


def test_container_that_has_ended(box: Box) -> None:
    ended = container("exit", "0", gate=False)
    only_pid = [op for op in join("id") if not isinstance(op, ops.JoinMntOf | ops.ChrootFd)]
    for plan, name in ((join("id"), "join_mnt_of"), (only_pid, "join_pid_of")):
        values = box.run(ended, exec_ops=plan, options=("--after-end",)).event("exec_failed")
        assert (values["op"], values["detail"]) == (name, "container c is not running")
