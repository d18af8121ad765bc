"""The native decoder (ASan and UBSan build) against well-formed and hostile plans; built by native/Makefile as plancheck."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
PLANCHECK = ROOT / "build/native/plancheck"


def string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def op(code: int, body: bytes = b"") -> bytes:
    return struct.pack("<HHI", code, 0, len(body)) + body


CLONE = op(0x0101, struct.pack("<QI", 0, 0xFFFFFFFF))
EXEC = op(0x0903, string("/bin/true") + struct.pack("<I", 1) + string("true") + struct.pack("<I", 0))


def plan(ops: list[bytes], *, flags: int = 0, fds: int = 0, version: int = 1) -> bytes:
    body = b"".join(ops)
    return struct.pack("<IHHIII", 0x504C524F, version, flags, 20 + len(body), len(ops), fds) + body


def check(data: bytes) -> tuple[int, str]:
    done = subprocess.run([PLANCHECK], input=data, capture_output=True, check=False)
    assert b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr, done.stderr.decode()
    assert done.returncode in (0, 1)
    return done.returncode, done.stdout.decode()


def test_a_minimal_plan_is_read_op_by_op() -> None:
    assert check(plan([CLONE, EXEC])) == (0, "clone\nexec\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no plan header"),
        (plan([CLONE, EXEC])[:-1], "lengths or flags"),
        (plan([CLONE, EXEC], version=2), "unknown version"),
        (plan([CLONE, EXEC], flags=2), "lengths or flags"),
        (plan([EXEC]), "one clone"),
        (plan([CLONE]), "ends with its one exec"),
        (plan([CLONE, CLONE, EXEC]), "one clone"),
        (plan([EXEC, CLONE]), "its phase has passed"),
        (plan([op(0x7777), CLONE, EXEC]), "unknown op"),
        (plan([CLONE, op(0x0701, struct.pack("<III", 3, 0, 0)), EXEC], fds=1), "fd index out of range"),
        (plan([CLONE, op(0x0401, string("a\0b")), EXEC]), "fields that do not fit"),
        (plan([CLONE, op(0x0401, string("ab") + b"x"), EXEC]), "fields that do not fit"),
        (plan([CLONE, op(0x0901, struct.pack("<I", 7) + bytes(7) + bytes(4)), EXEC]), "filter is not"),
        (plan([op(0x0002, string("h"))]), "pod ops stand only"),
        (plan([CLONE, EXEC], flags=1), "pod ops stand only"),
    ],
)
def test_a_malformed_plan_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    code, text = check(data)
    assert code == 1
    assert reason in text


@settings(max_examples=200)
@given(st.data())
def test_mutated_plans_never_read_out_of_bounds(data: st.DataObject) -> None:
    raw = bytearray(plan([CLONE, op(0x0708, struct.pack("<III", 2, 1, 2)), EXEC]))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(raw[: data.draw(st.integers(0, len(raw)))]) if data.draw(st.booleans()) else bytes(raw))
