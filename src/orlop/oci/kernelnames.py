"""The kernel's names for numbers: flags, capabilities, limits, policies; tables that compile.py reads forwards and plan_text.py backwards.

Owns nothing but tables of <linux/...> constants and how a mask is spelled. Never opens anything. Test: tests/unit/oci/test_kernelnames.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

# mount(2)
MS_RDONLY: Final = 1 << 0
MS_BIND: Final = 1 << 12
MS_REC: Final = 1 << 14
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS: Final[dict[str, int]] = {
    "MS_RDONLY": MS_RDONLY,
    "MS_BIND": MS_BIND,
    "MS_REC": MS_REC,
    "MS_UNBINDABLE": MS_UNBINDABLE,
    "MS_PRIVATE": MS_PRIVATE,
    "MS_SLAVE": MS_SLAVE,
    "MS_SHARED": MS_SHARED,
}

# fsmount(2), mount_setattr(2). MOUNT_ATTR_RELATIME is 0: the kernel's default among the three of MOUNT_ATTR__ATIME.
ATTR_RDONLY: Final = 0x1
ATTR_NOSUID: Final = 0x2
ATTR_NODEV: Final = 0x4
ATTR_NOEXEC: Final = 0x8
ATTR_NOATIME: Final = 0x10
ATTR_STRICTATIME: Final = 0x20
ATTR_ATIME: Final = 0x70
ATTR_NODIRATIME: Final = 0x80
ATTR_IDMAP: Final = 0x100000
ATTR_NOSYMFOLLOW: Final = 0x200000
MOUNT_ATTR: Final[dict[str, int]] = {
    "MOUNT_ATTR_RDONLY": ATTR_RDONLY,
    "MOUNT_ATTR_NOSUID": ATTR_NOSUID,
    "MOUNT_ATTR_NODEV": ATTR_NODEV,
    "MOUNT_ATTR_NOEXEC": ATTR_NOEXEC,
    "MOUNT_ATTR__ATIME": ATTR_ATIME,
    "MOUNT_ATTR_NOATIME": ATTR_NOATIME,
    "MOUNT_ATTR_STRICTATIME": ATTR_STRICTATIME,
    "MOUNT_ATTR_NODIRATIME": ATTR_NODIRATIME,
    "MOUNT_ATTR_IDMAP": ATTR_IDMAP,
    "MOUNT_ATTR_NOSYMFOLLOW": ATTR_NOSYMFOLLOW,
}

# clone3(2), unshare(2), setns(2)
CLONE_NEWTIME: Final = 0x80
CLONE_NEWNS: Final = 0x20000
CLONE_NEWCGROUP: Final = 0x2000000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE: Final[dict[str, int]] = {
    "CLONE_NEWUSER": CLONE_NEWUSER,
    "CLONE_NEWNS": CLONE_NEWNS,
    "CLONE_NEWPID": CLONE_NEWPID,
    "CLONE_NEWNET": CLONE_NEWNET,
    "CLONE_NEWIPC": CLONE_NEWIPC,
    "CLONE_NEWUTS": CLONE_NEWUTS,
    "CLONE_NEWCGROUP": CLONE_NEWCGROUP,
    "CLONE_NEWTIME": CLONE_NEWTIME,
}

# <linux/capability.h>: the position is the number.
CAPABILITIES: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
CAPABILITY_BITS: Final[dict[str, int]] = {name: 1 << number for number, name in enumerate(CAPABILITIES)}
CAP_SYS_ADMIN: Final = CAPABILITY_BITS["CAP_SYS_ADMIN"]

# <asm-generic/resource.h>: the position is the number.
RLIMITS: Final[tuple[str, ...]] = (
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
)
RLIMIT_NUMBERS: Final[dict[str, int]] = {name: number for number, name in enumerate(RLIMITS)}
RLIM_INFINITY: Final = 2**64 - 1

# sched_setattr(2)
SCHEDULER_POLICIES: Final[dict[str, int]] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS: Final[dict[str, int]] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

# ioprio_set(2)
IOPRIO_CLASSES: Final[dict[str, int]] = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
IOPRIO_CLASS_SHIFT: Final = 13

# personality(2)
PERSONALITIES: Final[dict[str, int]] = {"LINUX": 0x0000, "LINUX32": 0x0008}

# seccomp(2)
SECCOMP_FLAGS: Final[dict[str, int]] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

# mknod(2)
S_IFIFO: Final = 0o010000
S_IFCHR: Final = 0o020000
S_IFBLK: Final = 0o060000


def spell(mask: int, names: Mapping[str, int]) -> str:
    """Return the names of the bits in a mask joined by ``|``, unnamed bits as one hexadecimal number, ``0`` for none."""
    found = []
    rest = mask
    # Longer masks first, so that MOUNT_ATTR__ATIME is not spelled as two of its members.
    for name, bits in sorted(names.items(), key=lambda item: -item[1].bit_count()):
        if bits and rest & bits == bits:
            found.append((bits, name))
            rest &= ~bits
    words = [name for _, name in sorted(found)]
    if rest:
        words.append(f"{rest:#x}")
    return "|".join(words) or "0"


def spell_capabilities(mask: int, last: int = len(CAPABILITIES) - 1) -> str:
    """Return a capability set in words: ``none``, ``all`` (up to ``last``), or the names without CAP_, or ``all but ...`` when shorter."""
    every = (1 << (last + 1)) - 1
    if mask == 0:
        return "none"
    if mask & every == every and not mask & ~every:
        return "all"
    missing = every & ~mask
    if missing.bit_count() < mask.bit_count() // 2 and not mask & ~every:
        return "all but " + ",".join(_capability_words(missing))
    return ",".join(_capability_words(mask))


def _capability_words(mask: int) -> list[str]:
    words = [name.removeprefix("CAP_") for name, bit in CAPABILITY_BITS.items() if mask & bit]
    unnamed = mask & ~((1 << len(CAPABILITIES)) - 1)
    return [*words, f"{unnamed:#x}"] if unnamed else words


def capability_mask(names: Iterable[str]) -> int:
    """Return the mask of capability names; raises KeyError with the name that is unknown."""
    mask = 0
    for name in names:
        mask |= CAPABILITY_BITS[name]
    return mask
