"""What this kernel and these privileges can do, found by trying: each feature is tried once and remembered with its reason.

No version numbers are compared, because distributions backport and sandboxes forbid. A probe leaves nothing behind and starts no
process. It does not say what a missing feature means for users: services/doctor.py does. Test: tests/kernel/kernel/test_probe.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orlop.kernel import mount
from orlop.kernel.bpf import assemble, load_device_program
from orlop.kernel.cgroupfs import Hierarchy, discover_mounted
from orlop.kernel.quotactl import project_quota_state
from orlop.kernel.syscall import syscall

_NR_CLONE3: Final = 435
_CLONE_INTO_CGROUP: Final = 0x200000000
_NO_FD: Final = 0x3FFFFFFF
_CAP_SYS_RESOURCE: Final = 24
_NETLINK_NETFILTER: Final = 12
_NFT_MSG_GETGEN: Final = 10 << 8 | 16
_NLMSG_ERROR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """The outcome of one probe."""

    name: str
    available: bool
    reason: str
    """What was seen; says why when it is not available."""


class Probe:
    """Probes on demand, each at most once. ``scratch`` is a directory on the file system that matters to overlay."""

    __slots__ = ("_known", "_scratch")

    def __init__(self, scratch: str | None = None) -> None:
        self._scratch = scratch
        self._known: dict[str, Feature] = {}

    def feature(self, name: str) -> Feature:
        """Return the outcome for one of FEATURES; KeyError for another name."""
        known = self._known.get(name)
        if known is None:
            try:
                available, reason = FEATURES[name](self._scratch)
            except OSError as error:
                available, reason = False, _said(error)
            known = self._known[name] = Feature(name=name, available=available, reason=reason)
        return known

    def has(self, name: str) -> bool:
        """Say whether a feature is there."""
        return self.feature(name).available

    def all(self) -> tuple[Feature, ...]:
        """Return all outcomes, in the order of FEATURES."""
        return tuple(self.feature(name) for name in FEATURES)


Outcome = tuple[bool, str]


def _said(error: OSError) -> str:
    subject = f": {error.filename}" if error.filename else ""
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{error.strerror} ({name}){subject}"


def _overlay(scratch: str | None) -> Outcome:
    return _try_overlay(scratch, "")


def _overlay_volatile(scratch: str | None) -> Outcome:
    return _try_overlay(scratch, "volatile")


def _overlay_userxattr(scratch: str | None) -> Outcome:
    return _try_overlay(scratch, "userxattr")


def _try_overlay(scratch: str | None, option: str) -> Outcome:
    """Build an overlay without a place, its layers named one by one (lowerdir+), and look into it."""
    base = tempfile.mkdtemp(prefix="orlop-probe-", dir=scratch)
    try:
        for name in ("a", "b", "upper", "work"):
            os.mkdir(f"{base}/{name}")
        context = mount.fsopen("overlay", mount.FSOPEN_CLOEXEC)
        try:
            for name in ("a", "b"):
                mount.fsconfig_set_string(context, "lowerdir+", f"{base}/{name}")
            mount.fsconfig_set_string(context, "upperdir", f"{base}/upper")
            mount.fsconfig_set_string(context, "workdir", f"{base}/work")
            if option:
                mount.fsconfig_set_flag(context, option)
            mount.fsconfig_create(context)
            os.close(mount.fsmount(context, mount.FSMOUNT_CLOEXEC, 0))
        finally:
            os.close(context)
    finally:
        shutil.rmtree(base)
    return (
        True,
        f"detached overlay with two lower layers{' and ' + option if option else ''} in {os.path.dirname(base)}",
    )


def _detached_tmpfs() -> int:
    context = mount.fsopen("tmpfs", mount.FSOPEN_CLOEXEC)
    try:
        mount.fsconfig_create(context)
        return mount.fsmount(context, mount.FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _recursive_read_only(_scratch: str | None) -> Outcome:
    fd = _detached_tmpfs()
    try:
        flags = mount.AT_EMPTY_PATH | mount.AT_RECURSIVE
        mount.mount_setattr(fd, "", flags, attr_set=mount.MOUNT_ATTR_RDONLY)
    finally:
        os.close(fd)
    return True, "mount_setattr makes a whole tree of mounts read-only"


def _mount_options(_scratch: str | None) -> Outcome:
    fd = _detached_tmpfs()
    try:
        attributes = mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
        mount.mount_setattr(fd, "", mount.AT_EMPTY_PATH, attr_set=attributes)
    finally:
        os.close(fd)
    return True, "mount_setattr sets noexec, nosuid and nodev"


def _clone_detached(_scratch: str | None) -> Outcome:
    fd = _detached_tmpfs()
    try:
        flags = mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | mount.AT_EMPTY_PATH
        os.close(mount.open_tree(fd, "", flags))
    finally:
        os.close(fd)
    return True, "open_tree clones mounts that are nowhere"


def _idmapped_mounts(_scratch: str | None) -> Outcome:
    fd = _detached_tmpfs()
    own = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mount.mount_setattr(fd, "", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_IDMAP, userns_fd=own)
    except OSError as error:
        # The mapping of the first user namespace is no mapping and is refused with EPERM, after the flag itself was understood.
        if error.errno == errno.EPERM:
            return True, "mount_setattr knows MOUNT_ATTR_IDMAP (each file system must support it too)"
        raise
    finally:
        os.close(own)
        os.close(fd)
    return True, "mount_setattr maps owners"


def _project_quota(scratch: str | None) -> Outcome:
    fd = os.open(scratch or tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        counted, enforced = project_quota_state(fd)
    finally:
        os.close(fd)
    if not (counted and enforced):
        return False, "the file system is not mounted with prjquota"
    return True, "the file system counts and limits by project"


def _clone_into_cgroup(_scratch: str | None) -> Outcome:
    """Ask clone3 for a child in a cgroup whose fd cannot be: EBADF says that the flag is known, and no child is made."""
    args = ctypes.create_string_buffer(struct.pack("<11Q", _CLONE_INTO_CGROUP, 0, 0, 0, 17, 0, 0, 0, 0, 0, _NO_FD))
    try:
        syscall(_NR_CLONE3, ctypes.byref(args), 88)
    except OSError as error:
        if error.errno == errno.EBADF:
            return True, "clone3 knows CLONE_INTO_CGROUP"
        return False, f"clone3: {_said(error)}"
    raise AssertionError("clone3 made a child in a cgroup that is none")


def _cgroup_v2(_scratch: str | None) -> Outcome:
    mounted = discover_mounted()
    v1 = [name for each in mounted if each.version == 1 for name in each.controllers if not name.startswith("name=")]
    unified = [each for each in mounted if each.version == 2]
    if not unified:
        return False, f"no unified hierarchy is mounted; v1 controllers: {', '.join(v1) or 'none'}"
    hierarchy = Hierarchy(unified[0])
    controllers = hierarchy.controllers
    hierarchy.close()
    if v1:
        return False, f"the unified hierarchy controls {', '.join(controllers) or 'nothing'}; v1 has {', '.join(v1)}"
    return True, f"unified hierarchy at {unified[0].mountpoint} with {', '.join(controllers) or 'no controllers'}"


def _cgroup_kill(_scratch: str | None) -> Outcome:
    unified = [each for each in discover_mounted() if each.version == 2]
    if not unified:
        return False, "no unified hierarchy is mounted"
    hierarchy = Hierarchy(unified[0])
    path = f"/orlop-probe-{os.getpid()}"
    try:
        hierarchy.mkdir(path)
        try:
            found = hierarchy.has_file(path, "cgroup.kill")
        finally:
            hierarchy.rmdir(path)
    finally:
        hierarchy.close()
    return found, "cgroup.kill ends a whole tree of processes at once" if found else "cgroups have no cgroup.kill"


def _device_bpf(_scratch: str | None) -> Outcome:
    os.close(load_device_program(assemble((), default=True)))
    return True, "device programs for cgroup v2 can be loaded"


def _pidfd(_scratch: str | None) -> Outcome:
    os.close(os.pidfd_open(os.getpid()))
    return True, "pidfd_open works"


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def _seccomp(_scratch: str | None) -> Outcome:
    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    if actions is None:
        return False, "the kernel has no seccomp filters"
    return True, f"actions: {actions}"


def _apparmor(_scratch: str | None) -> Outcome:
    if _read("/sys/module/apparmor/parameters/enabled") != "Y":
        return False, "the kernel has no AppArmor, or it is off"
    return True, "AppArmor is on"


def _selinux(_scratch: str | None) -> Outcome:
    enforcing = _read("/sys/fs/selinux/enforce")
    if enforcing is None:
        return False, "the kernel has no SELinux, or it is off"
    return True, "SELinux is enforcing" if enforcing == "1" else "SELinux is permissive"


def _user_namespaces(_scratch: str | None) -> Outcome:
    if not os.path.exists("/proc/self/ns/user"):
        return False, "the kernel has no user namespaces"
    limit = _read("/proc/sys/user/max_user_namespaces") or "0"
    if limit == "0":
        return False, "sysctl user.max_user_namespaces is 0"
    return True, f"user.max_user_namespaces is {limit}"


def _nftables(_scratch: str | None) -> Outcome:
    """Ask nf_tables for its generation; a kernel without it answers with an error."""
    header = struct.pack("<IHHII", 20, _NFT_MSG_GETGEN, 1, 1, 0) + struct.pack("<BBH", 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as door:
        door.settimeout(1.0)
        door.send(header)
        answer = door.recv(4096)
    kind, code = struct.unpack_from("<H", answer, 4)[0], struct.unpack_from("<i", answer, 16)[0]
    if kind == _NLMSG_ERROR and code != 0:
        return False, f"nf_tables does not answer: {os.strerror(-code)}"
    return True, "nf_tables answers"


def _sys_resource(_scratch: str | None) -> Outcome:
    status = _read("/proc/self/status") or ""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            if int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1:
                return True, "rlimits and oom_score_adj can be set freely"
            return False, "CAP_SYS_RESOURCE is missing: hard rlimits cannot be raised, oom_score_adj cannot be lowered"
    return False, "/proc/self/status does not tell capabilities"


def _pressure(_scratch: str | None) -> Outcome:
    try:
        text = _read("/proc/pressure/cpu")
    except OSError as error:
        return False, f"pressure stall information is off: {_said(error)}"
    return (
        (True, "pressure stall information is on") if text else (False, "the kernel has no pressure stall information")
    )


FEATURES: Final[dict[str, Callable[[str | None], Outcome]]] = {
    "overlay": _overlay,
    "overlay_volatile": _overlay_volatile,
    "overlay_userxattr": _overlay_userxattr,
    "recursive_read_only": _recursive_read_only,
    "mount_options": _mount_options,
    "clone_detached": _clone_detached,
    "idmapped_mounts": _idmapped_mounts,
    "project_quota": _project_quota,
    "user_namespaces": _user_namespaces,
    "pidfd": _pidfd,
    "cgroup_v2": _cgroup_v2,
    "clone_into_cgroup": _clone_into_cgroup,
    "cgroup_kill": _cgroup_kill,
    "device_bpf": _device_bpf,
    "pressure": _pressure,
    "seccomp": _seccomp,
    "apparmor": _apparmor,
    "selinux": _selinux,
    "nftables": _nftables,
    "sys_resource": _sys_resource,
}
