"""What an operator reads, and what a hostile value can not do to it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from orlop.oci import ops
from orlop.oci.ops import Fd, make_plan
from orlop.oci.plan_text import describe, plan_json, plan_text

CLONE = ops.Clone(flags=0x20020000, cgroup=Fd("cgroup"))
EXEC = ops.Exec(path="/bin/sh", argv=("sh", "-c", "a b"), envp=("PATH=/bin", "TOKEN=secret"))


def test_numbers_are_named_and_zeros_that_say_nothing_are_silent() -> None:
    assert describe(CLONE) == "flags=CLONE_NEWNS|CLONE_NEWPID cgroup=fd:cgroup"
    assert (
        describe(ops.Rlimit(resource=4, soft=0, hard=2**64 - 1, clamp=0))
        == "resource=RLIMIT_CORE soft=0 hard=unlimited"
    )
    assert describe(ops.Mknod(target="/dev/x", mode=0o060660, major=8, minor=1, uid=0, gid=6)) == (
        "target=/dev/x mode=b0660 major=8 minor=1 uid=0 gid=6"
    )
    assert describe(ops.Scheduler(policy=99, nice=0, priority=0, flags=0, runtime=0, deadline=0, period=0)).startswith(
        "policy=99"
    )
    assert describe(ops.Setsid()) == ""


def test_a_filter_is_its_length_and_digest() -> None:
    text = describe(ops.Seccomp(filter=bytes(24), flags=2))
    assert text.startswith("filter=3 instructions sha256:")
    assert text.endswith("flags=SECCOMP_FILTER_FLAG_LOG")


def test_values_of_the_environment_are_shown_only_when_asked_for() -> None:
    assert "secret" not in describe(EXEC)
    assert "TOKEN" in describe(EXEC)
    assert "TOKEN=secret" in describe(EXEC, show_values=True)
    plan = make_plan([CLONE, EXEC])
    assert b"secret" not in plan_json(plan)
    assert json.loads(plan_json(plan, show_values=True))["ops"][1]["envp"] == ["PATH=/bin", "TOKEN=secret"]


@given(st.binary(max_size=60))
def test_no_value_can_forge_a_line_or_steer_a_terminal(data: bytes) -> None:
    value = data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    plan = make_plan([CLONE, ops.Hostname(name=value), ops.Exec(path=value, argv=(value,), envp=(value + "=x",))])
    text = plan_text(plan)
    assert text.isascii() or all(char.isprintable() or char == "\n" for char in text)
    assert [line.split(" ")[0] for line in text.splitlines() if line[0] != "#"] == ["clone", "hostname", "exec", "0"]
    json.loads(plan_json(plan, show_values=True))


def test_the_fds_are_listed_in_their_order() -> None:
    plan = make_plan([CLONE, ops.CgroupJoin(tasks=Fd("tasks")), EXEC])
    assert [line.split() for line in plan_text(plan).splitlines()[-2:]] == [["0", "cgroup"], ["1", "tasks"]]
    assert json.loads(plan_json(plan))["fds"] == ["cgroup", "tasks"]
