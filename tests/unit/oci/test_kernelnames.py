"""The tables against the kernel's headers, and how masks are spelled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orlop.oci import kernelnames as names

HEADERS = Path("/usr/include")


def constants(header: str) -> dict[str, int]:
    path = HEADERS / header
    if not path.exists():
        pytest.skip(f"no {path}")
    found = re.findall(
        r"^\s*#\s*define\s+(\w+)\s+\(?(0x[0-9a-fA-F]+|\d+|1\s*<<\s*\d+)\)?\s*(?:/\*.*)?$",
        path.read_text(),
        re.MULTILINE,
    )
    values = {}
    for name, text in found:
        left, shift, right = text.partition("<<")
        values[name] = int(left, 0) << int(right) if shift else int(text, 0)
    return values


def test_capabilities_are_the_headers() -> None:
    header = constants("linux/capability.h")
    for number, name in enumerate(names.CAPABILITIES):
        assert header.get(name, number) == number
    assert header["CAP_CHOWN"] == 0


def test_mount_and_clone_flags_are_the_headers() -> None:
    header = constants("linux/mount.h")
    for name, value in {**names.MS, **names.MOUNT_ATTR}.items():
        assert header.get(name, value) == value, name
    header = constants("linux/sched.h")
    for name, value in names.CLONE.items():
        assert header.get(name, value) == value, name


def test_masks_are_spelled_in_words() -> None:
    assert names.spell(0, names.MS) == "0"
    assert names.spell(names.MS_PRIVATE | names.MS_REC, names.MS) == "MS_REC|MS_PRIVATE"
    assert names.spell(0x70 | 1, names.MOUNT_ATTR) == "MOUNT_ATTR_RDONLY|MOUNT_ATTR__ATIME"
    assert names.spell(0x10 | 0x40000, names.MOUNT_ATTR) == "MOUNT_ATTR_NOATIME|0x40000"


def test_capability_sets_are_spelled_in_words() -> None:
    every = (1 << 41) - 1
    assert names.spell_capabilities(0) == "none"
    assert names.spell_capabilities(every) == "all"
    assert names.spell_capabilities(every & ~1) == "all but CHOWN"
    assert names.spell_capabilities(names.capability_mask(["CAP_CHOWN", "CAP_KILL"])) == "CHOWN,KILL"
    assert names.spell_capabilities(1 << 45 | 1) == "CHOWN,0x200000000000"
    with pytest.raises(KeyError):
        names.capability_mask(["CAP_NONE"])
