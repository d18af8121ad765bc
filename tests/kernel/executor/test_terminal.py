"""Op terminal and console: the slave is of the container's devpts, the master arrives at the parent."""

from __future__ import annotations

import errno
import os

import pytest

from orlop.oci import ops
from tests.kernel.executor.harness import Box, container

pytestmark = pytest.mark.kernel

TERMINAL = (ops.Terminal(rows=33, cols=101), ops.Console(unused=0))


def test_terminal(box: Box) -> None:
    before = os.listdir("/dev/pts")
    plan = container(
        "tty",
        "stat",
        "/dev/console",
        "ls",
        "/dev/pts",
        "fds",
        "id",
        more=TERMINAL,
        stdio=(ops.StdioOwner(uid=1000, gid=1000),),
    )
    outcome = box.run(plan)
    assert outcome.line("tty:") == "tty: 111 /dev/pts/0 33x101 ctty=yes"
    assert outcome.line("/dev/console:").startswith("/dev/console: c 0620 1000:5 136:0")
    assert set(outcome.line("/dev/pts:").split()[1:]) == {"0", "ptmx"}
    assert outcome.line("fds:") == "fds: 0 1 2 3"  # 3: the payload's own look at /dev/tty
    assert "sid=1" in outcome.line("id:")
    assert os.listdir("/dev/pts") == before


def test_terminal_with_stdio_op_of_a_plan(box: Box) -> None:
    outcome = box.run(container("tty", more=TERMINAL))
    assert outcome.line("tty:").startswith("tty: 111 /dev/pts/0 33x101")


def test_terminal_needs_a_session(box: Box) -> None:
    outcome = box.run(container("tty", join=(), more=TERMINAL))
    assert outcome.failed == ("terminal", errno.EPERM, "controlling terminal (is setsid before it?)")


def test_terminal_of_an_exec(box: Box) -> None:
    exec_ops = [
        ops.JoinPidOf(container="c"),
        ops.JoinMntOf(container="c"),
        ops.Clone(flags=0, cgroup=None),
        ops.Setsid(),
        ops.Terminal(rows=10, cols=20),
        ops.ChrootFd(),
        ops.Exec(path="/bin/payload", argv=("payload", "tty"), envp=()),
    ]
    outcome = box.run(container("wait", gate=False), exec_ops=exec_ops)
    assert outcome.line("tty:") == "tty: 111 /dev/pts/0 10x20 ctty=yes"
