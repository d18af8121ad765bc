"""Profiles: how documents are read and reduced; what a compiled filter decides is tested by an interpreter of its instructions."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.base.limits import SECCOMP_PROFILE_BYTES
from orlop.kernel import seccomp as kernel
from orlop.security.profiles import compile_profile, load_localhost, profile_of, runtime_default
from orlop.specs.runtime import Seccomp, SeccompArg, Syscall

pytestmark = pytest.mark.skipif(kernel.native_architecture() != "x86_64", reason="the numbers below are x86_64's")

X86_64, X86 = kernel.AUDIT_ARCHES["x86_64"], kernel.AUDIT_ARCHES["x86"]
ALLOW, KILL = kernel.ACT_ALLOW, kernel.ACT_KILL_THREAD
EPERM, ENOSYS = kernel.ACT_ERRNO | errno.EPERM, kernel.ACT_ERRNO | errno.ENOSYS
DEFAULT_CAPS = ("CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_CHROOT")


def run_filter(bpf: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """Interpret classic BPF as the kernel does, on one struct seccomp_data."""
    data = struct.pack(
        "<iIQ6Q", number if number < 2**31 else number - 2**32, arch, 0, *(args + (0,) * (6 - len(args)))
    )
    program = [struct.unpack_from("<HBBI", bpf, at) for at in range(0, len(bpf), 8)]
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return int(k)
        elif code == 0x05:
            at += k
        elif code == 0x54:
            accumulator &= k
        else:
            condition = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            at += jump_true if condition else jump_false


def default(*caps: str) -> bytes:
    return compile_profile(runtime_default((*DEFAULT_CAPS, *caps))).bpf


NR = {"read": 0, "socket": 41, "clone": 56, "chroot": 161, "mount": 165, "keyctl": 250, "unshare": 272, "bpf": 321,
      "userfaultfd": 323, "io_uring_setup": 425, "clone3": 435, "mseal": 462, "personality": 135, "uretprobe": 335}  # fmt: skip


@pytest.mark.parametrize("name", ["keyctl", "mount", "unshare", "bpf", "userfaultfd", "io_uring_setup"])
def test_runtime_default_refuses(name: str) -> None:
    assert run_filter(default(), X86_64, NR[name]) == EPERM


@pytest.mark.parametrize("name", ["read", "chroot", "mseal", "uretprobe"])
def test_runtime_default_allows(name: str) -> None:
    assert run_filter(default(), X86_64, NR[name]) == ALLOW


def test_what_a_capability_is_for_comes_with_it() -> None:
    admin = default("CAP_SYS_ADMIN")
    for name in ("mount", "unshare", "bpf", "clone3"):
        assert run_filter(admin, X86_64, NR[name]) == ALLOW
    assert run_filter(compile_profile(runtime_default(())).bpf, X86_64, NR["chroot"]) == EPERM
    assert run_filter(default("CAP_BPF"), X86_64, NR["bpf"]) == ALLOW


def test_clone_makes_no_namespace_and_clone3_is_not_there() -> None:
    bpf = default()
    assert run_filter(bpf, X86_64, NR["clone"], (0x3D0F00,)) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run_filter(bpf, X86_64, NR["clone"], (flag | 17,)) == EPERM
    assert run_filter(bpf, X86_64, NR["clone3"]) == ENOSYS


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_sockets_of_two_families_are_refused_whatever_the_upper_half_says(upper: int) -> None:
    bpf = default()
    for family in range(48):
        expected = EPERM if family in (38, 40) else ALLOW
        assert run_filter(bpf, X86_64, NR["socket"], (family | upper,)) == expected, family
        # i386 has no upper half; socket() there is number 359.
        assert run_filter(bpf, X86, 359, (family,)) == expected, family
    assert run_filter(bpf, X86_64, NR["socket"], (1000 | upper,)) == EPERM


def test_socketcall_is_not_there_for_making_a_socket() -> None:
    bpf = default()
    for call in range(1, 21):
        assert run_filter(bpf, X86, 102, (call,)) == ENOSYS, call


def test_personality_takes_five_values() -> None:
    bpf = default()
    allowed = {0, 8, 0x20000, 0x20008, 0xFFFFFFFF}
    for value in (*allowed, 1, 0x40000, 1 << 32):
        assert run_filter(bpf, X86_64, NR["personality"], (value,)) == (ALLOW if value in allowed else EPERM)


def test_calls_newer_than_the_profile_are_not_there() -> None:
    bpf = default()
    for arch, bit in ((X86_64, 0), (X86, 0), (X86_64, kernel.X32_BIT)):
        assert run_filter(bpf, arch, 466 | bit) == ALLOW
        if not bit:  # x32 has calls of its own from 512 to 547
            assert run_filter(bpf, arch, 467) == ENOSYS
        assert run_filter(bpf, arch, 999 | bit) == ENOSYS


def test_other_architectures_are_killed() -> None:
    assert run_filter(default(), kernel.AUDIT_ARCHES["aarch64"], 63) == KILL


def test_an_allowing_profile_has_no_surprises() -> None:
    seccomp = Seccomp(
        default_action="SCMP_ACT_ALLOW",
        syscalls=(Syscall(names=("sethostname", "no_such_call", "listns"), action="SCMP_ACT_ERRNO", errno_ret=13),),
    )
    compiled = compile_profile(profile_of(seccomp))
    assert run_filter(compiled.bpf, X86_64, 170) == kernel.ACT_ERRNO | 13
    assert run_filter(compiled.bpf, X86_64, 470) == kernel.ACT_ERRNO | 13
    assert run_filter(compiled.bpf, X86_64, 9999) == ALLOW
    assert compiled.ignored == ("no_such_call",)
    assert compiled.flags == 4


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    args = tuple(SeccompArg(index=0, op="SCMP_CMP_EQ", value=value) for value in (3, 5))
    seccomp = Seccomp(
        default_action="SCMP_ACT_ERRNO", syscalls=(Syscall(names=("close",), action="SCMP_ACT_ALLOW", args=args),)
    )
    bpf = compile_profile(profile_of(seccomp)).bpf
    assert [run_filter(bpf, X86_64, 3, (value,)) == ALLOW for value in (3, 4, 5)] == [True, False, True]


def test_conditions_on_two_arguments_hold_together() -> None:
    args = (SeccompArg(index=0, op="SCMP_CMP_EQ", value=1), SeccompArg(index=1, op="SCMP_CMP_GT", value=2))
    seccomp = Seccomp(
        default_action="SCMP_ACT_ERRNO", syscalls=(Syscall(names=("dup2",), action="SCMP_ACT_ALLOW", args=args),)
    )
    bpf = compile_profile(profile_of(seccomp)).bpf
    assert run_filter(bpf, X86_64, 33, (1, 3)) == ALLOW
    assert run_filter(bpf, X86_64, 33, (1, 2)) == EPERM


@pytest.mark.parametrize(
    ("seccomp", "error", "words"),
    [
        (Seccomp(default_action="ALLOW"), InvalidArgument, "defaultAction: unknown action 'ALLOW'"),
        (Seccomp(default_action="SCMP_ACT_NOTIFY"), Unimplemented, "SCMP_ACT_NOTIFY"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", default_errno_ret=1), InvalidArgument, "carries no errno"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", flags=("X",)), InvalidArgument, "unknown flag 'X'"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("x86",)), InvalidArgument, "not SCMP_ARCH_"),
        (
            Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_VAX",)),
            InvalidArgument,
            "unknown architecture",
        ),
        (Seccomp(default_action="SCMP_ACT_ALLOW", listener_path="/x"), Unimplemented, "listenerPath"),
        (
            Seccomp(
                default_action="SCMP_ACT_ERRNO",
                syscalls=(Syscall(names=("read",), action="SCMP_ACT_ALLOW", args=(SeccompArg(index=0, op="=="),)),),
            ),
            InvalidArgument,
            r"syscalls\[0\].args: unknown operator '=='",
        ),
    ],
)
def test_errors_name_the_profile_and_the_property(seccomp: Seccomp, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"seccomp profile mine: .*{words}"):
        compile_profile(profile_of(seccomp, "mine"))


def write(path: Path, document: Any) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_localhost_profiles_of_both_forms(tmp_path: Path) -> None:
    plain = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    rich = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {
                "name": "mkdir",
                "action": "SCMP_ACT_ALLOW",
                "args": None,
                "includes": {"caps": ["CAP_CHOWN"]},
                "excludes": {},
            },
            {"names": ["rmdir"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        ],
    }
    write(tmp_path / "a.json", plain)
    path = write(tmp_path / "b.json", rich)
    relative = compile_profile(load_localhost("a.json", str(tmp_path), ())).bpf
    assert run_filter(relative, X86_64, 83) == EPERM
    with_cap = load_localhost(path, "/nowhere", ("CAP_CHOWN",))
    assert with_cap.seccomp.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
    assert [call.names for call in with_cap.seccomp.syscalls] == [("mkdir",), ("rmdir",)]
    assert [call.names for call in load_localhost(path, "", ()).seccomp.syscalls] == [("rmdir",)]
    assert load_localhost(path, "", ()).digest != with_cap.digest
    assert load_localhost(path, "", ("CAP_CHOWN",)).name == f"localhost/{path}"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "seccomp profile .*truncated"),
        ("{}", "defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, "one of name and names"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000}]}, "not an errno"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "A"}]}, "exclude each other"),
        ("[" * 100_000, "seccomp profile"),
    ],
)  # fmt: skip
def test_bad_documents_are_named(tmp_path: Path, document: Any, words: str) -> None:
    path = write(tmp_path / "p.json", document)
    with pytest.raises(InvalidArgument, match=words):
        load_localhost(path, "", ())


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        load_localhost("gone.json", str(tmp_path), ())
    with pytest.raises(InvalidArgument, match="not an absolute path"):
        load_localhost("../x", str(tmp_path), ())
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        load_localhost(str(tmp_path / "fifo"), "", ())
    big = write(tmp_path / "big", " " * (SECCOMP_PROFILE_BYTES + 1))
    with pytest.raises(InvalidArgument, match="larger than"):
        load_localhost(big, "", ())


def test_a_filter_is_compiled_once() -> None:
    profile = runtime_default(DEFAULT_CAPS)
    assert compile_profile(profile) is compile_profile(runtime_default(DEFAULT_CAPS))
    assert len(compile_profile(profile).bpf) % 8 == 0
