"""The messages of the monitor's socket: one class a message, the same names, codes and fields as native/messages.def, and their bytes.

Owns the format on the Python side. Never sends, never owns an fd: a message to encode names fds that stay the caller's, a decoded one
names the fds that came with it. Test: tests/unit/monitor/test_protocol.py reads messages.def and compares letter by letter.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from orlop.base.errors import Internal, InvalidArgument, ResourceExhausted
from orlop.base.limits import MONITOR_FDS, MONITOR_MESSAGE_BYTES

MAGIC: Final = 0x4D4C524F
VERSION: Final = 1
NO_FD: Final = 0xFFFFFFFF
HEADER: Final = struct.Struct("<IHHII")

# Wire types (head of native/ops.def). Annotations below are these names: the codec reads them as text.
U32 = int
U64 = int
STR = str
"""Text for the kernel. Bytes that are not UTF-8 are carried as surrogate escapes (PEP 383)."""
STRS = tuple[str, ...]
U32S = tuple[int, ...]
"""In messages always a list of fds: indexes into the packet's fds on the wire, the fds themselves here."""
FD = int | None

Direction = Literal["REQ", "REP", "EVT"]

# create.flags
CREATE_TTY: Final = 1
CREATE_STDIN: Final = 2
CREATE_STDIN_ONCE: Final = 4
CREATE_V2: Final = 8
CREATE_KILL_BY_CGROUP: Final = 16

# exec.flags
EXEC_TTY: Final = 1
EXEC_KILL_ON_DISCONNECT: Final = 2
EXEC_V2: Final = 8
EXEC_STARTS: Final = 16
EXEC_HOLD: Final = 32

# attach.flags, and the stream byte of what an attached client receives
ATTACH_STDIN: Final = 1
ATTACH_STDOUT: Final = 2
ATTACH_STDERR: Final = 4
STREAM_STDOUT: Final = 1
STREAM_STDERR: Final = 2


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""

    code: ClassVar[int]
    msgname: ClassVar[str]
    direction: ClassVar[Direction]


class Hello(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x01
    msgname: ClassVar[str] = "hello"
    direction: ClassVar[Direction] = "REQ"
    protocol: U32 = VERSION


class Pod(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x02
    msgname: ClassVar[str] = "pod"
    direction: ClassVar[Direction] = "REQ"
    plan: FD


class Create(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x03
    msgname: ClassVar[str] = "create"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    plan: FD
    planfds: U32S
    flags: U32
    log: FD
    cgroup: FD
    oom: FD
    log_line_max: U32
    log_rate: U64


class Start(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x04
    msgname: ClassVar[str] = "start"
    direction: ClassVar[Direction] = "REQ"
    id: STR


class Kill(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x05
    msgname: ClassVar[str] = "kill"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    signal: U32
    all: U32


class Remove(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x06
    msgname: ClassVar[str] = "remove"
    direction: ClassVar[Direction] = "REQ"
    id: STR


class Exec(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x07
    msgname: ClassVar[str] = "exec"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    container: STR
    plan: FD
    planfds: U32S
    flags: U32
    cgroup: FD
    timeout_ms: U64
    stdout_pipe: FD
    stderr_pipe: FD
    stdin_pipe: FD


class Resize(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x08
    msgname: ClassVar[str] = "resize"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    rows: U32
    cols: U32


class ReopenLog(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x09
    msgname: ClassVar[str] = "reopen_log"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    log: FD


class Attach(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0A
    msgname: ClassVar[str] = "attach"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    flags: U32


class CloseStdin(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0B
    msgname: ClassVar[str] = "close_stdin"
    direction: ClassVar[Direction] = "REQ"
    id: STR


class Shutdown(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0C
    msgname: ClassVar[str] = "shutdown"
    direction: ClassVar[Direction] = "REQ"
    force: U32


class Connect(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0D
    msgname: ClassVar[str] = "connect"
    direction: ClassVar[Direction] = "REQ"
    port: U32
    family: U32


class KeepFd(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0E
    msgname: ClassVar[str] = "keep_fd"
    direction: ClassVar[Direction] = "REQ"
    name: STR
    fd: FD


class KeptFd(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x0F
    msgname: ClassVar[str] = "kept_fd"
    direction: ClassVar[Direction] = "REQ"
    name: STR


class Namespaces(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x10
    msgname: ClassVar[str] = "namespaces"
    direction: ClassVar[Direction] = "REQ"
    unused: U32 = 0


class HangUp(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x11
    msgname: ClassVar[str] = "hang_up"
    direction: ClassVar[Direction] = "REQ"
    id: STR


class LastWords(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x12
    msgname: ClassVar[str] = "last_words"
    direction: ClassVar[Direction] = "REQ"
    id: STR
    to: FD
    words: FD


class Ok(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x41
    msgname: ClassVar[str] = "ok"
    direction: ClassVar[Direction] = "REP"
    unused: U32 = 0


class Error(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x42
    msgname: ClassVar[str] = "error"
    direction: ClassVar[Direction] = "REP"
    errnum: U32
    op: STR
    op_index: U32
    detail: STR


class HelloOk(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x43
    msgname: ClassVar[str] = "hello_ok"
    direction: ClassVar[Direction] = "REP"
    protocol: U32
    pid: U32
    start_time: U64
    containers: STRS


class PodOk(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x44
    msgname: ClassVar[str] = "pod_ok"
    direction: ClassVar[Direction] = "REP"
    netns: FD
    netlink: FD
    ipcns: FD
    utsns: FD
    pidns: FD
    init_pid: U32


class Created(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x45
    msgname: ClassVar[str] = "created"
    direction: ClassVar[Direction] = "REP"
    pid: U32
    start_time: U64
    pidfd: FD


class Started(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x46
    msgname: ClassVar[str] = "started"
    direction: ClassVar[Direction] = "REP"
    started_ns: U64


class ExecOk(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x47
    msgname: ClassVar[str] = "exec_ok"
    direction: ClassVar[Direction] = "REP"
    pid: U32
    start_time: U64
    master: FD


class Fd(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x48
    msgname: ClassVar[str] = "fd"
    direction: ClassVar[Direction] = "REP"
    fd: FD


class Exited(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x81
    msgname: ClassVar[str] = "exited"
    direction: ClassVar[Direction] = "EVT"
    id: STR
    pid: U32
    exit_code: U32
    signal: U32
    oom_killed: U32
    finished_ns: U64
    is_exec: U32
    timed_out: U32


class Oom(Message, frozen=True, kw_only=True):
    code: ClassVar[int] = 0x82
    msgname: ClassVar[str] = "oom"
    direction: ClassVar[Direction] = "EVT"
    id: STR
    count: U64


MESSAGES: Final[tuple[type[Message], ...]] = tuple(Message.__subclasses__())
"""All messages in the order of messages.def."""

BY_CODE: Final[dict[int, type[Message]]] = {message.code: message for message in MESSAGES}


def wire_fields(message: type[Message]) -> tuple[tuple[str, str], ...]:
    """Return (wire type, attribute) of each field, in wire order."""
    return tuple((message.__annotations__[field], field) for field in message.__struct_fields__)


_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


def _put_u32(out: bytearray, value: Any, _: list[int]) -> None:
    out += _U32.pack(value)


def _put_u64(out: bytearray, value: Any, _: list[int]) -> None:
    out += _U64.pack(value)


def _put_str(out: bytearray, value: Any, _: list[int]) -> None:
    data = value.encode("utf-8", "surrogateescape")
    if 0 in data:
        raise InvalidArgument(f"monitor message: NUL byte inside {value!r}")
    out += _U32.pack(len(data))
    out += data
    out.append(0)


def _put_strs(out: bytearray, value: Any, fds: list[int]) -> None:
    out += _U32.pack(len(value))
    for item in value:
        _put_str(out, item, fds)


def _put_u32s(out: bytearray, value: Any, fds: list[int]) -> None:
    first = len(fds)
    fds += value
    out += struct.pack(f"<I{len(value)}I", len(value), *range(first, len(fds)))


def _put_fd(out: bytearray, value: Any, fds: list[int]) -> None:
    if value is None:
        out += _U32.pack(NO_FD)
        return
    out += _U32.pack(len(fds))
    fds.append(value)


Put = Callable[[bytearray, Any, list[int]], None]
_PUT: Final[dict[str, Put]] = {
    "U32": _put_u32,
    "U64": _put_u64,
    "STR": _put_str,
    "STRS": _put_strs,
    "U32S": _put_u32s,
    "FD": _put_fd,
}
_FIELDS: Final = {message: wire_fields(message) for message in MESSAGES}


def encode(message: Message, seq: int) -> tuple[bytes, list[int]]:
    """Return the packet's bytes and the fds that travel with it.

    Raises InvalidArgument for a value that does not fit its field, ResourceExhausted for a packet beyond the monitor's limits.
    """
    out = bytearray(HEADER.size)
    fds: list[int] = []
    for kind, name in _FIELDS[type(message)]:
        try:
            _PUT[kind](out, getattr(message, name), fds)
        except struct.error as error:
            raise InvalidArgument(
                f"monitor message {message.msgname}: {name}: value does not fit its field: {error}"
            ) from error
    if len(out) > MONITOR_MESSAGE_BYTES or len(fds) > MONITOR_FDS:
        raise ResourceExhausted(
            f"monitor message {message.msgname}: {len(out)} bytes and {len(fds)} fds, "
            f"limits {MONITOR_MESSAGE_BYTES} and {MONITOR_FDS}"
        )
    HEADER.pack_into(out, 0, MAGIC, VERSION, message.code, seq, len(out) - HEADER.size)
    return bytes(out), fds


class _Reader:
    """Bounded reading of one packet; an overrun means that the other side is no monitor of ours."""

    __slots__ = ("at", "data", "fds", "where")

    def __init__(self, data: bytes, fds: Sequence[int], where: str) -> None:
        self.data, self.at, self.fds, self.where = data, HEADER.size, fds, where

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Internal(f"monitor message {self.where}: field longer than the packet")
        self.at += count
        return self.data[self.at - count : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def text(self) -> str:
        data = self.take(self.u32())
        if 0 in data or self.take(1) != b"\0":
            raise Internal(f"monitor message {self.where}: string is not NUL terminated once")
        return data.decode("utf-8", "surrogateescape")

    def fd(self, index: int) -> int:
        if index >= len(self.fds):
            raise Internal(f"monitor message {self.where}: fd index {index} out of range")
        return self.fds[index]

    def count(self, width: int) -> int:
        count = self.u32()
        if count * width > len(self.data) - self.at:
            raise Internal(f"monitor message {self.where}: list longer than the packet")
        return count

    def field(self, kind: str) -> Any:
        if kind == "U32":
            return self.u32()
        if kind == "U64":
            return int.from_bytes(self.take(8), "little")
        if kind == "STR":
            return self.text()
        if kind == "STRS":
            return tuple(self.text() for _ in range(self.count(5)))
        if kind == "U32S":
            return tuple(self.fd(self.u32()) for _ in range(self.count(4)))
        index = self.u32()
        return None if index == NO_FD else self.fd(index)


def decode(data: bytes, fds: Sequence[int] = ()) -> tuple[int, Message]:
    """Return (seq, message) of one packet; FD fields hold the fds given.

    Raises Internal for anything that native/messages.def does not allow.
    """
    if len(data) < HEADER.size:
        raise Internal(f"monitor message: {len(data)} bytes is less than a header")
    magic, version, code, seq, length = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise Internal(f"monitor message: magic {magic:#x} version {version} is not {MAGIC:#x} version {VERSION}")
    kind = BY_CODE.get(code)
    if kind is None or length != len(data) - HEADER.size:
        raise Internal(f"monitor message: code {code:#x} with {length} bytes does not parse")
    reader = _Reader(data, fds, kind.msgname)
    message = kind(**{name: reader.field(wire) for wire, name in _FIELDS[kind]})
    if reader.at != len(data):
        raise Internal(f"monitor message {kind.msgname}: bytes after the last field")
    return seq, message
