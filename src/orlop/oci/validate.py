"""What a runtime spec must say before it may become a plan: shapes, paths, names, sysctls; pure, by the text of the spec alone.

Raises InvalidArgument that begins with the property's name, ``mounts[3].destination: ...``. Never looks at the host: what depends on it
(a missing capability, a namespace that cannot be entered) is compile.py's. Test: tests/unit/oci/test_validate.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from orlop.base.errors import InvalidArgument, Unimplemented
from orlop.oci.kernelnames import (
    CAPABILITY_BITS,
    IOPRIO_CLASSES,
    PERSONALITIES,
    RLIM_INFINITY,
    RLIMIT_NUMBERS,
    SCHEDULER_FLAGS,
    SCHEDULER_POLICIES,
)
from orlop.oci.mountoptions import parse_options, parse_propagation
from orlop.specs.runtime import Linux, Mount, Process, RuntimeSpec

NAMESPACES: Final = frozenset({"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"})
DEVICE_TYPES: Final = frozenset({"c", "u", "b", "p"})
HOSTNAME_BYTES: Final = 64
"""__NEW_UTS_LEN."""
PATH_BYTES: Final = 4095

# What lxcfs and the like may lay over a fresh proc; nothing else may hide a part of it (CVE-2019-19921, CVE-2025-52881).
PROC_FILES: Final = frozenset(
    {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
    }
)

_IPC_SYSCTLS: Final = frozenset(
    {
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    }
)
_SYSCTL_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/-]*")
_ENV_NAME: Final = re.compile(r"[^=\0\r\n]+")


def validate_spec(spec: RuntimeSpec) -> None:
    """Check everything that compile_container relies on; the order is that of the document."""
    if not spec.oci_version.startswith("1."):
        raise InvalidArgument(f"ociVersion: {spec.oci_version!r} is not 1.x")
    if spec.process is None:
        raise InvalidArgument("process: missing; a container without a process cannot be started")
    if spec.root is None or not spec.root.path:
        raise InvalidArgument("root.path: missing")
    if spec.linux is None:
        raise InvalidArgument("linux: missing; only Linux containers can be run")
    validate_process(spec.process)
    for index, mount in enumerate(spec.mounts):
        _check_mount(index, mount)
    _check_linux(spec, spec.linux)
    _check_unimplemented(spec, spec.linux)


def validate_process(process: Process) -> None:
    """Check a process object: the container's own or that of an exec."""
    if not process.args:
        raise InvalidArgument("process.args: empty")
    if not process.args[0]:
        raise InvalidArgument("process.args[0]: empty")
    for index, argument in enumerate(process.args):
        if "\0" in argument:
            raise InvalidArgument(f"process.args[{index}]: holds a NUL byte")
    for index, entry in enumerate(process.env):
        if "\0" in entry:
            raise InvalidArgument(f"process.env[{index}]: holds a NUL byte")
        name = entry.partition("=")[0]
        if len(name) == len(entry) or not _ENV_NAME.fullmatch(name):
            raise InvalidArgument(f"process.env[{index}]: {name!r} is not NAME=value")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f"process.cwd: {process.cwd!r} is not an absolute path")
    _check_text("process.cwd", process.cwd)
    if process.capabilities is not None:
        sets = process.capabilities
        for label in ("bounding", "effective", "inheritable", "permitted", "ambient"):
            for name in getattr(sets, label):
                if name not in CAPABILITY_BITS:
                    raise InvalidArgument(f"process.capabilities.{label}: unknown capability {name!r}")
        # The common case costs one comparison.
        if sets.effective is not sets.permitted and not set(sets.effective) <= set(sets.permitted):
            beyond = ", ".join(sorted(set(sets.effective) - set(sets.permitted)))
            raise InvalidArgument(f"process.capabilities.effective: {beyond} not in permitted")
    seen: set[str] = set()
    for index, limit in enumerate(process.rlimits):
        if limit.type not in RLIMIT_NUMBERS:
            raise InvalidArgument(f"process.rlimits[{index}].type: unknown limit {limit.type!r}")
        if limit.type in seen:
            raise InvalidArgument(f"process.rlimits[{index}].type: {limit.type} is given twice")
        seen.add(limit.type)
        if limit.hard > RLIM_INFINITY or limit.soft > limit.hard:
            raise InvalidArgument(f"process.rlimits[{index}].soft: {limit.soft} above hard limit {limit.hard}")
    if process.oom_score_adj is not None and not -1000 <= process.oom_score_adj <= 1000:
        raise InvalidArgument(f"process.oomScoreAdj: {process.oom_score_adj} is not between -1000 and 1000")
    if process.user.umask is not None and process.user.umask > 0o7777:
        raise InvalidArgument(f"process.user.umask: {process.user.umask:#o} is not a mode")
    _check_scheduling(process)


def _check_scheduling(process: Process) -> None:
    io = process.io_priority
    if io is not None:
        if io.class_ not in IOPRIO_CLASSES:
            raise InvalidArgument(f"process.ioPriority.class: unknown class {io.class_!r}")
        if not 0 <= io.priority <= 7:
            raise InvalidArgument(f"process.ioPriority.priority: {io.priority} is not between 0 and 7")
    scheduler = process.scheduler
    if scheduler is None:
        return
    if scheduler.policy not in SCHEDULER_POLICIES:
        raise InvalidArgument(f"process.scheduler.policy: unknown policy {scheduler.policy!r}")
    if not -20 <= scheduler.nice <= 19:
        raise InvalidArgument(f"process.scheduler.nice: {scheduler.nice} is not between -20 and 19")
    if scheduler.priority and scheduler.policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgument(f"process.scheduler.priority: only for SCHED_FIFO and SCHED_RR, not {scheduler.policy}")
    if not 0 <= scheduler.priority <= 99:
        raise InvalidArgument(f"process.scheduler.priority: {scheduler.priority} is not between 0 and 99")
    if scheduler.policy != "SCHED_DEADLINE" and (scheduler.runtime or scheduler.deadline or scheduler.period):
        raise InvalidArgument("process.scheduler.runtime: runtime, deadline and period are for SCHED_DEADLINE only")
    for name in scheduler.flags:
        if name not in SCHEDULER_FLAGS:
            raise InvalidArgument(f"process.scheduler.flags: unknown flag {name!r}")


@lru_cache(maxsize=4096)
def clean_target(path: str) -> str:
    """Return a path inside the container without doubled or trailing slashes and ``.``; raises ValueError with the reason.

    Cached: the paths of a node's containers repeat.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    if "\0" in path or "\n" in path or "\r" in path:
        raise ValueError(f"{path!r} holds a NUL byte or a line break")
    if len(path) > PATH_BYTES:
        raise ValueError(f"longer than {PATH_BYTES} bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{path!r} holds '..'")
    return "/" + "/".join(parts)


def target_of(field: str, path: str) -> str:
    """clean_target with the property's name in the error."""
    try:
        return clean_target(path)
    except ValueError as error:
        raise InvalidArgument(f"{field}: {error}") from None


def _check_text(field: str, text: str) -> None:
    if "\0" in text or "\n" in text or "\r" in text:
        raise InvalidArgument(f"{field}: {text!r} holds a NUL byte or a line break")


def _check_mount(index: int, mount: Mount) -> None:
    target = target_of(f"mounts[{index}].destination", mount.destination)
    options = parse_options(mount.options)
    bind = options.bind or mount.type == "bind"
    if target == "/":
        raise InvalidArgument(f"mounts[{index}].destination: '/' would cover the container's root")
    if target == "/proc" or target.startswith("/proc/"):
        _check_proc_mount(index, target, mount, bind=bind)
    for text in mount.options:
        _check_text(f"mounts[{index}].options", text)
    _check_text(f"mounts[{index}].source", mount.source)
    if bind:
        if not mount.source and not options.remount:
            raise InvalidArgument(f"mounts[{index}].source: missing; a bind mount needs one")
        if options.data:
            raise InvalidArgument(f"mounts[{index}].options: {options.data[0]!r} is not an option of a bind mount")
    elif not mount.type or mount.type == "none":
        if not options.remount:
            raise InvalidArgument(f"mounts[{index}].type: missing")
    elif not mount.type.replace(".", "").replace("_", "").replace("-", "").isalnum():
        raise InvalidArgument(f"mounts[{index}].type: {mount.type!r} is not a filesystem's name")
    if (mount.uid_mappings or mount.gid_mappings or options.idmap) and not bind:
        raise InvalidArgument(f"mounts[{index}].uidMappings: only bind mounts can be id-mapped")
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise InvalidArgument(f"mounts[{index}].uidMappings: uidMappings and gidMappings go together")


def _check_proc_mount(index: int, target: str, mount: Mount, *, bind: bool) -> None:
    if target == "/proc":
        if mount.type == "proc" and not bind:
            return
        if bind and mount.source.rstrip("/") == "/proc":
            return
        raise InvalidArgument(f"mounts[{index}].destination: only proc, or a bind of /proc, may be mounted on /proc")
    if target not in PROC_FILES:
        raise InvalidArgument(f"mounts[{index}].destination: {target} is inside /proc and may not be covered")


def _check_linux(spec: RuntimeSpec, linux: Linux) -> None:
    kinds: dict[str, str] = {}
    for index, namespace in enumerate(linux.namespaces):
        if namespace.type not in NAMESPACES:
            raise InvalidArgument(f"linux.namespaces[{index}].type: unknown namespace {namespace.type!r}")
        if namespace.type in kinds:
            raise InvalidArgument(f"linux.namespaces[{index}].type: {namespace.type} is given twice")
        if namespace.path and not namespace.path.startswith("/"):
            raise InvalidArgument(f"linux.namespaces[{index}].path: {namespace.path!r} is not an absolute path")
        kinds[namespace.type] = namespace.path
    if kinds.get("mount") != "":
        raise InvalidArgument("linux.namespaces: a mount namespace of its own is needed")
    for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if not name:
            continue
        if "uts" not in kinds:
            raise InvalidArgument(f"{field}: needs a UTS namespace")
        _check_text(field, name)
        if len(name.encode("utf-8", "surrogateescape")) > HOSTNAME_BYTES:
            raise InvalidArgument(f"{field}: longer than {HOSTNAME_BYTES} bytes")
    _check_id_maps(linux, kinds)
    if linux.sysctl:
        check_sysctls("linux.sysctl", linux.sysctl, kinds.keys())
    for index, device in enumerate(linux.devices):
        path = target_of(f"linux.devices[{index}].path", device.path)
        if device.type not in DEVICE_TYPES:
            raise InvalidArgument(f"linux.devices[{index}].type: {device.type!r} is not c, u, b or p")
        if path in ("/", "/dev"):
            raise InvalidArgument(f"linux.devices[{index}].path: {path} is a directory")
        if not (0 <= device.major < 2**32 and 0 <= device.minor < 2**32):
            raise InvalidArgument(f"linux.devices[{index}].major: {device.major}:{device.minor} is not a device number")
    for field, paths in (("linux.maskedPaths", linux.masked_paths), ("linux.readonlyPaths", linux.readonly_paths)):
        for path in paths:
            if target_of(field, path) == "/":
                raise InvalidArgument(f"{field}: '/' is the container's root")
    if parse_propagation(linux.rootfs_propagation) is None:
        raise InvalidArgument(f"linux.rootfsPropagation: unknown propagation {linux.rootfs_propagation!r}")
    if linux.personality is not None:
        if linux.personality.domain not in PERSONALITIES:
            raise InvalidArgument(f"linux.personality.domain: {linux.personality.domain!r} is not LINUX or LINUX32")
        if linux.personality.flags:
            raise InvalidArgument("linux.personality.flags: the specification defines none")


def _check_id_maps(linux: Linux, kinds: dict[str, str]) -> None:
    mapped = linux.uid_mappings or linux.gid_mappings
    if kinds.get("user") == "" and not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidArgument("linux.uidMappings: a new user namespace needs uidMappings and gidMappings")
    if mapped and kinds.get("user") != "":
        raise InvalidArgument("linux.uidMappings: need a new user namespace")
    for field, mappings in (("linux.uidMappings", linux.uid_mappings), ("linux.gidMappings", linux.gid_mappings)):
        for index, mapping in enumerate(mappings):
            if mapping.size == 0:
                raise InvalidArgument(f"{field}[{index}].size: 0")
            if max(mapping.container_id, mapping.host_id) + mapping.size > 2**32 - 1:
                raise InvalidArgument(f"{field}[{index}].size: reaches beyond the last id")


def sysctl_path(key: str) -> str:
    """Return a sysctl's path below /proc/sys. The first separator decides, as in sysctl(8): ``net.ipv4.conf.eth0/1.forwarding`` and
    ``net/ipv4/conf/eth0.1/forwarding`` are the same key. Raises ValueError with the reason."""
    if not _SYSCTL_KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a sysctl")
    for char in key:
        if char == "/":
            path = key
            break
        if char == ".":
            path = key.translate(_SWAP)
            break
    else:
        raise ValueError(f"{key!r} is not a sysctl")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{key!r} is not a sysctl")
    return path


_SWAP: Final = str.maketrans("./", "/.")


def check_sysctls(field: str, sysctls: Mapping[str, str], own: Collection[str]) -> dict[str, str]:
    """Return path -> value in order of the keys; only sysctls of the given own namespaces are let through (CVE-2022-0811: a value is one
    line, written to the file of its own key).

    ``own`` names the namespaces that are not the host's.
    """
    paths: dict[str, str] = {}
    for key, value in sysctls.items():
        try:
            path = sysctl_path(key)
        except ValueError as error:
            raise InvalidArgument(f"{field}: {error}") from None
        if "\n" in value or "\r" in value or "\0" in value:
            raise InvalidArgument(f"{field}[{key}]: the value holds a NUL byte or a line break")
        if path in paths:
            raise InvalidArgument(f"{field}[{key}]: the same sysctl is given twice")
        needed = _namespace_of(path)
        if needed is None:
            raise InvalidArgument(f"{field}[{key}]: is not in a namespace; it would change the host")
        if path == "kernel/hostname":
            raise InvalidArgument(f"{field}[{key}]: use hostname")
        if needed not in own:
            raise InvalidArgument(f"{field}[{key}]: needs an own {needed} namespace; it would change the host")
        paths[path] = value
    return paths


def _namespace_of(path: str) -> str | None:
    if path in _IPC_SYSCTLS or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("net/"):
        return "network"
    if path in ("kernel/domainname", "kernel/hostname"):
        return "uts"
    if path.startswith("user/"):
        return "user"
    return None


def _check_unimplemented(spec: RuntimeSpec, linux: Linux) -> None:
    """Properties that change what is run and that no op carries yet: ignoring one silently would be a lie."""
    hooks = spec.hooks
    if hooks is not None and any(
        (
            hooks.prestart,
            hooks.create_runtime,
            hooks.create_container,
            hooks.start_container,
            hooks.poststart,
            hooks.poststop,
        )
    ):
        raise Unimplemented("hooks: not implemented")
    for field, value in (
        ("linux.timeOffsets", linux.time_offsets),
        ("linux.netDevices", linux.net_devices),
        ("linux.intelRdt", linux.intel_rdt),
        ("linux.memoryPolicy", linux.memory_policy),
    ):
        if value:
            raise Unimplemented(f"{field}: not implemented")
