"""Seccomp profiles: RuntimeDefault, profiles of the node's administrator, and their compilation, cached by digest.

Owns what RuntimeDefault allows (runtime-default.json beside this file), how a profile document is read, and the two things libseccomp does
not do: numbers newer than the library, and ENOSYS instead of EPERM for calls newer than the profile (a libc that probes for a new call must
see "not there", not "forbidden"). Never loads a filter. Test: tests/unit/security/test_profiles.py, tests/kernel/oci/test_compiled.py.

Two documents are understood: the runtime spec's ``linux.seccomp``, and the richer form of Docker and Podman with ``archMap``, ``includes``
and ``excludes``, which are resolved here against the container's capabilities and this machine.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Final

import msgspec

from orlop.base.errors import Internal, InvalidArgument, Unimplemented
from orlop.base.limits import SECCOMP_PROFILE_BYTES, SECCOMP_PROFILES_CACHED
from orlop.kernel import seccomp as kernel
from orlop.specs.runtime import Seccomp, SeccompArg, Syscall

ACTIONS: Final[dict[str, int]] = {
    "SCMP_ACT_KILL": kernel.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": kernel.ACT_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": kernel.ACT_KILL_PROCESS,
    "SCMP_ACT_TRAP": kernel.ACT_TRAP,
    "SCMP_ACT_ERRNO": kernel.ACT_ERRNO,
    "SCMP_ACT_TRACE": kernel.ACT_TRACE,
    "SCMP_ACT_ALLOW": kernel.ACT_ALLOW,
    "SCMP_ACT_LOG": kernel.ACT_LOG,
}
OPERATORS: Final[dict[str, int]] = {
    "SCMP_CMP_NE": kernel.CMP_NE,
    "SCMP_CMP_LT": kernel.CMP_LT,
    "SCMP_CMP_LE": kernel.CMP_LE,
    "SCMP_CMP_EQ": kernel.CMP_EQ,
    "SCMP_CMP_GE": kernel.CMP_GE,
    "SCMP_CMP_GT": kernel.CMP_GT,
    "SCMP_CMP_MASKED_EQ": kernel.CMP_MASKED_EQ,
}
FLAGS: Final[dict[str, int]] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
# runc's default: the mitigation that the kernel would switch on for a filtered process costs more than it gives.
DEFAULT_FLAGS: Final = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
MAX_ERRNO: Final = 4095
MAX_INSTRUCTIONS: Final = 4096

# The names of architectures in `includes` are Go's.
_GO_ARCHES: Final = {
    "x86_64": "amd64",
    "x86": "386",
    "aarch64": "arm64",
    "arm": "arm",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "s390": "s390",
}

# Calls that libseccomp 2.5 may not know. From 424 on a number is the same on every architecture named in kernel.AUDIT_ARCHES.
_NEW_NUMBERS: Final[dict[str, int]] = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
}
_X86_64_ONLY_NUMBERS: Final[dict[str, int]] = {"uretprobe": 335, "uprobe": 336}


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A profile resolved for one set of capabilities on this machine."""

    name: str
    """``runtime/default``, ``localhost/<path>``: what status and errors say."""
    digest: str
    """Of the resolved document: equal digests are equal filters."""
    seccomp: Seccomp


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel gets."""

    bpf: bytes
    flags: int
    ignored: tuple[str, ...] = ()
    """Names in the profile that nobody on this machine knows; as in runc they are left out."""


class _Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str = ""


class _RawSyscall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    action: str
    name: str = ""
    names: tuple[str, ...] = ()
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _ArchMap(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class _RawProfile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[_ArchMap, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[_RawSyscall, ...] | None = None


_decoder: Final = msgspec.json.Decoder(_RawProfile)


@lru_cache(maxsize=128)
def runtime_default(capabilities: tuple[str, ...]) -> Profile:
    """Return RuntimeDefault for a container with these capabilities in its bounding set: what a capability is for is let through with it."""
    return _resolve("runtime/default", _default_document(), frozenset(capabilities))


@lru_cache(maxsize=1)
def _default_document() -> bytes:
    return resources.files("orlop.security").joinpath("runtime-default.json").read_bytes()


def load_localhost(ref: str, directory: str, capabilities: tuple[str, ...]) -> Profile:
    """Return the profile in a file of the node: an absolute path, or one below ``directory``. Reads the file each time; an unchanged
    document costs no parsing.

    Raises InvalidArgument that names the file.
    """
    path = ref if ref.startswith("/") else os.path.join(directory, ref)
    if not ref or ".." in path.split("/") or "\0" in path:
        raise InvalidArgument(f"seccomp profile {ref!r}: not an absolute path nor one below {directory}")
    return _load(path, _read_document(path), capabilities)


def _read_document(path: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO must not hold the daemon.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidArgument(f"seccomp profile {path}: {error.strerror}") from error
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidArgument(f"seccomp profile {path}: not a regular file")
        data = os.read(fd, SECCOMP_PROFILE_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > SECCOMP_PROFILE_BYTES:
        raise InvalidArgument(f"seccomp profile {path}: larger than {SECCOMP_PROFILE_BYTES} bytes")
    return data


@lru_cache(maxsize=SECCOMP_PROFILES_CACHED)
def _load(path: str, document: bytes, capabilities: tuple[str, ...]) -> Profile:
    return _resolve(f"localhost/{path}", document, frozenset(capabilities))


def profile_of(seccomp: Seccomp, name: str = "config.json") -> Profile:
    """Return a runtime spec's own linux.seccomp as a profile."""
    return Profile(
        name=name, digest="sha256:" + hashlib.sha256(msgspec.json.encode(seccomp)).hexdigest(), seccomp=seccomp
    )


def _resolve(name: str, document: bytes, capabilities: frozenset[str]) -> Profile:
    """Reduce a document to the runtime spec's form: conditions decided, architectures listed."""
    try:
        raw = _decoder.decode(document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"seccomp profile {name}: {error}") from error
    native = kernel.native_architecture()
    arch = _GO_ARCHES[native]
    architectures = raw.architectures or ()
    if raw.arch_map:
        if raw.architectures:
            raise InvalidArgument(f"seccomp profile {name}: architectures and archMap exclude each other")
        for entry in raw.arch_map:
            if _architecture(entry.architecture) == native:
                architectures = (entry.architecture, *(entry.sub_architectures or ()))
    syscalls = []
    for index, rule in enumerate(raw.syscalls or ()):
        if bool(rule.name) == bool(rule.names):
            raise InvalidArgument(f"seccomp profile {name}: syscalls[{index}]: one of name and names is needed")
        if not _applies(rule, capabilities, arch):
            continue
        errno_ret = rule.errno_ret
        if errno_ret is not None and not 0 <= errno_ret <= MAX_ERRNO:
            raise InvalidArgument(f"seccomp profile {name}: syscalls[{index}].errnoRet: {errno_ret} is not an errno")
        syscalls.append(
            Syscall(names=rule.names or (rule.name,), action=rule.action, errno_ret=errno_ret, args=rule.args or ())
        )
    return profile_of(
        Seccomp(
            default_action=raw.default_action,
            default_errno_ret=raw.default_errno_ret,
            architectures=architectures,
            flags=raw.flags or (),
            listener_path=raw.listener_path,
            listener_metadata=raw.listener_metadata,
            syscalls=tuple(syscalls),
        ),
        name,
    )


def _applies(rule: _RawSyscall, capabilities: frozenset[str], arch: str) -> bool:
    includes, excludes = rule.includes, rule.excludes
    if includes is not None:
        if includes.arches and arch not in includes.arches:
            return False
        if includes.caps and not capabilities.issuperset(includes.caps):
            return False
        if includes.min_kernel and _kernel_version() < _version(includes.min_kernel):
            return False
    if excludes is not None:
        if arch in excludes.arches:
            return False
        if excludes.caps and not capabilities.isdisjoint(excludes.caps):
            return False
        if excludes.min_kernel and _kernel_version() >= _version(excludes.min_kernel):
            return False
    return True


def _version(text: str) -> tuple[int, ...]:
    numbers = text.split(".")[:2]
    if not all(number.isdigit() for number in numbers):
        raise InvalidArgument(f"seccomp profile: minKernel: {text!r} is not a version")
    return tuple(map(int, numbers))


@lru_cache(maxsize=1)
def _kernel_version() -> tuple[int, ...]:
    return _version(os.uname().release.partition("-")[0])


_filters: Final[OrderedDict[str, Filter]] = OrderedDict()


def compile_profile(profile: Profile) -> Filter:
    """Return the profile's filter. The first time of a digest takes milliseconds; afterwards it is one look-up.

    Raises InvalidArgument that names the profile and what is wrong in it.
    """
    found = _filters.get(profile.digest)
    if found is not None:
        return found
    try:
        compiled = _compile(profile.seccomp)
    except InvalidArgument as error:
        raise InvalidArgument(f"seccomp profile {profile.name}: {error}") from error
    except Unimplemented as error:
        raise Unimplemented(f"seccomp profile {profile.name}: {error}") from error
    except OSError as error:
        # A rule that the library refuses is the profile's fault; a library that is not there is the node's.
        if error.errno in (errno.EINVAL, errno.EACCES, errno.EDOM, errno.EFAULT):
            raise InvalidArgument(f"seccomp profile {profile.name}: {error.strerror}") from error
        raise Internal(f"seccomp profile {profile.name}: {error.strerror}") from error
    _filters[profile.digest] = compiled
    if len(_filters) > SECCOMP_PROFILES_CACHED:
        _filters.popitem(last=False)
    return compiled


def statistics() -> dict[str, int]:
    """Return how many compiled filters are kept, and their bytes."""
    return {"filters": len(_filters), "bytes": sum(len(item.bpf) for item in _filters.values())}


def _architecture(name: str) -> str:
    """``SCMP_ARCH_X86_64`` -> ``x86_64``."""
    short = name.removeprefix("SCMP_ARCH_").lower()
    if not name.startswith("SCMP_ARCH_"):
        raise InvalidArgument(f"architectures: {name!r} is not SCMP_ARCH_*")
    return short


def _action(field: str, name: str, errno_ret: int | None, default_errno: int) -> int:
    action = ACTIONS.get(name)
    if action is None:
        if name == "SCMP_ACT_NOTIFY":
            raise Unimplemented(f"{field}: SCMP_ACT_NOTIFY is not implemented")
        raise InvalidArgument(f"{field}: unknown action {name!r}")
    if action in (kernel.ACT_ERRNO, kernel.ACT_TRACE):
        return action | (default_errno if errno_ret is None else errno_ret)
    if errno_ret is not None:
        raise InvalidArgument(f"{field}: {name} carries no errno")
    return action


def _compile(seccomp: Seccomp) -> Filter:
    if seccomp.listener_path:
        raise Unimplemented("listenerPath: not implemented")
    flags = 0
    for flag in seccomp.flags:
        if flag not in FLAGS:
            raise InvalidArgument(f"flags: unknown flag {flag!r}")
        flags |= FLAGS[flag]
    native = kernel.native_architecture()
    architectures = [_architecture(name) for name in seccomp.architectures]
    default = _action("defaultAction", seccomp.default_action, seccomp.default_errno_ret, errno.EPERM)
    rules: list[kernel.Rule] = []
    late: dict[str, int] = {}
    ignored: list[str] = []
    names: set[str] = set()
    for index, call in enumerate(seccomp.syscalls):
        action = _action(f"syscalls[{index}].action", call.action, call.errno_ret, errno.EPERM)
        conditions = _conditions(index, call.args)
        for name in call.names:
            number = kernel.resolve_syscall(name)
            if number is None:
                known = name in _NEW_NUMBERS or (native == "x86_64" and name in _X86_64_ONLY_NUMBERS)
                if known and not call.args:
                    late.setdefault(name, action)
                elif not known:
                    ignored.append(name)
                else:
                    raise InvalidArgument(f"syscalls[{index}].args: libseccomp is too old for conditions on {name}")
                continue
            names.add(name)
            # libseccomp refuses a rule that says what happens anyway; runc leaves it out as well.
            if action != default:
                rules.extend(kernel.Rule(action, number, compares) for compares in conditions)
    program = kernel.compile_filter(default, architectures, rules)
    prologue = _prologue([native, *architectures], names, late, default)
    bpf = prologue + program
    if len(bpf) > MAX_INSTRUCTIONS * kernel.INSTRUCTION_BYTES:
        count = len(bpf) // kernel.INSTRUCTION_BYTES
        raise InvalidArgument(f"{count} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    return Filter(bpf=bpf, flags=flags if seccomp.flags else DEFAULT_FLAGS, ignored=tuple(ignored))


def _conditions(index: int, args: Sequence[SeccompArg]) -> list[tuple[kernel.Compare, ...]]:
    """Return the rules' conditions. Conditions on different arguments hold together; when one argument is named twice each condition
    becomes a rule of its own, as runc does (that is "or": two NE on one argument forbid nothing)."""
    compares = []
    for arg in args:
        operator = OPERATORS.get(arg.op)
        if operator is None:
            raise InvalidArgument(f"syscalls[{index}].args: unknown operator {arg.op!r}")
        if arg.value > 2**64 - 1 or arg.value_two > 2**64 - 1:
            raise InvalidArgument(f"syscalls[{index}].args: value does not fit into 64 bits")
        compares.append(kernel.Compare(arg.index, operator, arg.value, arg.value_two))
    if len({compare.argument for compare in compares}) == len(compares):
        return [tuple(compares)]
    return [(compare,) for compare in compares]


# struct sock_filter { u16 code; u8 jt; u8 jf; u32 k; }
_INSTRUCTION: Final = struct.Struct("<HBBI")
_LOAD: Final = 0x20  # BPF_LD|BPF_W|BPF_ABS
_JUMP: Final = 0x05  # BPF_JMP|BPF_JA
_JUMP_EQUAL: Final = 0x15  # BPF_JMP|BPF_JEQ|BPF_K
_JUMP_GREATER: Final = 0x25  # BPF_JMP|BPF_JGT|BPF_K
_JUMP_SET: Final = 0x45  # BPF_JMP|BPF_JSET|BPF_K
_RETURN: Final = 0x06  # BPF_RET|BPF_K
_DATA_NUMBER: Final = 0  # offsetof(struct seccomp_data, nr)
_DATA_ARCH: Final = 4

Instruction = tuple[int, int, int, int]


def _prologue(architectures: Iterable[str], names: set[str], late: dict[str, int], default: int) -> bytes:
    """Return instructions to run before libseccomp's program: they answer for calls that are newer than it, and else run into it.

    For each architecture: is it this one? a late number -> its action; above all that the profile names -> ENOSYS, if the default refuses.
    """
    refuses = default not in (kernel.ACT_ALLOW, kernel.ACT_LOG)
    if not late and not refuses:
        return b""
    # x32 has the architecture of x86_64 and a bit in the number: the two are told apart inside one block.
    blocks: dict[int, list[Instruction]] = {}
    done: set[str] = set()
    for name in architectures:
        if name in done or name not in kernel.AUDIT_ARCHES:
            continue
        done.add(name)
        body = _answers(name, names, late, refuses=refuses)
        if name in ("x86_64", "x32"):
            # Over the body, when the bit says the other of the two.
            test = (_JUMP_SET, 0, 1, kernel.X32_BIT) if name == "x86_64" else (_JUMP_SET, 1, 0, kernel.X32_BIT)
            body = [test, (_JUMP, 0, 0, len(body)), *body]
        blocks.setdefault(kernel.AUDIT_ARCHES[name], []).extend(body)
    program: list[Instruction] = [(_LOAD, 0, 0, _DATA_ARCH)]
    rest = sum(len(body) + 4 for body in blocks.values())
    for token, body in blocks.items():
        rest -= len(body) + 4
        program.append((_JUMP_EQUAL, 1, 0, token))
        program.append((_JUMP, 0, 0, len(body) + 2))
        program.append((_LOAD, 0, 0, _DATA_NUMBER))
        program.extend(body)
        program.append((_JUMP, 0, 0, rest))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _answers(architecture: str, names: set[str], late: dict[str, int], *, refuses: bool) -> list[Instruction]:
    bit = kernel.X32_BIT if architecture == "x32" else 0
    body: list[Instruction] = []
    highest = 0
    for name in names:
        highest = max(highest, kernel.resolve_syscall_on(architecture, name) or 0)
    for name, action in late.items():
        number = _NEW_NUMBERS.get(name)
        if number is None:
            if architecture != "x86_64":
                continue
            number = _X86_64_ONLY_NUMBERS[name]
        highest = max(highest, number | bit)
        body += [(_JUMP_EQUAL, 0, 1, number | bit), (_RETURN, 0, 0, action)]
    if refuses:
        body += [(_JUMP_GREATER, 0, 1, highest), (_RETURN, 0, 0, kernel.ACT_ERRNO | errno.ENOSYS)]
    return body
