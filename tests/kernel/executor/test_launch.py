"""The life of a launch: gate, exec, failure, fds and signals of the child, cgroups, limits."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Fd
from tests.kernel.executor.harness import Box, container, parse, standard

pytestmark = pytest.mark.kernel

CGROUP_V1 = Path("/sys/fs/cgroup/pids")
CGROUP_V2 = [Path(p) for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(p, "cgroup.controllers").exists()]


def test_standard_container_runs_and_its_exit_code_comes_back(box: Box) -> None:
    outcome = box.run(standard("id", "fds", "exit", "7"))
    assert [name for name, _ in outcome.events] == ["gate", "running", "exit"]
    assert outcome.exit_code == 7
    assert "pid=1 ppid=0 sid=1" in outcome.line("id:")


def test_without_gate(box: Box) -> None:
    outcome = box.run(container("exit", "3", gate=False))
    assert [name for name, _ in outcome.events] == ["running", "exit"]
    assert outcome.exit_code == 3


def test_without_gate_parent_ops_are_done_before_exec(box: Box) -> None:
    limit = ops.Rlimit(resource=k.RLIMIT_NUMBERS["RLIMIT_CORE"], soft=0, hard=0, clamp=0)
    adjust = ops.OomScoreAdj(value=321, clamp=0)
    verbs = ("limit", "4", "cat", "/proc/self/oom_score_adj")
    outcome = box.run(container(*verbs, gate=False, parent=(adjust, limit)))
    assert outcome.line("limit 4:") == "limit 4: 0 0"
    assert "321" in outcome.out


def test_only_stdio_is_open_and_nothing_is_ignored_or_blocked(box: Box) -> None:
    """CVE-2024-21626; planrun ignores SIGPIPE, as the monitor does."""
    reading, writing = os.pipe()
    outcome = box.run(container("fds", "signals"), fds={"extra": f"@{reading}"}, pass_fds=(reading,))
    os.close(reading)
    os.close(writing)
    assert outcome.line("fds:") == "fds: 0 1 2"
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert outcome.line(name).split()[1] == "0" * 16


def test_small_nofile_limit_does_not_break_the_set_up(box: Box) -> None:
    limit = ops.Rlimit(resource=k.RLIMIT_NUMBERS["RLIMIT_NOFILE"], soft=5, hard=5, clamp=0)
    outcome = box.run(container("limit", "7", parent=(limit,)))
    assert outcome.line("limit 7:") == "limit 7: 5 5"


def test_limit_that_may_not_be_raised(box: Box) -> None:
    import resource

    try:
        resource.prlimit(os.getpid(), resource.RLIMIT_MEMLOCK, resource.getrlimit(resource.RLIMIT_MEMLOCK))
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard + 4096))
    except (ValueError, OSError):
        pass
    else:
        pytest.skip("this process has CAP_SYS_RESOURCE: every limit may be raised")

    def raised(clamp: int) -> ops.Op:
        return ops.Rlimit(resource=8, soft=hard + 4096, hard=hard + 4096, clamp=clamp)

    failed = box.run(container("limit", "8", parent=(raised(0),)))
    assert failed.failed[:2] == ("rlimit", errno.EPERM)
    assert failed.failed[2] == f"resource 8: soft {hard + 4096} hard {hard + 4096}"
    clamped = box.run(container("limit", "8", parent=(raised(1),)))
    assert clamped.line("limit 8:") == f"limit 8: {hard} {hard}"


def test_killed_at_the_gate(box: Box) -> None:
    command = box.command(container("exit", "0"), options=("--hold",))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdin and run.stderr
        pid = int(run.stderr.readline().split("pid=")[1])
        assert Path(f"/proc/{pid}/comm").read_text() == "orlop:setup\n"
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)
        run.stdin.write("go\n")
        run.stdin.flush()
        rest = run.stderr.read()
    op, error, _ = parse(rest, "", 1).failed
    assert (op, error) == ("gate", errno.ECANCELED)


def test_parked_child_holds_no_fd_but_its_own_and_ends_with_its_monitor(box: Box) -> None:
    reading, writing = os.pipe()
    command = box.command(container("exit", "0"), options=("--hold",))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(writing,),
    ) as run:
        assert run.stderr
        pid = int(run.stderr.readline().split("pid=")[1])
        # 0, 1, 2 and the status socket: neither the pipe that planrun inherited nor a plan's fd.
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert len(links) == 4
        assert sum(link.startswith("socket:") for link in links) == 1
        pidfd = os.pidfd_open(pid)
        run.kill()
    os.close(writing)
    os.close(reading)
    # A child of nobody's now: this process is the subreaper.
    done = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert done is not None
    assert done.si_pid == pid


@pytest.mark.parametrize("link", ["root", "exe", "cwd", "fd/0"])
def test_set_up_cannot_be_inspected_by_others(box: Box, link: str) -> None:
    """CVE-2016-9962: until exec the process is not dumpable, so its /proc entries need CAP_SYS_PTRACE over the host."""
    command = box.command(standard("exit", "0"), options=("--hold",))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr and run.stdin
        pid = int(run.stderr.readline().split("pid=")[1])
        look = f"import os; os.readlink('/proc/{pid}/{link}')"
        drop = subprocess.run(
            ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "python3", "-c", look],
            capture_output=True,
            text=True,
            check=False,
        )
        run.stdin.write("go\n")
        run.stdin.flush()
        run.stderr.read()
    assert "Permission denied" in drop.stderr


def test_environment_and_arguments(box: Box) -> None:
    env = ("PATH=/bin", "A=1", "EMPTY=", "UTF=ü\nline")
    outcome = box.run(container(argv=("name", "env"), env=env))
    assert outcome.out.splitlines() == ["env: PATH=/bin", "env: A=1", "env: EMPTY=", "env: UTF=ü", "line"]


def test_many_arguments(box: Box) -> None:
    outcome = box.run(container(*(("echo", "x") * 20000)))
    assert outcome.out.count("x\n") == 20000


@pytest.mark.parametrize(
    ("path", "error", "detail"),
    [
        ("nothere", errno.ENOENT, '"nothere": executable file not found in $PATH'),
        ("", errno.ENOENT, '"": executable file not found in $PATH'),
        ("/bin/nothere", errno.ENOENT, '"/bin/nothere"'),
        ("/etc/text", errno.EACCES, '"/etc/text"'),
        ("/etc", errno.EACCES, '"/etc": is a directory'),
        ("text", errno.EACCES, '"/etc/text"'),
        ("/etc/script", errno.ENOENT, '"/etc/script": its interpreter is missing'),
        ("script", errno.ENOENT, '"/etc/script": its interpreter is missing'),
        ("/etc/noformat", errno.ENOEXEC, '"/etc/noformat"'),
        ("/bin/payload/x", errno.ENOTDIR, '"/bin/payload/x"'),
    ],
)
def test_exec_errors_in_words(box: Box, path: str, error: int, detail: str) -> None:
    (box.lower / "etc/text").write_text("text")
    for name, text in (("script", "#!/nothere\n"), ("noformat", "\x00\x01\x02\x03")):
        (box.lower / "etc" / name).write_text(text)
        (box.lower / "etc" / name).chmod(0o755)
    outcome = box.run(container(path=path, argv=("x",), env=("PATH=/bin:/etc",)))
    assert outcome.failed == ("exec", error, detail)


def test_path_is_searched_in_order(box: Box) -> None:
    box.install("opt/tool")
    (box.lower / "etc/tool").write_text("not executable")
    outcome = box.run(
        container(path="tool", argv=("tool", "echo", "found"), env=("PATH=/nothere:/bin/payload:/etc:/opt",))
    )
    assert outcome.out == "found\n"


def test_oom_score_adj(box: Box) -> None:
    outcome = box.run(container("cat", "/proc/self/oom_score_adj", parent=(ops.OomScoreAdj(value=777, clamp=0),)))
    assert outcome.out == "777\n"
    bad = box.run(container("exit", "0", parent=(ops.OomScoreAdj(value=5000, clamp=1),)))
    assert bad.failed == ("oom_score_adj", errno.EINVAL, "5000")


def test_malformed_plan_is_refused(box: Box) -> None:
    command = box.command(container("exit", "0"))
    plan = box.base / "container.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "plan refused" in done.stderr


def test_clone_flags_that_make_no_namespace_are_refused(box: Box) -> None:
    outcome = box.run(container("exit", "0", flags=0x100))
    assert outcome.failed == ("clone", errno.EPROTO, "plan refused: flags other than CLONE_NEW*")


@pytest.fixture
def pids_cgroup() -> Iterator[Path]:
    path = CGROUP_V1 / f"orlop-test-{uuid.uuid4().hex[:8]}"
    if not (CGROUP_V1 / "tasks").exists():
        pytest.skip("no cgroup v1 pids hierarchy")
    path.mkdir()
    yield path
    path.rmdir()


def test_cgroup_join_v1(box: Box, pids_cgroup: Path) -> None:
    join = (ops.CgroupJoin(tasks=Fd("pids")), ops.Unshare(flags=k.CLONE_NEWCGROUP), ops.Setsid())
    outcome = box.run(container("cat", "/proc/self/cgroup", join=join), fds={"pids": f"w:{pids_cgroup}/tasks"})
    assert ":pids:/\n" in outcome.out
    unnamed = box.run(container("cat", "/proc/self/cgroup", join=join[:1]), fds={"pids": f"w:{pids_cgroup}/tasks"})
    assert f":pids:/{pids_cgroup.name}\n" in unnamed.out


def test_clone_into_cgroup_v2(box: Box) -> None:
    if not CGROUP_V2:
        pytest.skip("no cgroup v2 mount")
    path = CGROUP_V2[0] / f"orlop-test-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    try:
        plan = container("cat", "/proc/self/cgroup")
        plan[0] = ops.Clone(flags=k.CLONE_NEWNS | k.CLONE_NEWPID, cgroup=Fd("cgroup"))
        outcome = box.run(plan, fds={"cgroup": f"r:{path}"})
        assert f"0::/{path.name}\n" in outcome.out
    finally:
        path.rmdir()


def test_cgroup_that_cannot_be_joined(box: Box) -> None:
    (box.base / "tasks").write_text("")
    join = (ops.CgroupJoin(tasks=Fd("tasks")),)
    outcome = box.run(container("exit", "0", join=join), fds={"tasks": f"r:{box.base / 'tasks'}"})
    assert outcome.failed == ("cgroup_join", errno.EBADF, "cgroup fd 0 of the plan")


def test_standard_container_is_set_up_in_its_budget(box: Box) -> None:
    """1.7 ms for clone, some 20 mounts and exec on the reference host; the fastest of many, since the machine is shared."""
    command = box.command(standard("exit", "0"), options=("--repeat", "100"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "asan" in command[0]:
        pytest.skip("times of a sanitizer build mean nothing")
    assert int(done.stderr.split("min_us=")[1].split()[0]) <= 1700
