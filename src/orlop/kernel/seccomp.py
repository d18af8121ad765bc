"""libseccomp by ctypes: from rules to the BPF program that seccomp(2) loads. The library is opened at the first use, not at import.

Owns the calls of libseccomp 2.5 and the bytes of struct sock_filter. Chooses no rule, no action and no architecture, and never loads a
filter into this process: that is op ``seccomp`` of a plan. Test:
tests/unit/security/test_profiles.py (what filters decide), tests/kernel/oci/test_compiled.py (the kernel agrees).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

# <seccomp.h>; an action may carry 16 bits of data.
ACT_KILL_PROCESS: Final = 0x80000000
ACT_KILL_THREAD: Final = 0x00000000
ACT_TRAP: Final = 0x00030000
ACT_ERRNO: Final = 0x00050000
ACT_TRACE: Final = 0x7FF00000
ACT_LOG: Final = 0x7FFC0000
ACT_ALLOW: Final = 0x7FFF0000
ACT_NOTIFY: Final = 0x7FC00000

CMP_NE: Final = 1
CMP_LT: Final = 2
CMP_LE: Final = 3
CMP_EQ: Final = 4
CMP_GE: Final = 5
CMP_GT: Final = 6
CMP_MASKED_EQ: Final = 7

_FLTATR_CTL_NNP: Final = 3
_FLTATR_CTL_OPTIMIZE: Final = 8
_OPTIMIZE_BINARY_TREE: Final = 2
_NR_ERROR: Final = -1
_EEXIST: Final = 17

# AUDIT_ARCH_* of <linux/audit.h>, which is what seccomp_data.arch holds; x32 shares that of x86_64 and sets a bit in the number.
AUDIT_ARCHES: Final[dict[str, int]] = {
    "x86_64": 0xC000003E,
    "x86": 0x40000003,
    "x32": 0xC000003E,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv64": 0xC00000F3,
    "ppc64le": 0xC0000015,
    "s390x": 0x80000016,
    "s390": 0x00000016,
}
X32_BIT: Final = 0x40000000

INSTRUCTION_BYTES: Final = 8


class Compare(NamedTuple):
    """One condition on an argument; for CMP_MASKED_EQ: ``arg & value == value_two``."""

    argument: int
    op: int
    value: int
    value_two: int = 0


class Rule(NamedTuple):
    """An action for a system call, by libseccomp's number for it on the native architecture, under all conditions together."""

    action: int
    number: int
    compares: tuple[Compare, ...] = ()


class _ArgCmp(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise OSError(error.errno, "libseccomp.so.2 cannot be opened (Debian package libseccomp2)") from error
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_release.argtypes = [ctypes.c_void_p]
    lib.seccomp_release.restype = None
    lib.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    lib.seccomp_arch_native.argtypes = []
    lib.seccomp_arch_native.restype = ctypes.c_uint32
    lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_ArgCmp),
    ]
    lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return lib


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")


def native_architecture() -> str:
    """Return libseccomp's name of this machine: ``x86_64``, ``aarch64``, ..."""
    native = _library().seccomp_arch_native()
    for name in AUDIT_ARCHES:
        if _library().seccomp_arch_resolve_name(name.encode()) == native:
            return name
    raise OSError(95, f"architecture {native:#x} is not known")


@lru_cache(maxsize=4096)
def resolve_syscall(name: str) -> int | None:
    """Return libseccomp's number of a system call for rules (negative for one that only another architecture has), None if unknown."""
    number: int = _library().seccomp_syscall_resolve_name(name.encode())
    return None if number == _NR_ERROR else number


@lru_cache(maxsize=4096)
def resolve_syscall_on(architecture: str, name: str) -> int | None:
    """Return the number that the kernel of an architecture knows a system call by, None if it has none."""
    token = _library().seccomp_arch_resolve_name(architecture.encode())
    number: int = _library().seccomp_syscall_resolve_name_arch(token, name.encode())
    return number if number >= 0 else None


def compile_filter(default_action: int, architectures: Sequence[str], rules: Iterable[Rule]) -> bytes:
    """Return struct sock_filter[] for rules on the native and the given further architectures (libseccomp's names, ``x86``, ``x32``).

    A call of another architecture kills the thread. Raises OSError that names what libseccomp refused.
    """
    lib = _library()
    context = lib.seccomp_init(default_action)
    if not context:
        raise OSError(22, f"seccomp_init: action {default_action:#x} is not valid")
    try:
        for name in architectures:
            token = lib.seccomp_arch_resolve_name(name.encode())
            if token == 0:
                raise OSError(22, f"seccomp_arch_resolve_name: {name}: unknown architecture")
            result = lib.seccomp_arch_add(context, token)
            if result != -_EEXIST:
                _check(result, f"seccomp_arch_add: {name}")
        # no_new_privs is an op of the plan, not a side effect of loading.
        _check(lib.seccomp_attr_set(context, _FLTATR_CTL_NNP, 0), "seccomp_attr_set: NNP")
        _check(lib.seccomp_attr_set(context, _FLTATR_CTL_OPTIMIZE, _OPTIMIZE_BINARY_TREE), "seccomp_attr_set: OPTIMIZE")
        for rule in rules:
            count = len(rule.compares)
            array = (_ArgCmp * count)(*(_ArgCmp(*compare) for compare in rule.compares)) if count else None
            result = lib.seccomp_rule_add_array(context, rule.action, rule.number, count, array)
            if result != -_EEXIST:
                _check(result, f"seccomp_rule_add: system call {rule.number}")
        return _export(lib, context)
    finally:
        lib.seccomp_release(context)


def _export(lib: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("orlop-seccomp", os.MFD_CLOEXEC)
    try:
        _check(lib.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
