"""What the program of an OCI runtime (crun, runc, others) prints: its version, its features document, its log.

    parse_version    first line ``crun version 1.8.1``, a line ``spec: 1.0.0``
    parse_features   runtime-spec, features.md: ``runc features``; a program without the command gives no document
    failure_of       the log of ``--log FILE --log-format json``: one object a line, level, msg, time

Programs are trusted to run containers, their output is still read with limits. Test: tests/unit/specs/test_ociruntime.py.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from orlop.base import limits
from orlop.base.errors import InvalidArgument

_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(-[0-9A-Za-z.]+)?")
_FAILURES: Final = ("error", "fatal", "panic", "critical")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``crun``, ``1.8.1``, and the runtime-spec that it says it follows, empty when it says nothing."""

    program: str
    release: str
    spec: str = ""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What a features document says of the things that orlop asks for."""

    spec_max: str = ""
    recursive_read_only: bool = False
    idmapped_mounts: bool = False


class _IdMap(msgspec.Struct):
    enabled: bool | None = None


class _MountExtensions(msgspec.Struct):
    idmap: _IdMap | None = None


class _Linux(msgspec.Struct, rename="camel"):
    mount_extensions: _MountExtensions | None = None


class _Document(msgspec.Struct, rename="camel"):
    oci_version_max: str = ""
    mount_options: list[str] | None = None
    linux: _Linux | None = None


class _Line(msgspec.Struct):
    level: str = ""
    msg: str = ""


_documents: Final = msgspec.json.Decoder(_Document)
_lines: Final = msgspec.json.Decoder(_Line)


def parse_version(output: bytes, program: str) -> Version:
    """Return what ``--version`` says; raises InvalidArgument when it does not say a name and a number."""
    lines = output[: limits.OCI_PROGRAM_OUTPUT_BYTES].decode("utf-8", "replace").splitlines()
    words = lines[0].split() if lines else []
    numbers = [word for word in words[1:] if _VERSION.match(word)]
    if not numbers:
        raise InvalidArgument(f"{program}: --version: {lines[0][:80] if lines else ''!r} names no version")
    spec = next((line.partition(":")[2].strip() for line in lines[1:] if line.startswith("spec:")), "")
    return Version(program=words[0], release=numbers[0], spec=spec if _VERSION.fullmatch(spec) else "")


def parse_features(output: bytes, program: str) -> Features:
    """Return what a features document says; raises InvalidArgument for what is none."""
    if len(output) > limits.OCI_PROGRAM_OUTPUT_BYTES:
        raise InvalidArgument(f"{program}: features: longer than {limits.OCI_PROGRAM_OUTPUT_BYTES} bytes")
    try:
        document = _documents.decode(output)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{program}: features: {error}") from error
    extensions = document.linux.mount_extensions if document.linux is not None else None
    idmap = extensions.idmap if extensions is not None else None
    return Features(
        spec_max=document.oci_version_max if _VERSION.fullmatch(document.oci_version_max) else "",
        recursive_read_only="rro" in (document.mount_options or ()),
        idmapped_mounts=idmap is not None and idmap.enabled is True,
    )


def older_of(ours: str, theirs: str) -> str:
    """Return the version of a document that both understand: programs refuse one that is newer than they are. Ours when theirs is unknown."""
    numbers = [_VERSION.fullmatch(each) for each in (ours, theirs)]
    if numbers[1] is None or numbers[0] is None:
        return ours
    mine, yours = (tuple(int(part or 0) for part in found.groups()[:3]) for found in numbers if found is not None)
    # Without the suffix: "1.0.2-dev" is not known to all who say it.
    return ours if mine <= yours else ".".join(map(str, yours))


def failure_of(log: bytes) -> str:
    """Return why a program failed: the last line of its log that says error, else the last line; "" when it logged nothing.

    A line that is not JSON stands for itself. Control characters are escaped: the text goes to terminals and into statuses.
    """
    last = last_error = ""
    for raw in log[-limits.OCI_PROGRAM_LOG_BYTES :].splitlines():
        if not raw.strip():
            continue
        try:
            line = _lines.decode(raw)
            level, text = line.level, line.msg
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            level, text = "", raw.decode("utf-8", "replace")
        last = text
        if level in _FAILURES:
            last_error = text
    text = (last_error or last).strip()[: limits.OCI_PROGRAM_REASON_CHARACTERS]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
