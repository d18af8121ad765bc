"""nft(8): whole rule sets as text through libnftables, elements of named maps as raw nfnetlink batches.

Owns both ways into nf_tables. Text is what people can read, and costs a library's load once a daemon (16 ms, 3 ms a run);
a map element costs 0.05 ms raw and does not depend on how many rules others have. Works in the network namespace of the
caller (libnftables) or of the socket (elements). An element's comment is stored as nft stores it, so `nft list` shows it.
Never decides what a rule says. Test: tests/kernel/network/test_nftables.py.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from orlop.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NetlinkError,
    attribute,
    attributes,
    error_of,
    messages,
    nested,
    open_socket,
    text,
)

LIBRARY: Final = "libnftables.so.1"

NETLINK_NETFILTER: Final = 12
NFPROTO_INET: Final = 1
_SUBSYSTEM: Final = 10 << 8
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_GETTABLE: Final = _SUBSYSTEM | 1
_NEWSETELEM: Final = _SUBSYSTEM | 12
_GETSETELEM: Final = _SUBSYSTEM | 13
_DELSETELEM: Final = _SUBSYSTEM | 14
_TABLE_NAME: Final = 1
_LIST_TABLE: Final = 1
_LIST_SET: Final = 2
_LIST_ELEMENTS: Final = 3
_LIST_ELEM: Final = 1
_ELEM_KEY: Final = 1
_ELEM_DATA: Final = 2
_ELEM_USERDATA: Final = 6
_DATA_VALUE: Final = 1
_UDATA_COMMENT: Final = 0
COMMENT_BYTES: Final = 127

_HEADER: Final = struct.Struct("=IHHII")
_NFGEN: Final = struct.Struct("!BBH")
_RECEIVE_BYTES: Final = 1 << 16
# Another writer committed between our batch's start and its end (ERESTART and EINTR come back as EAGAIN or EINTR): again.
_CONFLICT_ATTEMPTS: Final = 10


class NftError(OSError):
    """libnftables is missing, or refused a rule set; the text is its own explanation."""

    def __str__(self) -> str:
        return str(self.strerror)


class Element(NamedTuple):
    """A map element as the kernel has it: concatenations with each part padded to four bytes."""

    map: str
    key: bytes
    data: bytes
    comment: str


class Library:
    """A libnftables context. Not thread-safe; ``close`` gives its memory back."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NftError(errno.ENOENT, f"{LIBRARY} cannot be loaded: install libnftables1 ({error})") from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_char_p
        for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output", "nft_ctx_free"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        self._library = library
        self._context: int | None = library.nft_ctx_new(0)
        if not self._context:
            raise NftError(errno.ENOMEM, f"{LIBRARY}: no context")
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_buffer_output(self._context)

    def run(self, commands: str) -> str:
        """Run commands as one transaction and return what they print; raises NftError with the library's message."""
        if self._context is None:
            raise NftError(errno.EBADF, f"{LIBRARY}: context is closed")
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading a buffer empties it.
        problem: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        printed: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            raise NftError(errno.EINVAL, f"nft: {problem.decode(errors='replace').strip() or 'no reason given'}")
        return printed.decode(errors="replace")

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def open_nft_socket() -> socket.socket:
    """Open a NETLINK_NETFILTER socket in the caller's network namespace."""
    return open_socket(NETLINK_NETFILTER)


def add_elements(opened: socket.socket, table: str, elements: Sequence[Element]) -> None:
    """Add elements of maps of an inet table, all or none; EEXIST when a key is there already."""
    _batch(opened, table, elements, adding=True)


def delete_elements(opened: socket.socket, table: str, elements: Sequence[Element]) -> None:
    """Delete elements by key, all or none; ENOENT when one is not there."""
    _batch(opened, table, elements, adding=False)


def list_elements(opened: socket.socket, table: str, map_name: str) -> list[Element]:
    """List the elements of one map; ENOENT when there is no such map."""
    payload = _NFGEN.pack(NFPROTO_INET, 0, 0) + text(_LIST_TABLE, table) + text(_LIST_SET, map_name)
    what = f"list map {table} {map_name}"
    for _ in range(_CONFLICT_ATTEMPTS):
        found, interrupted = _dump(opened, what, payload, map_name)
        if not interrupted:
            return found
    raise NetlinkError(errno.EINTR, what, f"changed during each of {_CONFLICT_ATTEMPTS} dumps")


def has_table(opened: socket.socket, table: str) -> bool:
    """Say whether an inet table of this name exists."""
    payload = _NFGEN.pack(NFPROTO_INET, 0, 0) + text(_TABLE_NAME, table)
    opened.send(_message(_GETTABLE, NLM_F_REQUEST, 1, payload))
    for kind, flags, _, body in messages(opened.recv(_RECEIVE_BYTES)):
        if kind == NLMSG_ERROR:
            number, detail = error_of(body, flags)
            if number == errno.ENOENT:
                return False
            raise NetlinkError(number, f"get table {table}", detail)
    return True


def _message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) + 16, kind, flags, sequence, 0) + payload


def _element(element: Element, *, with_data: bool) -> bytes:
    parts = [nested(_ELEM_KEY, attribute(_DATA_VALUE, element.key))]
    if with_data:
        parts.append(nested(_ELEM_DATA, attribute(_DATA_VALUE, element.data)))
        if element.comment:
            comment = element.comment.encode()[:COMMENT_BYTES] + b"\0"
            parts.append(attribute(_ELEM_USERDATA, bytes([_UDATA_COMMENT, len(comment)]) + comment))
    return nested(_LIST_ELEM, *parts)


def _batch(opened: socket.socket, table: str, elements: Sequence[Element], *, adding: bool) -> None:
    if not elements:
        return
    verb = "add" if adding else "delete"
    kind, flags = (_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL) if adding else (_DELSETELEM, 0)
    marker = _NFGEN.pack(socket.AF_UNSPEC, 0, 10)
    parts = [_message(_BATCH_BEGIN, NLM_F_REQUEST, 1, marker)]
    for number, element in enumerate(elements, 2):
        payload = (
            _NFGEN.pack(NFPROTO_INET, 0, 0)
            + text(_LIST_TABLE, table)
            + text(_LIST_SET, element.map)
            + nested(_LIST_ELEMENTS, _element(element, with_data=adding))
        )
        # Every element asks for its answer: on older kernels the end of a batch does not get one.
        parts.append(_message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, number, payload))
    parts.append(_message(_BATCH_END, NLM_F_REQUEST, len(elements) + 2, marker))
    data = b"".join(parts)
    for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
        opened.send(data)
        number, detail, place, answers = _verdict(opened)
        if number in (errno.EAGAIN, errno.EINTR) and attempt < _CONFLICT_ATTEMPTS:
            continue
        what = f"{verb} element of map {table}"
        if 2 <= place < len(elements) + 2:
            what = f"{what} {elements[place - 2].map}"
        if number:
            raise NetlinkError(number, what, detail, max(place - 2, 0))
        if answers < len(elements):
            raise NetlinkError(errno.EPROTO, what, f"{answers} answers to {len(elements)} elements")
        return


def _verdict(opened: socket.socket) -> tuple[int, str, int, int]:
    """Collect all answers to a batch, which are there when send returns: (errno, detail, sequence of the refused, answers)."""
    first = (0, "", 0)
    answers = 0
    while True:
        try:
            data = opened.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return *first, answers
        for kind, flags, sequence, body in messages(data):
            if kind != NLMSG_ERROR:
                continue
            answers += 1
            number, detail = error_of(body, flags)
            if number and not first[0]:
                first = (number, detail, sequence)


def _dump(opened: socket.socket, what: str, payload: bytes, map_name: str) -> tuple[list[Element], bool]:
    opened.send(_message(_GETSETELEM, NLM_F_REQUEST | NLM_F_DUMP, 1, payload))
    found: list[Element] = []
    interrupted = False
    while True:
        for kind, flags, _, body in messages(opened.recv(_RECEIVE_BYTES)):
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                number, detail = error_of(body, flags if kind == NLMSG_ERROR else 0)
                if number == errno.EINTR:
                    return [], True
                if number:
                    raise NetlinkError(number, what, detail)
                return found, interrupted
            for attr, value in attributes(body, 4):
                if attr == _LIST_ELEMENTS:
                    found.extend(_parse_element(map_name, inner) for _, inner in attributes(value))


def _parse_element(map_name: str, value: memoryview) -> Element:
    key = data = b""
    comment = ""
    for attr, inner in attributes(value):
        if attr in (_ELEM_KEY, _ELEM_DATA):
            content = b"".join(bytes(part) for kind, part in attributes(inner) if kind == _DATA_VALUE)
            if attr == _ELEM_KEY:
                key = content
            else:
                data = content
        elif attr == _ELEM_USERDATA:
            comment = _comment(bytes(inner))
    return Element(map_name, key, data, comment)


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].split(b"\0", 1)[0].decode(errors="replace")
        offset += 2 + length
    return ""
