"""Detach keys: how they are written, and how they are found in what is typed."""

import queue
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.cli.terminal import _Input, parse_keys
from orlop.specs.cri_gen import orlop_pb2


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("a,B", b"aB"), ("Ctrl-X,x", b"\x18x"), ("ctrl-],ctrl-@", b"\x1d\x00"), ("", b"")],
)
def test_keys_as_they_are_written(text, keys):
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", ",", "ctrl-1", "é", "alt-x"])
def test_what_is_no_key(text):
    with pytest.raises(InvalidArgument, match="is not a letter"):
        parse_keys(text)


def typed(keys: bytes, *pieces: bytes) -> tuple[bytes, bool]:
    """What is sent on of what is typed, and whether it detached."""
    detached = threading.Event()
    reader = _Input(queue.SimpleQueue(), orlop_pb2.ExecInput, detached, keys=keys, stop=lambda: None)
    sent = b""
    for piece in pieces:
        sent += reader.without_detach_keys(piece)
        if detached.is_set():
            break
    return sent, detached.is_set()


def test_keys_that_come_one_by_one():
    assert typed(b"\x10\x11", b"ls\n", b"\x10", b"\x11", b"rest") == (b"ls\n", True)
    assert typed(b"\x10\x11", b"a\x10", b"b") == (b"a\x10b", False)
    assert typed(b"\x10\x10\x11", b"\x10\x10", b"\x10\x11") == (b"", True)
    assert typed(b"", b"\x10\x11") == (b"\x10\x11", False)


@given(pieces=st.lists(st.binary(max_size=6).map(lambda each: each.replace(b"q", b""))), end=st.just(b"z"))
def test_without_the_keys_every_byte_goes_on(pieces, end):
    assert typed(b"ppq", *pieces, end) == (b"".join(pieces) + end, False)
