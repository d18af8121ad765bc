"""ctnetlink: forget the connections that were translated by a mapping which is no more, or which came after them.

A UDP flow has no end: as long as packets come, the kernel keeps the translation that the first of them got, so a client that
goes on talking would never see a new host port, and would talk to a dead pod's address for ever. TCP needs none of this.
Never touches another protocol's entries. Test: tests/kernel/network/test_conntrack.py.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final

from orlop.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NetlinkError,
    attribute,
    attributes,
    error_of,
    messages,
    nested,
    u32,
)

_SUBSYSTEM: Final = 1 << 8
_GET: Final = _SUBSYSTEM | 1
_DELETE: Final = _SUBSYSTEM | 2
_TUPLE_ORIG: Final = 1
_FILTER: Final = 25
_TUPLE_PROTO: Final = 2
_PROTO_NUM: Final = 1
_PROTO_DST_PORT: Final = 3
_FILTER_ORIG_FLAGS: Final = 1
# net/netfilter/nf_internals.h: which parts of the tuple count.
_BY_PROTO_NUM: Final = 1 << 3
_BY_DST_PORT: Final = 1 << 5

_HEADER: Final = struct.Struct("=IHHII")
_NFGEN: Final = struct.Struct("!BBH")
# nfgenmsg version: with 0 a delete without a whole tuple takes every family (and, before 4.20, every entry).
_VERSION: Final = 1
_RECEIVE_BYTES: Final = 1 << 16


def forget_udp_port(opened: socket.socket, family: int, port: int) -> None:
    """Delete all entries of UDP flows that were sent to a port. ``opened`` is a NETLINK_NETFILTER socket."""
    wanted = nested(
        _TUPLE_ORIG,
        nested(
            _TUPLE_PROTO,
            attribute(_PROTO_NUM, bytes([socket.IPPROTO_UDP])),
            attribute(_PROTO_DST_PORT, struct.pack("!H", port)),
        ),
    ) + nested(_FILTER, u32(_FILTER_ORIG_FLAGS, _BY_PROTO_NUM | _BY_DST_PORT))
    number, detail = _request(opened, _DELETE, family, wanted)
    if number in (0, errno.ENOENT):
        return
    if number not in (errno.EINVAL, errno.EOPNOTSUPP):
        raise NetlinkError(number, f"forget udp port {port}", detail)
    # Kernels before 6.9 filter dumps, not deletes: they want the whole tuple of each.
    for tuple_orig in _flows_to(opened, family, port):
        number, detail = _request(opened, _DELETE, family, attribute(_TUPLE_ORIG | 0x8000, tuple_orig))
        if number not in (0, errno.ENOENT):
            raise NetlinkError(number, f"forget udp port {port}", detail)


def _request(opened: socket.socket, kind: int, family: int, payload: bytes) -> tuple[int, str]:
    body = _NFGEN.pack(family, _VERSION, 0) + payload
    opened.send(_HEADER.pack(len(body) + 16, kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
    while True:
        for got, flags, _, answer in messages(opened.recv(_RECEIVE_BYTES)):
            if got == NLMSG_ERROR:
                return error_of(answer, flags)


def _flows_to(opened: socket.socket, family: int, port: int) -> list[bytes]:
    """Return the original tuples of UDP flows to a port."""
    body = _NFGEN.pack(family, 0, 0)
    opened.send(_HEADER.pack(len(body) + 16, _GET, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
    found: list[bytes] = []
    while True:
        for kind, flags, _, answer in messages(opened.recv(_RECEIVE_BYTES)):
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                number, detail = error_of(answer, flags if kind == NLMSG_ERROR else 0)
                if number:
                    raise NetlinkError(number, "list flows", detail)
                return found
            for attr, value in attributes(answer, 4):
                if attr == _TUPLE_ORIG and _is_udp_to(value, port):
                    found.append(bytes(value))


def _is_udp_to(tuple_orig: memoryview, port: int) -> bool:
    for attr, value in attributes(tuple_orig):
        if attr == _TUPLE_PROTO:
            parts = {kind: bytes(part) for kind, part in attributes(value)}
            return parts.get(_PROTO_NUM) == bytes([socket.IPPROTO_UDP]) and parts.get(_PROTO_DST_PORT) == struct.pack(
                "!H", port
            )
    return False
