"""Packets between daemon and monitor: the table of messages.def in Python, encode and decode. No sockets here.

MESSAGES is held against native/messages.def letter by letter by tests/unit/monitor/test_protocol.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from orlop.base.errors import Internal

MAGIC: Final = 0x4D4C524F
VERSION: Final = 1
HEADER: Final = struct.Struct("<IHHII")
NO_FD: Final = 0xFFFFFFFF
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

MESSAGES: Final[dict[str, tuple[int, str]]] = {
    "hello": (0x01, "U32"),
    "pod": (0x02, "FD"),
    "create": (0x03, "STR FD U32S U32 FD FD FD U32"),
    "start": (0x04, "STR"),
    "kill": (0x05, "STR U32 U32"),
    "remove": (0x06, "STR"),
    "exec": (0x07, "STR STR FD U32S U32 FD U64 FD FD FD"),
    "resize": (0x08, "STR U32 U32"),
    "reopen_log": (0x09, "STR FD"),
    "attach": (0x0A, "STR U32"),
    "close_stdin": (0x0B, "STR"),
    "shutdown": (0x0C, "U32"),
    "connect": (0x0D, "U32 U32"),
    "keep_fd": (0x0E, "STR FD"),
    "kept_fd": (0x0F, "STR"),
    "namespaces": (0x10, "U32"),
    "ok": (0x41, "U32"),
    "error": (0x42, "U32 STR U32 STR"),
    "hello_ok": (0x43, "U32 U32 U64 STRS"),
    "pod_ok": (0x44, "FD FD FD FD FD U32"),
    "created": (0x45, "U32 U64 FD"),
    "started": (0x46, "U64"),
    "exec_ok": (0x47, "U32 U64 FD"),
    "fd": (0x48, "FD"),
    "exited": (0x81, "STR U32 U32 U32 U32 U64 U32 U32"),
    "oom": (0x82, "STR U64"),
}
_NAMES: Final = {code: (name, types.split()) for name, (code, types) in MESSAGES.items()}
_CODES: Final = {name: (code, types.split()) for name, (code, types) in MESSAGES.items()}


class Fds(NamedTuple):
    """A field of fd numbers that travel with the packet and are named by their indexes (U32S)."""

    fds: tuple[int, ...]


class Packet(NamedTuple):
    name: str
    seq: int
    fields: tuple[object, ...]


def encode(name: str, seq: int, fields: Sequence[object]) -> tuple[bytes, list[int]]:
    """Return the packet's bytes and the fds to send with it. An FD field is an fd number, -1 for none; a U32S field is a Fds."""
    code, types = _CODES[name]
    parts: list[bytes] = []
    fds: list[int] = []
    for kind, value in zip(types, fields, strict=True):
        if kind == "STR":
            data = str(value).encode()
            parts += (_U32.pack(len(data)), data, b"\0")
        elif kind == "FD":
            assert isinstance(value, int)
            if value < 0:
                parts.append(_U32.pack(NO_FD))
            else:
                parts.append(_U32.pack(len(fds)))
                fds.append(value)
        elif kind == "U32S":
            assert isinstance(value, Fds)
            parts.append(
                struct.pack(f"<I{len(value.fds)}I", len(value.fds), *range(len(fds), len(fds) + len(value.fds)))
            )
            fds += value.fds
        else:
            assert isinstance(value, int)
            parts.append((_U64 if kind == "U64" else _U32).pack(value))
    body = b"".join(parts)
    return HEADER.pack(MAGIC, VERSION, code, seq, len(body)) + body, fds


def decode(data: bytes, fds: Sequence[int]) -> Packet:
    """Return a packet; FD fields become fd numbers (-1 for none), STRS tuples of str. Raises Internal for one that does not parse."""
    try:
        magic, version, code, seq, length = HEADER.unpack_from(data)
        if magic != MAGIC or version != VERSION or length != len(data) - HEADER.size or code not in _NAMES:
            raise Internal(f"monitor: packet with magic {magic:#x}, version {version}, code {code:#x} does not parse")
        name, types = _NAMES[code]
        at = HEADER.size
        fields: list[object] = []
        for kind in types:
            if kind == "STR":
                text, at = _string(data, at)
                fields.append(text)
            elif kind == "STRS":
                (count,) = _U32.unpack_from(data, at)
                at += 4
                items: list[str] = []
                for _ in range(count):
                    text, at = _string(data, at)
                    items.append(text)
                fields.append(tuple(items))
            elif kind == "U64":
                fields.append(_U64.unpack_from(data, at)[0])
                at += 8
            else:
                (value,) = _U32.unpack_from(data, at)
                at += 4
                if kind == "FD":
                    value = -1 if value == NO_FD else fds[value]
                fields.append(value)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Internal(f"monitor: packet does not parse: {error}") from error
    if at != len(data):
        raise Internal(f"monitor: packet {name} has {len(data) - at} bytes too many")
    return Packet(name, seq, tuple(fields))


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = _U32.unpack_from(data, at)
    end = at + 4 + length
    if data[end : end + 1] != b"\0":
        raise Internal("monitor: a string in a packet has no end")
    return data[at + 4 : end].decode("utf-8", "replace"), end + 1
