"""What is agreed and said on channels: protocols, outcomes, terminal sizes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base import limits
from orlop.streaming.channels import (
    ERROR,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    V1,
    V2,
    V3,
    V4,
    V5,
    Outcome,
    SizeReader,
    Streams,
    channel_named,
    choose,
    encode_outcome,
)
from orlop.streaming.spdy import ProtocolViolation


def test_the_first_protocol_of_the_clients_that_is_known():
    assert choose(["v9", V3, V4], [V4, V3]) == V3
    assert choose(["v9"], [V4]) is None


def test_channels_of_a_session():
    shell = Streams(stdin=True, stdout=True, stderr=False, tty=True)
    assert shell.channels(V4) == {STDIN, STDOUT, ERROR, RESIZE}
    assert shell.channels(V2) == {STDIN, STDOUT, ERROR}
    assert Streams(stdin=False, stdout=True, stderr=True, tty=False).channels(V4) == {STDOUT, STDERR, ERROR}
    assert channel_named("StdErr") == STDERR
    assert channel_named("x") is None


@pytest.mark.parametrize("protocol", [V4, V5])
def test_status(protocol):
    assert json.loads(encode_outcome(Outcome(), protocol)) == {"metadata": {}, "status": "Success"}
    status = json.loads(encode_outcome(Outcome(exit_code=42), protocol))
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "42"}]}
    status = json.loads(encode_outcome(Outcome(failure="x" * 100_000), protocol))
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert len(status["message"]) == limits.STREAM_ERROR_BYTES


def test_outcomes_of_old_protocols_are_text():
    assert encode_outcome(Outcome(), V1) == b""
    assert encode_outcome(Outcome(exit_code=2), V3) == b"command terminated with exit code 2"
    assert encode_outcome(Outcome(failure="no"), V2) == b"no"


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=5), st.integers(1, 9))
def test_sizes_in_any_pieces(sizes, step):
    text = "\n ".join(json.dumps({"Width": columns, "Height": rows}) for rows, columns in sizes).encode()
    reader, found = SizeReader(), []
    for at in range(0, len(text), step):
        found += reader.feed(text[at : at + step])
    assert found == sizes


@pytest.mark.parametrize(
    "text",
    [b"x", b"[1]", b'{"Width": -1}', b'{"Width": 70000}', b'{"Height": "x"}', b'{"Height": true}', b"{" + b" " * 5000],
)
def test_sizes_that_are_none(text):
    with pytest.raises(ProtocolViolation, match="resize"):
        SizeReader().feed(text)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_kept_small(noise):
    reader = SizeReader()
    try:
        reader.feed(noise)
    except ProtocolViolation:
        return
    assert len(reader._kept) <= limits.STREAM_RESIZE_BYTES
