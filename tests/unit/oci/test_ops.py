"""The Python vocabulary of plans against native/ops.def, letter by letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orlop.base.errors import InvalidArgument
from orlop.oci import ops

OPS_DEF = Path(__file__).resolve().parents[3] / "native" / "ops.def"
LINE = re.compile(r"^OP\((0x[0-9a-f]{4}), (\w+),\s+(\w+),\s+((?:F\(\w+, \w+\)\s*)*)\)", re.MULTILINE)


def native_ops() -> list[tuple[int, str, str, list[tuple[str, str]]]]:
    text = OPS_DEF.read_text()
    found = [
        (int(code, 16), name, phase, re.findall(r"F\((\w+), (\w+)\)", fields))
        for code, name, phase, fields in LINE.findall(text)
    ]
    assert len(found) == len(re.findall(r"^OP\(", text, re.MULTILINE))
    return found


def test_ops_are_those_of_ops_def() -> None:
    ours = [
        (
            op.opcode,
            op.opname,
            op.phase.name,
            [(kind, name.removesuffix("_")) for kind, name in ops.wire_fields(op)],
        )
        for op in ops.OPS
    ]
    assert ours == native_ops()


def test_class_names_are_the_op_names_in_camel_case() -> None:
    for op in ops.OPS:
        assert op.__name__ == "".join(part.capitalize() for part in op.opname.split("_"))
        assert getattr(ops, op.__name__) is op


def test_make_plan_collects_fds_in_order_of_first_use() -> None:
    plan = ops.make_plan(
        [
            ops.CgroupJoin(tasks=ops.Fd("b")),
            ops.CgroupJoin(tasks=ops.Fd("a")),
            ops.Rootfs(tree=ops.Fd("b"), source="", flags=0),
            ops.Stdio(in_=None, out=ops.Fd("c"), err=ops.Fd("c")),
        ]
    )
    assert plan.fds == ("b", "a", "c")
    assert not plan.is_pod


def test_make_plan_refuses_a_phase_that_goes_backwards() -> None:
    with pytest.raises(InvalidArgument, match="op hostname of phase NS after phase ROOT"):
        ops.make_plan([ops.PivotRoot(), ops.Hostname(name="x")])


def test_codes_ascend() -> None:
    """The native decoder looks them up by bisection."""
    codes = [op.opcode for op in ops.OPS]
    assert codes == sorted(set(codes))
