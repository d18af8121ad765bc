"""Plans to bytes and back; malformed bytes are refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument, OrlopError, ResourceExhausted
from orlop.oci import ops
from orlop.oci.codec import decode, encode

TEXT = st.binary(max_size=40).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
FDS = st.one_of(st.none(), st.sampled_from([ops.Fd("rootfs"), ops.Fd("cgroup"), ops.Fd("x")]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "U32": st.integers(0, 2**32 - 1),
    "U64": st.integers(0, 2**64 - 1),
    "I64": st.integers(-(2**63), 2**63 - 1),
    "STR": TEXT,
    "BYTES": st.binary(max_size=40),
    "STRS": st.lists(TEXT, max_size=5).map(tuple),
    "U32S": st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple),
    "FD": FDS,
}


def an_op(kind: type[ops.Op]) -> st.SearchStrategy[ops.Op]:
    return st.builds(kind, **{name: VALUES[wire] for wire, name in ops.wire_fields(kind)})


MIDDLE = [
    kind
    for kind in ops.OPS
    if kind.phase is not ops.Phase.POD and kind not in (ops.Clone, ops.Exec, ops.Gate, ops.Seccomp)
]
CONTAINER_OPS = st.lists(st.sampled_from(MIDDLE).flatmap(an_op), max_size=30)
CLONE = ops.Clone(flags=0x20000000, cgroup=None)
EXEC = ops.Exec(path="/bin/sh", argv=("sh",), envp=())


@given(CONTAINER_OPS)
def test_container_plans_round_trip(middle: list[ops.Op]) -> None:
    plan = ops.make_plan([CLONE, *sorted(middle, key=lambda op: op.phase), EXEC])
    assert decode(encode(plan), plan.fds) == plan


@given(st.lists(st.sampled_from([op for op in ops.OPS if op.phase is ops.Phase.POD]).flatmap(an_op), max_size=9))
def test_pod_plans_round_trip(pod: list[ops.Op]) -> None:
    plan = ops.make_plan(pod)
    assert plan.is_pod
    assert decode(encode(plan), plan.fds) == plan


@given(st.data())
def test_changed_bytes_give_a_plan_or_an_error_and_nothing_else(data: st.DataObject) -> None:
    plan = ops.make_plan(
        [
            CLONE,
            ops.MountNew(
                fstype="tmpfs", source="tmpfs", target="/dev", attrs=2, options=("mode=755", "size=65536k"), flags=2
            ),
            ops.Groups(gids=(1, 2, 3)),
            ops.Seccomp(filter=bytes(16), flags=4),
            EXEC,
        ]
    )
    raw = bytearray(encode(plan))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    with contextlib.suppress(OrlopError):
        decode(bytes(raw))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([CLONE], "ends with its one exec"),
        ([EXEC], "has one clone"),
        ([CLONE, ops.Gate(), ops.Gate(), EXEC], "at most one gate"),
        ([CLONE, ops.Exec(path="/x", argv=(), envp=())], "argv is empty"),
        ([CLONE, ops.Seccomp(filter=bytes(7), flags=0), EXEC], "instructions of 8 bytes"),
    ],
)
def test_shapes_that_the_executor_refuses(plan: list[ops.Op], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        decode(encode(ops.Plan(ops=tuple(plan))))


def test_values_that_do_not_fit() -> None:
    with pytest.raises(InvalidArgument, match="op umask"):
        encode(ops.make_plan([CLONE, ops.Umask(mask=-1), EXEC]))
    with pytest.raises(InvalidArgument, match="NUL byte"):
        encode(ops.make_plan([CLONE, ops.Hostname(name="a\0b"), EXEC]))
    with pytest.raises(InvalidArgument, match="op cgroup_join"):
        encode(ops.Plan(ops=(CLONE, ops.CgroupJoin(tasks=ops.Fd("nowhere")), EXEC)))
    many = [ops.CgroupJoin(tasks=ops.Fd(str(number))) for number in range(80)]
    with pytest.raises(ResourceExhausted, match="80 fds"):
        encode(ops.make_plan([CLONE, *many, EXEC]))


def test_bytes_that_are_not_utf8_travel_unchanged() -> None:
    value = b"A=\xff\xfe\x80".decode("utf-8", "surrogateescape")
    raw = encode(ops.make_plan([CLONE, ops.Exec(path="/a", argv=("a",), envp=(value,))]))
    assert b"A=\xff\xfe\x80\0" in raw
