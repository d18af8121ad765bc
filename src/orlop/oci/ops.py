"""The operations of a launch plan: one class an op, the same names, codes and fields as native/ops.def, which says what each does.

Owns the vocabulary and the plan as a value. Never decides what a container needs (compile.py), never makes bytes (codec.py).
A class is the op's name in CamelCase; a field's annotation is its type on the wire. One field differs: ``in`` is a Python keyword
and is called ``in_`` here. Test: tests/unit/oci/test_ops.py reads ops.def and compares letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar, Final, NewType

import msgspec

from orlop.base.errors import InvalidArgument

Fd = NewType("Fd", str)
"""Symbolic name of a file descriptor that travels with the plan: ``rootfs``, ``cgroup.tasks.memory``. The launcher passes the real ones
in the order of ``Plan.fds``."""

# Wire types (head of ops.def). Annotations below are these names: the codec reads them as text.
U32 = int
U64 = int
I64 = int
STR = str
"""Text for the kernel. Bytes that are not UTF-8 are carried as surrogate escapes (PEP 383) and leave as the same bytes."""
BYTES = bytes
STRS = tuple[str, ...]
U32S = tuple[int, ...]
FD = Fd | None

# mount_new.flags
NEW_TMPCOPYUP: Final = 1
NEW_CREATE: Final = 2
NEW_OPTIONAL: Final = 4

# mount_bind.flags
BIND_RECURSIVE: Final = 1
BIND_CREATE: Final = 2
BIND_OPTIONAL: Final = 4
BIND_ATTRS_RECURSIVE: Final = 8
BIND_NOSYMLINK: Final = 16


class Phase(IntEnum):
    """Phases run in this order; an op may only follow ops of its own or an earlier phase."""

    POD = 0
    SPAWN = 1
    PARENT = 2
    JOIN = 3
    NS = 4
    MOUNT = 5
    ROOT = 6
    IDENTITY = 7
    GATE = 8
    FINAL = 9


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all ops."""

    opcode: ClassVar[int]
    opname: ClassVar[str]
    phase: ClassVar[Phase]


class PodUnshare(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0001
    opname: ClassVar[str] = "pod_unshare"
    phase: ClassVar[Phase] = Phase.POD
    flags: U64


class PodHostname(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0002
    opname: ClassVar[str] = "pod_hostname"
    phase: ClassVar[Phase] = Phase.POD
    name: STR


class PodLoopbackUp(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0003
    opname: ClassVar[str] = "pod_loopback_up"
    phase: ClassVar[Phase] = Phase.POD
    unused: U32 = 0


class PodSysctl(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0004
    opname: ClassVar[str] = "pod_sysctl"
    phase: ClassVar[Phase] = Phase.POD
    key: STR
    value: STR


class PodInit(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0005
    opname: ClassVar[str] = "pod_init"
    phase: ClassVar[Phase] = Phase.POD
    unused: U32 = 0


class Clone(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0101
    opname: ClassVar[str] = "clone"
    phase: ClassVar[Phase] = Phase.SPAWN
    flags: U64
    cgroup: FD


class JoinPid(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0102
    opname: ClassVar[str] = "join_pid"
    phase: ClassVar[Phase] = Phase.SPAWN
    ns: FD


class JoinPodInit(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0103
    opname: ClassVar[str] = "join_pod_init"
    phase: ClassVar[Phase] = Phase.SPAWN
    unused: U32 = 0


class JoinPidOf(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0104
    opname: ClassVar[str] = "join_pid_of"
    phase: ClassVar[Phase] = Phase.SPAWN
    container: STR


class JoinMntOf(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0105
    opname: ClassVar[str] = "join_mnt_of"
    phase: ClassVar[Phase] = Phase.SPAWN
    container: STR


class Foreign(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0106
    opname: ClassVar[str] = "foreign"
    phase: ClassVar[Phase] = Phase.SPAWN
    directory: FD
    pid_file: STR
    console: FD


class IdMaps(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0201
    opname: ClassVar[str] = "id_maps"
    phase: ClassVar[Phase] = Phase.PARENT
    uid_map: STR
    gid_map: STR
    setgroups: U32


class OomScoreAdj(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0202
    opname: ClassVar[str] = "oom_score_adj"
    phase: ClassVar[Phase] = Phase.PARENT
    value: I64
    clamp: U32


class Rlimit(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0203
    opname: ClassVar[str] = "rlimit"
    phase: ClassVar[Phase] = Phase.PARENT
    resource: U32
    soft: U64
    hard: U64
    clamp: U32


class CgroupJoin(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0301
    opname: ClassVar[str] = "cgroup_join"
    phase: ClassVar[Phase] = Phase.JOIN
    tasks: FD


class Setns(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0302
    opname: ClassVar[str] = "setns"
    phase: ClassVar[Phase] = Phase.JOIN
    ns: FD
    nstype: U64


class Unshare(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0303
    opname: ClassVar[str] = "unshare"
    phase: ClassVar[Phase] = Phase.JOIN
    flags: U64


class Setsid(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0304
    opname: ClassVar[str] = "setsid"
    phase: ClassVar[Phase] = Phase.JOIN
    unused: U32 = 0


class SessionKeyring(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0305
    opname: ClassVar[str] = "session_keyring"
    phase: ClassVar[Phase] = Phase.JOIN
    name: STR


class Hostname(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0401
    opname: ClassVar[str] = "hostname"
    phase: ClassVar[Phase] = Phase.NS
    name: STR


class Domainname(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0402
    opname: ClassVar[str] = "domainname"
    phase: ClassVar[Phase] = Phase.NS
    name: STR


class Sysctl(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0403
    opname: ClassVar[str] = "sysctl"
    phase: ClassVar[Phase] = Phase.NS
    key: STR
    value: STR


class RootPropagation(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0501
    opname: ClassVar[str] = "root_propagation"
    phase: ClassVar[Phase] = Phase.MOUNT
    flags: U64


class Rootfs(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0502
    opname: ClassVar[str] = "rootfs"
    phase: ClassVar[Phase] = Phase.MOUNT
    tree: FD
    source: STR
    flags: U64


class MountNew(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0503
    opname: ClassVar[str] = "mount_new"
    phase: ClassVar[Phase] = Phase.MOUNT
    fstype: STR
    source: STR
    target: STR
    attrs: U64
    options: STRS
    flags: U32


class MountBind(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0504
    opname: ClassVar[str] = "mount_bind"
    phase: ClassVar[Phase] = Phase.MOUNT
    tree: FD
    source: STR
    target: STR
    flags: U32
    attr_set: U64
    attr_clr: U64
    propagation: U64
    userns: FD


class MountMoveAttrs(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0505
    opname: ClassVar[str] = "mount_move_attrs"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR
    attr_set: U64
    attr_clr: U64
    propagation: U64
    recursive: U32


class Mkdir(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0506
    opname: ClassVar[str] = "mkdir"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR
    mode: U32


class Mknod(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0507
    opname: ClassVar[str] = "mknod"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR
    mode: U32
    major: U32
    minor: U32
    uid: U32
    gid: U32


class Symlink(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0508
    opname: ClassVar[str] = "symlink"
    phase: ClassVar[Phase] = Phase.MOUNT
    linktext: STR
    target: STR


class Console(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0509
    opname: ClassVar[str] = "console"
    phase: ClassVar[Phase] = Phase.MOUNT
    unused: U32 = 0


class Mask(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050A
    opname: ClassVar[str] = "mask"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR


class Readonly(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050B
    opname: ClassVar[str] = "readonly"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR


class Terminal(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050C
    opname: ClassVar[str] = "terminal"
    phase: ClassVar[Phase] = Phase.MOUNT
    rows: U32
    cols: U32


class WriteFile(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050D
    opname: ClassVar[str] = "write_file"
    phase: ClassVar[Phase] = Phase.MOUNT
    target: STR
    mode: U32
    data: BYTES


class HostPropagation(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050E
    opname: ClassVar[str] = "host_propagation"
    phase: ClassVar[Phase] = Phase.MOUNT
    path: STR
    flags: U64


class Place(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x050F
    opname: ClassVar[str] = "place"
    phase: ClassVar[Phase] = Phase.MOUNT
    tree: FD
    path: STR


class PivotRoot(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0601
    opname: ClassVar[str] = "pivot_root"
    phase: ClassVar[Phase] = Phase.ROOT
    unused: U32 = 0


class RootfsAttrs(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0602
    opname: ClassVar[str] = "rootfs_attrs"
    phase: ClassVar[Phase] = Phase.ROOT
    attr_set: U64
    attr_clr: U64
    propagation: U64


class ChrootFd(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0603
    opname: ClassVar[str] = "chroot_fd"
    phase: ClassVar[Phase] = Phase.ROOT
    unused: U32 = 0


class Stdio(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0701
    opname: ClassVar[str] = "stdio"
    phase: ClassVar[Phase] = Phase.IDENTITY
    in_: FD
    out: FD
    err: FD


class StdioOwner(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0702
    opname: ClassVar[str] = "stdio_owner"
    phase: ClassVar[Phase] = Phase.IDENTITY
    uid: U32
    gid: U32


class Umask(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0703
    opname: ClassVar[str] = "umask"
    phase: ClassVar[Phase] = Phase.IDENTITY
    mask: U32


class Personality(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0704
    opname: ClassVar[str] = "personality"
    phase: ClassVar[Phase] = Phase.IDENTITY
    persona: U64


class IoPriority(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0705
    opname: ClassVar[str] = "io_priority"
    phase: ClassVar[Phase] = Phase.IDENTITY
    priority: U32


class Scheduler(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0706
    opname: ClassVar[str] = "scheduler"
    phase: ClassVar[Phase] = Phase.IDENTITY
    policy: U32
    nice: I64
    priority: U32
    flags: U64
    runtime: U64
    deadline: U64
    period: U64


class BoundingSet(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0707
    opname: ClassVar[str] = "bounding_set"
    phase: ClassVar[Phase] = Phase.IDENTITY
    keep: U64


class Groups(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0708
    opname: ClassVar[str] = "groups"
    phase: ClassVar[Phase] = Phase.IDENTITY
    gids: U32S


class User(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0709
    opname: ClassVar[str] = "user"
    phase: ClassVar[Phase] = Phase.IDENTITY
    uid: U32
    gid: U32


class Capabilities(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x070A
    opname: ClassVar[str] = "capabilities"
    phase: ClassVar[Phase] = Phase.IDENTITY
    effective: U64
    permitted: U64
    inheritable: U64
    ambient: U64


class Chdir(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x070B
    opname: ClassVar[str] = "chdir"
    phase: ClassVar[Phase] = Phase.IDENTITY
    path: STR
    create: U32


class LsmLabel(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x070C
    opname: ClassVar[str] = "lsm_label"
    phase: ClassVar[Phase] = Phase.IDENTITY
    lsm: STR
    label: STR


class NoNewPrivs(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x070D
    opname: ClassVar[str] = "no_new_privs"
    phase: ClassVar[Phase] = Phase.IDENTITY
    unused: U32 = 0


class Gate(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0801
    opname: ClassVar[str] = "gate"
    phase: ClassVar[Phase] = Phase.GATE
    unused: U32 = 0


class Seccomp(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0901
    opname: ClassVar[str] = "seccomp"
    phase: ClassVar[Phase] = Phase.FINAL
    filter: BYTES
    flags: U32


class FinalCaps(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0902
    opname: ClassVar[str] = "final_caps"
    phase: ClassVar[Phase] = Phase.FINAL
    effective: U64
    permitted: U64
    inheritable: U64
    ambient: U64


class Exec(Op, frozen=True, kw_only=True):
    opcode: ClassVar[int] = 0x0903
    opname: ClassVar[str] = "exec"
    phase: ClassVar[Phase] = Phase.FINAL
    path: STR
    argv: STRS
    envp: STRS


OPS: Final[tuple[type[Op], ...]] = tuple(Op.__subclasses__())
"""All ops in the order of ops.def."""

BY_CODE: Final[dict[int, type[Op]]] = {op.opcode: op for op in OPS}


def wire_fields(op: type[Op]) -> tuple[tuple[str, str], ...]:
    """Return (wire type, attribute) of each field, in wire order."""
    return tuple((op.__annotations__[field], field) for field in op.__struct_fields__)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An ordered list of operations and the labels of the fds that they name, in the order in which the fds travel."""

    ops: tuple[Op, ...]
    fds: tuple[Fd, ...] = ()

    @property
    def is_pod(self) -> bool:
        """A pod plan holds only POD ops; the monitor runs it on itself."""
        return all(op.phase is Phase.POD for op in self.ops)


_FD_FIELDS: Final = {
    op: tuple(name for kind, name in wire_fields(op) if kind == "FD")
    for op in OPS
    if any(kind == "FD" for kind, _ in wire_fields(op))
}


def make_plan(ops: Iterable[Op]) -> Plan:
    """Collect the fd labels in order of first use and check the order of phases.

    Raises InvalidArgument when a phase goes backwards; the native decoder refuses such a plan as well.
    """
    ordered = tuple(ops)
    labels: dict[Fd, None] = {}
    phase = Phase.POD
    for op in ordered:
        if op.phase < phase:
            raise InvalidArgument(f"plan: op {op.opname} of phase {op.phase.name} after phase {phase.name}")
        phase = op.phase
        for name in _FD_FIELDS.get(type(op), ()):
            label = getattr(op, name)
            if label is not None:
                labels[label] = None
    return Plan(ops=ordered, fds=tuple(labels))
