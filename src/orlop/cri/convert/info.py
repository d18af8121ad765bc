"""Verbose facts: what stands in the ``info`` maps of answers. Test: tests/unit/cri/test_convert.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


def json_text(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def info_out(info: Mapping[str, object]) -> dict[str, str]:
    """Return verbose facts as crictl expects them: one entry ``info`` that is a JSON object."""
    return {"info": json_text(info)} if info else {}


def message_info(message: Message) -> dict[str, Any]:
    """Return a message as people know it from crictl's files: CRI's own names."""
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found
