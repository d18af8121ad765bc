"""The channels of an exec or attach session, the words on them, and what is agreed before: sub-protocols, status, terminal sizes.

    protocol                        carrier      end of stdin          how it ended, on the error channel
    channel.k8s.io (v1), v2, v3     SPDY         half-close            text after a failure, nothing after a success
    v4.channel.k8s.io               SPDY         half-close            a JSON Status
    "", channel.k8s.io, base64.     WebSocket    none                  text after a failure
    v4.channel.k8s.io, v4.base64.   WebSocket    none                  a JSON Status
    v5.channel.k8s.io               WebSocket    the message 255, n    a JSON Status

Test: tests/unit/streaming/test_channels.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orlop.base import limits
from orlop.streaming.spdy import ProtocolViolation

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE: Final = 255
"""v5: this byte, then a channel's number, says that the client sends nothing more on the channel."""

V1, V2, V3, V4, V5 = (
    "channel.k8s.io",
    "v2.channel.k8s.io",
    "v3.channel.k8s.io",
    "v4.channel.k8s.io",
    "v5.channel.k8s.io",
)
V1_BASE64, V4_BASE64 = "base64.channel.k8s.io", "v4.base64.channel.k8s.io"
FORWARD: Final = "portforward.k8s.io"
FORWARD_TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"

SPDY_COMMAND: Final = (V4, V3, V2, V1)
SPDY_FORWARD: Final = (FORWARD,)
WEBSOCKET_COMMAND: Final = (V5, V4, V4_BASE64, V1, V1_BASE64, "")
WEBSOCKET_FORWARD: Final = (FORWARD_TUNNEL, V4, V4_BASE64)

_NAMES: Final = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Which channels a session has."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def channels(self, protocol: str) -> frozenset[int]:
        """Return the channels that the client opens; a size can be sent since v3."""
        wanted = {ERROR}
        wanted |= {STDIN} if self.stdin else set()
        wanted |= {STDOUT} if self.stdout else set()
        wanted |= {STDERR} if self.stderr else set()
        wanted |= {RESIZE} if self.tty and protocol not in (V1, V2) else set()
        return frozenset(wanted)


def choose(offered: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first protocol of the client's list that the server knows."""
    return next((each for each in offered if each in known), None)


def channel_named(stream_type: str) -> int | None:
    """Return the channel of a SPDY stream's ``streamType``."""
    return _NAMES.get(stream_type.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended: the command's exit code, or why there is none."""

    exit_code: int = 0
    failure: str = ""


def encode_outcome(outcome: Outcome, protocol: str) -> bytes:
    """Return what is written on the error channel."""
    failed_code = f"command terminated with exit code {outcome.exit_code}"
    if protocol not in (V4, V4_BASE64, V5):
        if outcome.failure:
            return outcome.failure.encode()[: limits.STREAM_ERROR_BYTES]
        return failed_code.encode() if outcome.exit_code else b""
    status: dict[str, object] = {"metadata": {}, "status": "Success"}
    if outcome.failure:
        message = outcome.failure[: limits.STREAM_ERROR_BYTES]
        status |= {"status": "Failure", "reason": "InternalError", "message": message, "code": 500}
    elif outcome.exit_code:
        cause = {"reason": "ExitCode", "message": str(outcome.exit_code)}
        status |= {"status": "Failure", "reason": "NonZeroExitCode", "message": failed_code}
        status["details"] = {"causes": [cause]}
    return json.dumps(status, separators=(",", ":")).encode()


class SizeReader:
    """Terminal sizes from a stream of JSON documents, which may come in any pieces."""

    def __init__(self) -> None:
        self._kept = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """Return (rows, columns) of every size that is complete. Raises ProtocolViolation."""
        self._kept += data.decode("latin-1")
        found = []
        while text := self._kept.lstrip():
            try:
                document, end = self._decoder.raw_decode(text)
            except (json.JSONDecodeError, RecursionError):
                if len(text) > limits.STREAM_RESIZE_BYTES or not text.startswith("{"):
                    raise ProtocolViolation("resize: is not a JSON object with Width and Height") from None
                break
            found.append(_size(document))
            self._kept = text[end:]
        if not self._kept.strip():
            self._kept = ""
        return found


def _size(document: object) -> tuple[int, int]:
    if not isinstance(document, dict):
        raise ProtocolViolation("resize: is not a JSON object with Width and Height")
    values = {name.lower(): value for name, value in document.items()}
    rows, columns = values.get("height", 0), values.get("width", 0)
    for value in (rows, columns):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0xFFFF:
            raise ProtocolViolation("resize: Width and Height must be whole numbers from 0 to 65535")
    return rows, columns
