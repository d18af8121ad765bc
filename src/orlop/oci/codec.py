"""Plans as bytes: what the native decoder reads (docs/native-protocol.md), and back, for ``orlop plan`` and tests.

Owns the format on the Python side. Never judges what a plan does; it does refuse what the native decoder would refuse.
Test: tests/unit/oci/test_codec.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from orlop.base.errors import InvalidArgument, ResourceExhausted
from orlop.base.limits import MONITOR_FDS, PLAN_BYTES, PLAN_OPS
from orlop.oci.ops import BY_CODE, OPS, Exec, Fd, Op, Phase, Plan, Seccomp, wire_fields

MAGIC: Final = 0x504C524F
VERSION: Final = 1
FLAG_POD: Final = 1
NO_FD: Final = 0xFFFFFFFF
RESERVED_FDS: Final = 8
"""Of the MONITOR_FDS of one message this many are kept for what is not the plan's: log, cgroup, pipes, the plan itself."""
FILTER_INSTRUCTIONS: Final = 4096

_HEADER: Final = struct.Struct("<IHHIII")
_OP: Final = struct.Struct("<HHI")
_U32: Final = struct.Struct("<I")
_WIDTHS: Final = {"U32": 4, "U64": 8, "I64": 8}
_FORMATS: Final = {"U32": "I", "U64": "Q", "I64": "q", "FD": "I"}

Encoder = Callable[[bytearray, Any, Mapping[Fd, int]], None]


def _text(out: bytearray, value: str) -> None:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogateescape")
    if 0 in data:
        raise InvalidArgument(f"plan: NUL byte inside {value!r}")
    out += _U32.pack(len(data))
    out += data
    out.append(0)


def _write_str(name: str) -> Encoder:
    return lambda out, op, _: _text(out, getattr(op, name))


def _write_bytes(name: str) -> Encoder:
    def write(out: bytearray, op: Any, _: Mapping[Fd, int]) -> None:
        data: bytes = getattr(op, name)
        out += _U32.pack(len(data))
        out += data

    return write


def _write_strs(name: str) -> Encoder:
    def write(out: bytearray, op: Any, _: Mapping[Fd, int]) -> None:
        items: tuple[str, ...] = getattr(op, name)
        out += _U32.pack(len(items))
        for item in items:
            _text(out, item)

    return write


def _write_u32s(name: str) -> Encoder:
    def write(out: bytearray, op: Any, _: Mapping[Fd, int]) -> None:
        items: tuple[int, ...] = getattr(op, name)
        out += struct.pack(f"<I{len(items)}I", len(items), *items)

    return write


def _write_fixed(fields: tuple[tuple[str, str], ...]) -> Encoder:
    """Neighbouring fixed-width fields leave in one pack."""
    packer = struct.Struct("<" + "".join(_FORMATS[kind] for kind, _ in fields))
    if len(fields) == 1 and fields[0][0] != "FD":
        name = fields[0][1]
        return lambda out, op, _: out.extend(packer.pack(getattr(op, name)))

    def write(out: bytearray, op: Any, fds: Mapping[Fd, int]) -> None:
        values = []
        for kind, name in fields:
            value = getattr(op, name)
            if kind == "FD":
                value = NO_FD if value is None else fds[value]
            values.append(value)
        out += packer.pack(*values)

    return write


_VARIABLE: Final = {"STR": _write_str, "BYTES": _write_bytes, "STRS": _write_strs, "U32S": _write_u32s}


def _encoders(op: type[Op]) -> tuple[Encoder, ...]:
    encoders: list[Encoder] = []
    fixed: list[tuple[str, str]] = []
    for kind, name in wire_fields(op):
        if kind in _FORMATS:
            fixed.append((kind, name))
            continue
        if fixed:
            encoders.append(_write_fixed(tuple(fixed)))
            fixed = []
        encoders.append(_VARIABLE[kind](name))
    if fixed:
        encoders.append(_write_fixed(tuple(fixed)))
    return tuple(encoders)


_ENCODERS: Final = {op: (op.opcode, _encoders(op)) for op in OPS}


def encode(plan: Plan) -> bytes:
    """Return the plan's bytes.

    Raises InvalidArgument for a value that does not fit its field or an fd that ``plan.fds`` does not name, ResourceExhausted for a plan
    beyond the limits of the native decoder.
    """
    ops = plan.ops
    if len(ops) > PLAN_OPS:
        raise ResourceExhausted(f"plan: {len(ops)} ops, limit {PLAN_OPS}")
    if len(plan.fds) > MONITOR_FDS - RESERVED_FDS:
        raise ResourceExhausted(f"plan: {len(plan.fds)} fds, limit {MONITOR_FDS - RESERVED_FDS}")
    fds = {label: index for index, label in enumerate(plan.fds)}
    out = bytearray(_HEADER.size)
    for op in ops:
        opcode, encoders = _ENCODERS[type(op)]
        start = len(out)
        out += b"\0\0\0\0\0\0\0\0"
        try:
            for write in encoders:
                write(out, op, fds)
        except (struct.error, KeyError) as error:
            raise InvalidArgument(f"plan: op {op.opname}: value does not fit its field: {error}") from error
        _OP.pack_into(out, start, opcode, 0, len(out) - start - 8)
    if len(out) > PLAN_BYTES:
        raise ResourceExhausted(f"plan: {len(out)} bytes, limit {PLAN_BYTES}")
    _HEADER.pack_into(out, 0, MAGIC, VERSION, FLAG_POD if plan.is_pod else 0, len(out), len(ops), len(fds))
    return bytes(out)


class _Reader:
    """Bounded reading of one plan; every overrun is an InvalidArgument that names the op."""

    def __init__(self, data: bytes, at: int, end: int, where: str) -> None:
        self.data, self.at, self.end, self.where = data, at, end, where

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise InvalidArgument(f"plan: {self.where}: field longer than the op")
        self.at += count
        return self.data[self.at - count : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def text(self) -> str:
        data = self.take(self.u32())
        if 0 in data or self.take(1) != b"\0":
            raise InvalidArgument(f"plan: {self.where}: string is not NUL terminated once")
        return data.decode("utf-8", "surrogateescape")

    def count(self, width: int) -> int:
        count = self.u32()
        if count * width > self.end - self.at:
            raise InvalidArgument(f"plan: {self.where}: list longer than the op")
        return count

    def field(self, kind: str, fds: tuple[Fd, ...]) -> Any:
        if kind in _WIDTHS:
            return int.from_bytes(self.take(_WIDTHS[kind]), "little", signed=kind == "I64")
        if kind == "STR":
            return self.text()
        if kind == "BYTES":
            return self.take(self.u32())
        if kind == "STRS":
            return tuple(self.text() for _ in range(self.count(5)))
        if kind == "U32S":
            return tuple(self.u32() for _ in range(self.count(4)))
        index = self.u32()
        if index == NO_FD:
            return None
        if index >= len(fds):
            raise InvalidArgument(f"plan: {self.where}: fd index {index} out of range")
        return fds[index]


def decode(data: bytes, fds: tuple[Fd, ...] | None = None) -> Plan:
    """Return the plan in ``data``; fds get the given labels, or ``fd0``, ``fd1``, ... as the bytes carry numbers only.

    Raises InvalidArgument for everything that the native decoder refuses.
    """
    if len(data) < _HEADER.size or len(data) > PLAN_BYTES:
        raise InvalidArgument(f"plan: {len(data)} bytes is not between {_HEADER.size} and {PLAN_BYTES}")
    magic, version, flags, total, op_count, fd_count = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise InvalidArgument(f"plan: magic {magic:#x} version {version} is not {MAGIC:#x} version {VERSION}")
    if flags > FLAG_POD or total != len(data) or op_count > PLAN_OPS or fd_count > MONITOR_FDS:
        raise InvalidArgument("plan: lengths or flags of the header do not fit")
    labels = tuple(Fd(f"fd{index}") for index in range(fd_count)) if fds is None else fds
    if len(labels) != fd_count:
        raise InvalidArgument(f"plan: {fd_count} fds in the header, {len(labels)} labels given")
    at = _HEADER.size
    ops: list[Op] = []
    for index in range(op_count):
        if len(data) - at < _OP.size:
            raise InvalidArgument(f"plan: op {index}: header is cut off")
        code, zero, length = _OP.unpack_from(data, at)
        at += _OP.size
        kind = BY_CODE.get(code)
        if kind is None or zero:
            raise InvalidArgument(f"plan: op {index}: unknown code {code:#06x}")
        if length > len(data) - at:
            raise InvalidArgument(f"plan: op {index} {kind.opname}: longer than the plan")
        reader = _Reader(data, at, at + length, f"op {index} {kind.opname}")
        at += length
        ops.append(kind(**{name: reader.field(wire, labels) for wire, name in wire_fields(kind)}))
        if reader.at != at:
            raise InvalidArgument(f"plan: op {index} {kind.opname}: bytes after the last field")
    if at != len(data):
        raise InvalidArgument("plan: bytes after the last op")
    plan = Plan(ops=tuple(ops), fds=labels)
    _check_shape(plan, pod=bool(flags & FLAG_POD))
    return plan


def _check_shape(plan: Plan, *, pod: bool) -> None:
    """The rules about ops among themselves, as native/plan.c has them."""
    phase = Phase.POD
    for op in plan.ops:
        if op.phase < phase:
            raise InvalidArgument(f"plan: op {op.opname}: its phase has passed")
        if (op.phase is Phase.POD) != pod:
            raise InvalidArgument(
                f"plan: op {op.opname}: pod ops stand only in pod plans, others only in container plans"
            )
        phase = op.phase
        if isinstance(op, Seccomp) and (
            not op.filter or len(op.filter) % 8 or len(op.filter) > 8 * FILTER_INSTRUCTIONS
        ):
            raise InvalidArgument(f"plan: op seccomp: filter is not 1 to {FILTER_INSTRUCTIONS} instructions of 8 bytes")
        if isinstance(op, Exec) and not op.argv:
            raise InvalidArgument("plan: op exec: argv is empty")
    if pod:
        return
    names = [op.opname for op in plan.ops]
    if names.count("exec") != 1 or names[-1] != "exec" or names.count("clone") != 1 or names.count("gate") > 1:
        raise InvalidArgument("plan: a container plan has one clone, at most one gate, and ends with its one exec")
