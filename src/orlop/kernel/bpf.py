"""bpf(2) for device filters: assembly of a BPF_PROG_TYPE_CGROUP_DEVICE program, load, attach, query.

Assembly is pure: rules in, instruction bytes out. Loading gives an fd; attaching makes the cgroup keep the program, so the fd may
be closed. Never decides which devices are allowed. Needs CAP_BPF or CAP_SYS_ADMIN. Test: tests/unit/kernel/test_bpf.py,
tests/kernel/cgroups/test_bpf.py.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orlop.kernel.syscall import syscall

BPF_PROG_LOAD: Final = 5
BPF_PROG_ATTACH: Final = 8
BPF_PROG_DETACH: Final = 9
BPF_PROG_GET_FD_BY_ID: Final = 13
BPF_PROG_QUERY: Final = 16
BPF_PROG_TYPE_CGROUP_DEVICE: Final = 15
BPF_CGROUP_DEVICE: Final = 6
BPF_F_ALLOW_MULTI: Final = 2
BPF_F_REPLACE: Final = 4

DEV_BLOCK: Final = 1
DEV_CHAR: Final = 2
ACC_MKNOD: Final = 1
ACC_READ: Final = 2
ACC_WRITE: Final = 4
ACC_ALL: Final = ACC_MKNOD | ACC_READ | ACC_WRITE

# bpf(2) is older than the numbers that all architectures share.
_NR_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}.get(
    platform.machine(), -1
)
_ATTR_BYTES: Final = 128
_LOG_BYTES: Final = 64 * 1024
_QUERY_PROGRAMS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMatch:
    """One test of the program: the first that matches gives the verdict. None matches everything."""

    verdict: bool
    type: int | None = None
    """DEV_BLOCK, DEV_CHAR."""
    major: int | None = None
    minor: int | None = None
    access: int = ACC_ALL
    """verdict True: matches if all that is asked for is in here; False: if any of it is."""


def _insn(code: int, *, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhI", code, src << 4 | dst, off, imm & 0xFFFFFFFF)


# Opcodes of linux/bpf.h as (class | source | operation): LDX_W 61, AND32_K 54, RSH32_K 74, MOV32_X bc, MOV64_K b7, EXIT 95,
# JEQ_K 15, JNE_K 55, JNE_X 5d. r1 is the context {access_type, major, minor}.
_PROLOGUE = (
    _insn(0x61, dst=2, src=1)  # r2 = access_type
    + _insn(0x54, dst=2, imm=0xFFFF)  # low half: the device's type
    + _insn(0x61, dst=3, src=1)
    + _insn(0x74, dst=3, imm=16)  # high half: what is asked for
    + _insn(0x61, dst=4, src=1, off=4)  # major
    + _insn(0x61, dst=5, src=1, off=8)  # minor
)
_EXIT = _insn(0x95)


def assemble(matches: Sequence[DeviceMatch], *, default: bool) -> bytes:
    """Return the program: each match in order, the default last. What follows a match of everything is left out."""
    parts = [_PROLOGUE]
    for match in matches:
        tests: list[tuple[int, int, int, int]] = []  # opcode, dst, src, imm; each jumps behind the block if it fails
        if match.type is not None:
            tests.append((0x55, 2, 0, match.type))
        if match.access != ACC_ALL:
            tests += [(0xBC, 1, 3, 0), (0x54, 1, 0, match.access)]
            tests.append((0x5D, 1, 3, 0) if match.verdict else (0x15, 1, 0, 0))
        if match.major is not None:
            tests.append((0x55, 4, 0, match.major))
        if match.minor is not None:
            tests.append((0x55, 5, 0, match.minor))
        length = len(tests) + 2
        for index, (code, dst, src, imm) in enumerate(tests):
            jumps = code not in (0xBC, 0x54)
            parts.append(_insn(code, dst=dst, src=src, off=length - index - 1 if jumps else 0, imm=imm))
        parts += [_insn(0xB7, imm=int(match.verdict)), _EXIT]
        if not tests:
            return b"".join(parts)
    parts += [_insn(0xB7, imm=int(default)), _EXIT]
    return b"".join(parts)


def _bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    if _NR_BPF < 0:
        raise OSError(38, f"bpf: no number of the system call is known for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = syscall(_NR_BPF, command, ctypes.byref(buffer), _ATTR_BYTES)
    return result, buffer.raw


def load_device_program(program: bytes) -> int:
    """Load a device filter; returns its fd. A refusal carries the verifier's words."""
    instructions = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(b"Apache")

    def attr(level: int, size: int, log: int) -> bytes:
        return struct.pack(
            "<IIQQIIQ",
            BPF_PROG_TYPE_CGROUP_DEVICE,
            len(program) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(license_text),
            level,
            size,
            log,
        )

    try:
        fd, _ = _bpf(BPF_PROG_LOAD, attr(0, 0, 0))
    except OSError as error:
        buffer = ctypes.create_string_buffer(_LOG_BYTES)
        try:  # once more with a log: it costs, so it is asked for only when there is something to say
            fd, _ = _bpf(BPF_PROG_LOAD, attr(1, _LOG_BYTES, ctypes.addressof(buffer)))
        except OSError:
            said = buffer.value.decode(errors="replace").strip().splitlines()
            reason = f"{error.strerror} ({said[-1]})" if said else error.strerror
            raise OSError(error.errno, reason, "bpf device program") from None
    os.set_inheritable(fd, False)
    return fd


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """Return the ids of the device programs that are attached to a cgroup itself."""
    ids = (ctypes.c_uint32 * _QUERY_PROGRAMS)()
    attr = struct.pack("<IIIIQI", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _QUERY_PROGRAMS)
    _, answer = _bpf(BPF_PROG_QUERY, attr)
    count: int = struct.unpack_from("<I", answer, 24)[0]
    return list(ids[: min(count, _QUERY_PROGRAMS)])


def program_fd(program_id: int) -> int:
    """Return an fd of a loaded program."""
    fd, _ = _bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<I", program_id))
    os.set_inheritable(fd, False)
    return fd


def attach_device_program(cgroup_fd: int, program: int, *, replace: int = -1) -> None:
    """Attach a program beside others (ALLOW_MULTI), or in one step instead of the program with the fd ``replace``."""
    flags = BPF_F_ALLOW_MULTI | (BPF_F_REPLACE if replace >= 0 else 0)
    _bpf(BPF_PROG_ATTACH, struct.pack("<IIIII", cgroup_fd, program, BPF_CGROUP_DEVICE, flags, max(replace, 0)))


def detach_device_program(cgroup_fd: int, program: int) -> None:
    """Take a program from a cgroup."""
    _bpf(BPF_PROG_DETACH, struct.pack("<III", cgroup_fd, program, BPF_CGROUP_DEVICE))


def set_device_program(cgroup_fd: int, program: bytes) -> None:
    """Make a program the cgroup's only one, with no moment at which none is attached."""
    old = [program_fd(each) for each in attached_device_programs(cgroup_fd)]
    try:
        new = load_device_program(program)
        try:
            if len(old) == 1:
                attach_device_program(cgroup_fd, new, replace=old[0])
                return
            attach_device_program(cgroup_fd, new)
            for each in old:
                detach_device_program(cgroup_fd, each)
        finally:
            os.close(new)
    finally:
        for each in old:
            os.close(each)
