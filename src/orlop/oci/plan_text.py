"""A launch plan as text that an operator can read: one line an op, kernel constants by name.

Owns the wording. Never shows the value of an environment variable unless asked: values are secrets as often as not. The text is what golden
tests compare and what ``orlop plan`` prints; it is not parsed back. Test: tests/unit/oci/test_plan_text.py.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from typing import Any, Final

import msgspec

from orlop.oci import kernelnames as k
from orlop.oci import ops
from orlop.oci.ops import Op, Phase, Plan, wire_fields

_NAME_WIDTH: Final = 16


def plan_text(plan: Plan, *, show_values: bool = False) -> str:
    """Return the plan, a heading for each phase, the fds at the end."""
    lines: list[str] = []
    phase: Phase | None = None
    for op in plan.ops:
        if op.phase is not phase:
            phase = op.phase
            lines.append(f"# {phase.name.lower()}")
        lines.append(f"{op.opname:<{_NAME_WIDTH}} {describe(op, show_values=show_values)}".rstrip())
    if plan.fds:
        lines.append("# fds")
        lines.extend(f"{index:<{_NAME_WIDTH}} {label}" for index, label in enumerate(plan.fds))
    return "\n".join(lines) + "\n"


def describe(op: Op, *, show_values: bool = False) -> str:
    """Return the fields of one op in words: ``target=/proc fstype=proc attrs=MOUNT_ATTR_NOSUID|...``."""
    words = []
    for kind, name in wire_fields(type(op)):
        if name == "unused":
            continue
        value = getattr(op, name)
        spelled = _SPELLERS.get((op.opname, name), _SPELLERS.get(("", name)))
        if name == "envp":
            text = _environment(value, show_values=show_values)
        elif spelled is not None:
            text = spelled(value)
        elif kind == "FD":
            text = "none" if value is None else f"fd:{value}"
        elif kind == "BYTES":
            text = f"{len(value)} bytes sha256:{hashlib.sha256(value).hexdigest()[:16]}"
        elif kind == "STRS":
            text = "[" + " ".join(_quote(item) for item in value) + "]"
        elif kind == "U32S":
            text = "[" + " ".join(map(str, value)) + "]"
        elif kind == "STR":
            text = _quote(value)
        else:
            text = str(value)
        if text not in _SILENT.get(kind, ()) and not (text == "0" and name in _SILENT_ZEROS):
            words.append(f"{name.removesuffix('_')}={text}")
    return " ".join(words)


def plan_json(plan: Plan, *, show_values: bool = False) -> bytes:
    """Return the plan as JSON: ``{"ops": [{"op": ..., "phase": ..., fields}], "fds": [...]}``; bytes as a length and a digest."""
    rendered: list[dict[str, Any]] = []
    for op in plan.ops:
        row: dict[str, Any] = {"op": op.opname, "phase": op.phase.name.lower()}
        for kind, name in wire_fields(type(op)):
            if name == "unused":
                continue
            value = getattr(op, name)
            if kind == "BYTES":
                value = {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
            elif name == "envp" and not show_values:
                value = [entry.partition("=")[0] for entry in value]
            elif kind == "STR":
                value = _printable(value)
            elif kind == "STRS":
                value = [_printable(item) for item in value]
            row[name.removesuffix("_")] = value
        rendered.append(row)
    return msgspec.json.format(msgspec.json.encode({"ops": rendered, "fds": plan.fds}), indent=2)


def _environment(entries: tuple[str, ...], *, show_values: bool) -> str:
    shown = entries if show_values else [entry.partition("=")[0] for entry in entries]
    return "[" + " ".join(_quote(entry) for entry in shown) + "]"


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _quote(text: str) -> str:
    """Text that cannot be mistaken for the plan's own words, nor steer a terminal."""
    text = _printable(text)
    if text and text.isprintable() and not any(char in " \"'[]\\" for char in text):
        return text
    escaped = "".join(char if char.isprintable() and char not in '"\\' else _escape(char) for char in text)
    return f'"{escaped}"'


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode() if char not in '"\\' else "\\" + char


def _mode(mode: int) -> str:
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}.get(stat.S_IFMT(mode), "")
    return f"{kind}{stat.S_IMODE(mode):04o}"


def _flags(names: dict[str, int]) -> Callable[[int], str]:
    return lambda value: k.spell(value, names)


def _rlimit_value(value: int) -> str:
    return "unlimited" if value == k.RLIM_INFINITY else str(value)


def _named(table: dict[str, int]) -> Callable[[int], str]:
    names = {number: name for name, number in table.items()}
    return lambda value: names.get(value, str(value))


def _filter(data: bytes) -> str:
    return f"{len(data) // 8} instructions sha256:{hashlib.sha256(data).hexdigest()[:16]}"


def _io_priority(value: int) -> str:
    name = _named(k.IOPRIO_CLASSES)(value >> k.IOPRIO_CLASS_SHIFT)
    return f"{name}:{value & ((1 << k.IOPRIO_CLASS_SHIFT) - 1)}"


def _umask(value: int) -> str:
    return f"{value:04o}"


_NEW_FLAGS: Final = {"TMPCOPYUP": ops.NEW_TMPCOPYUP, "CREATE": ops.NEW_CREATE, "OPTIONAL": ops.NEW_OPTIONAL}
_BIND_FLAGS: Final = {
    "RECURSIVE": ops.BIND_RECURSIVE,
    "CREATE": ops.BIND_CREATE,
    "OPTIONAL": ops.BIND_OPTIONAL,
    "ATTRS_RECURSIVE": ops.BIND_ATTRS_RECURSIVE,
    "NOSYMLINK": ops.BIND_NOSYMLINK,
}

# (op, field) -> how its number is spelled; an empty op means: a field of this name in every op.
_SPELLERS: Final[dict[tuple[str, str], Callable[[Any], str]]] = {
    ("pod_unshare", "flags"): _flags(k.CLONE),
    ("clone", "flags"): _flags(k.CLONE),
    ("unshare", "flags"): _flags(k.CLONE),
    ("setns", "nstype"): _flags(k.CLONE),
    ("root_propagation", "flags"): _flags(k.MS),
    ("rootfs", "flags"): _flags(k.MS),
    ("host_propagation", "flags"): _flags(k.MS),
    ("mount_new", "flags"): _flags(_NEW_FLAGS),
    ("mount_bind", "flags"): _flags(_BIND_FLAGS),
    ("seccomp", "flags"): _flags(k.SECCOMP_FLAGS),
    ("seccomp", "filter"): _filter,
    ("scheduler", "flags"): _flags(k.SCHEDULER_FLAGS),
    ("scheduler", "policy"): _named(k.SCHEDULER_POLICIES),
    ("rlimit", "resource"): _named(k.RLIMIT_NUMBERS),
    ("rlimit", "soft"): _rlimit_value,
    ("rlimit", "hard"): _rlimit_value,
    ("personality", "persona"): _named(k.PERSONALITIES),
    ("io_priority", "priority"): _io_priority,
    ("bounding_set", "keep"): k.spell_capabilities,
    ("umask", "mask"): _umask,
    ("", "attrs"): _flags(k.MOUNT_ATTR),
    ("", "attr_set"): _flags(k.MOUNT_ATTR),
    ("", "attr_clr"): _flags(k.MOUNT_ATTR),
    ("", "propagation"): _flags(k.MS),
    ("", "mode"): _mode,
    ("", "effective"): k.spell_capabilities,
    ("", "permitted"): k.spell_capabilities,
    ("", "inheritable"): k.spell_capabilities,
    ("", "ambient"): k.spell_capabilities,
}

# What says nothing is not said: no fd, an empty string, no flags.
_SILENT: Final[dict[str, tuple[str, ...]]] = {"FD": ("none",), "STR": ('""',), "STRS": ("[]",)}
_SILENT_ZEROS: Final = frozenset(
    {"flags", "attrs", "attr_set", "attr_clr", "propagation", "recursive", "create", "clamp"}
)
