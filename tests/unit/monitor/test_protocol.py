"""The Python vocabulary of messages against native/messages.def, letter by letter; and bytes there and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import Internal, InvalidArgument, ResourceExhausted
from orlop.monitor import protocol

MESSAGES_DEF = Path(__file__).resolve().parents[3] / "native" / "messages.def"
LINE = re.compile(r"^MSG\((0x[0-9a-f]{2}), (\w+),\s+(\w+),\s+((?:F\(\w+, \w+\)\s*)*)\)", re.MULTILINE)
FD_BASE = 1000


def test_messages_are_those_of_messages_def() -> None:
    text = MESSAGES_DEF.read_text()
    native = [
        (int(code, 16), name, direction, re.findall(r"F\((\w+), (\w+)\)", fields))
        for code, name, direction, fields in LINE.findall(text)
    ]
    assert len(native) == len(re.findall(r"^MSG\(", text, re.MULTILINE))
    ours = [(m.code, m.msgname, m.direction, list(protocol.wire_fields(m))) for m in protocol.MESSAGES]
    assert ours == native


VALUES: dict[str, Any] = {
    "U32": st.integers(0, 2**32 - 1),
    "U64": st.integers(0, 2**64 - 1),
    "STR": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    "FD": st.one_of(st.none(), st.integers(3, 500)),
}
VALUES["STRS"] = st.lists(VALUES["STR"], max_size=5).map(tuple)
VALUES["U32S"] = st.lists(st.integers(3, 500), max_size=20).map(tuple)


@st.composite
def messages(draw: st.DrawFn) -> protocol.Message:
    kind = draw(st.sampled_from(protocol.MESSAGES))
    return kind(**{name: draw(VALUES[wire]) for wire, name in protocol.wire_fields(kind)})


@given(messages(), st.integers(0, 2**32 - 1))
def test_a_message_comes_back_as_it_went(message: protocol.Message, seq: int) -> None:
    data, fds = protocol.encode(message, seq)
    assert protocol.decode(data, fds) == (seq, message)


@given(messages(), st.integers(0, 200))
def test_a_message_that_is_cut_off_or_too_long_is_refused(message: protocol.Message, cut: int) -> None:
    data, fds = protocol.encode(message, 1)
    for broken in (data[: max(0, len(data) - 1 - cut)], data + b"\0"):
        with pytest.raises(Internal):
            protocol.decode(broken, fds)


@given(st.sampled_from(protocol.MESSAGES), st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(kind: type[protocol.Message], body: bytes) -> None:
    data = protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, kind.code, 7, len(body)) + body
    try:
        seq, message = protocol.decode(data, [FD_BASE])
    except Internal:
        return
    assert seq == 7
    assert type(message) is kind


def test_refusals_name_message_and_field() -> None:
    with pytest.raises(InvalidArgument, match="monitor message kill: signal: value does not fit"):
        protocol.encode(protocol.Kill(id="a", signal=2**32, all=0), 1)
    with pytest.raises(InvalidArgument, match="NUL byte inside"):
        protocol.encode(protocol.Start(id="a\0b"), 1)
    with pytest.raises(ResourceExhausted, match="limits 65536 and 64"):
        protocol.encode(protocol.Start(id="a" * 65536), 1)
    exec_with_many_fds = protocol.Create(
        id="a",
        plan=3,
        planfds=tuple(range(3, 70)),
        flags=0,
        log=None,
        cgroup=None,
        oom=None,
        log_line_max=0,
        log_rate=0,
    )
    with pytest.raises(ResourceExhausted, match="68 fds"):
        protocol.encode(exec_with_many_fds, 1)
    with pytest.raises(Internal, match="fd index 0 out of range"):
        protocol.decode(protocol.encode(protocol.Fd(fd=5), 1)[0], [])
    with pytest.raises(Internal, match="is not 0x4d4c524f version 1"):
        protocol.decode(b"\0" * 16)
